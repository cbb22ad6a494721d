package e2e

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
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
					if was && s.State == ledger.Streaming {
						t.Fatalf("after %s it is %s", how, s.State)
					}
					was = was || s.State == ledger.Halted
					if s.State != ledger.Halted || s.Attempts < 4 {
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
				if s := r.destination("main").Status(); s.State != ledger.Streaming || got[0] != `"10"|"10"` {
					return fmt.Errorf("it is %s with %s: %w", s.State, got, s.Err)
				}
				return nil
			})
			w.synced()
			w.mirrored(tenant1, dsn, "item", "id, note")
		})
	}
}

// The keys of one mapping do not tell which rows another one holds: a TRUNCATE or a resync halts the destination rather than leave rows.
// Steps with when: any that remove rows count like delete steps.
func TestKeysOfAnotherMappingTellNothing(t *testing.T) {
	t.Parallel()
	for name, all := range map[string]string{
		"delete beside keys": `{from: item, when: delete, sql: "DELETE FROM all_copy t USING item r WHERE t.id = r.id"}`,
		"any alone":          `{from: item, when: any, sql: "DELETE FROM all_copy t USING item r WHERE t.id = r.id AND r._op = 'delete'"}`,
		"any with MERGE":     `{from: item, when: any, sql: "MERGE INTO all_copy t USING item r ON t.id = r.id WHEN MATCHED AND r._op = 'delete' THEN DELETE"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			if name == "any with MERGE" && w.version() < 15 {
				t.Skip("MERGE came with Postgres 15")
			}
			w.exec(`CREATE TABLE item (tenant uuid, id int, PRIMARY KEY (tenant, id))`)
			w.exec(`INSERT INTO item SELECT $1, n FROM generate_series(1, 20) n`, tenant1)
			w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: "item", Tenant: "tenant"})
			const text = `name: %[1]s
target: %[1]s_copy
schema: CREATE TABLE IF NOT EXISTS %[1]s_copy (id int PRIMARY KEY)
steps:
  - {from: item, when: upsert, sql: "INSERT INTO %[1]s_copy (id) SELECT r.id FROM item r %[2]s ON CONFLICT (id) DO NOTHING"}
  - %[3]s
%[4]s`
			w.addMapping("all", fmt.Sprintf(text, "all", "", all, ""))
			mappings := []string{"all"}
			if name == "delete beside keys" {
				w.addMapping("some", fmt.Sprintf(text, "some", "WHERE r.id <= 10",
					`{from: item, when: delete, sql: "DELETE FROM some_copy t USING item r WHERE t.id = r.id"}`, "keys: {item: SELECT id FROM some_copy}\n"))
				mappings = append(mappings, "some")
			}
			dsn := w.destination(tenant1, "main", mappings...)
			r := w.start()
			r.caughtUp()
			d := r.destination("main")
			must(t, d.Resync(t.Context(), "the test"))
			contains(t, becomes(t, d, ledger.Halted), "no mapping says in keys", `"all_copy"`)
			exec(t, connect(t, dsn), `TRUNCATE all_copy`)
			r.caughtUp()
			w.synced()
			same(t, dsn, `SELECT count(*) FROM all_copy`, `"20"`)
			w.exec(`DELETE FROM item WHERE id = 1`)
			w.synced()
			w.exec(`TRUNCATE item`)
			contains(t, becomes(t, d, ledger.Halted), "the primary truncated item", `"all_copy"`)
			same(t, dsn, `SELECT count(*) FROM all_copy`, `"19"`)
			exec(t, connect(t, dsn), `TRUNCATE all_copy`)
			w.synced()
			becomes(t, d, ledger.Streaming)
		})
	}
}
