package main

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink"
)

var keysOfMirror = regexp.MustCompile(`(?s)keys:.*`)

// A TRUNCATE with a mapping that has no keys halts the destination, and neither parking nor a restart nor a resync makes it look well:
// a person empties the table, or adds keys.
func TestWhatACopyCannotHealStaysHalted(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(w *world, dsn string){
		"emptied": func(w *world, dsn string) { exec(w.tb, connect(w.tb, dsn), `TRUNCATE item_copy`) },
		"keys": func(w *world, _ string) {
			w.cfg.Mappings = nil
			w.mapping("item", mirror("item", 1, "id int", "note text"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.cfg.Sink.ParkAfter, w.cfg.Sink.RetryMax = time.Second, 200*time.Millisecond
			w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
			w.exec(`INSERT INTO item SELECT $1, n, 'old' FROM generate_series(1, 100) n`, tenant1)
			w.table("item", 1, "id int", "note text")
			w.cfg.Mappings = nil
			w.mapping("item", keysOfMirror.ReplaceAllString(mirror("item", 1, "id int", "note text"), ""))
			dsn := w.destination(tenant1, "main", "item")
			r := w.start()
			r.caughtUp() // a first fill needs no keys
			stays := func(how string) {
				t.Helper()
				d, was := r.destination("main"), false
				waitFor(t, "it to be halted for some tries after "+how, func() error {
					s := d.Status()
					if was && s.State == sink.Streaming {
						t.Fatalf("after %s it is %s", how, s.State)
					}
					was = was || s.State == sink.Halted
					if s.State != sink.Halted || s.Attempts < 4 {
						return fmt.Errorf("it is %s after %d attempts: %w", s.State, s.Attempts, s.Err)
					}
					contains(t, fmt.Sprint(s.Err), "keys:", `empty "item_copy"`)
					return nil
				})
			}
			w.exec(`TRUNCATE item`)
			w.exec(`INSERT INTO item SELECT $1, n, 'new' FROM generate_series(51, 60) n`, tenant1)
			stays("the TRUNCATE")
			waitFor(t, "it to be parked", func() error {
				if s := r.destination("main").Status(); !s.Detached && s.Queued > 0 {
					return fmt.Errorf("it is %+v", s)
				}
				return nil
			})
			stays("it was parked")
			r.end()
			r = w.start()
			stays("a restart")
			must(t, r.destination("main").Resync(t.Context(), "the test"))
			stays("a resync")
			r.end()
			mend(w, dsn)
			r = w.start()
			waitFor(t, "it to be equal", func() error {
				got := query(t, dsn, `SELECT count(*), count(*) FILTER (WHERE note = 'new') FROM item_copy`)
				if s := r.destination("main").Status(); s.State != sink.Streaming || got[0] != `"10"|"10"` {
					return fmt.Errorf("it is %s with %s: %w", s.State, got, s.Err)
				}
				return nil
			})
			w.synced()
			w.mirrored(tenant1, dsn, "item", "id, note")
		})
	}
}
