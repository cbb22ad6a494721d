package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink"
)

// gateOfKeys is the advisory lock that the keys of [world.gatedKeys] wait for.
const gateOfKeys = 42

// gatedKeys is the default mapping of channels, whose keys wait for an advisory lock after they have taken their snapshot.
func (w *world) gatedKeys() {
	w.tb.Helper()
	text, err := os.ReadFile("../../sql/mappings/contact_channels.yaml")
	must(w.tb, err)
	const keys = `FROM "contact_channels"` + "\n"
	if strings.Count(string(text), keys) != 1 {
		w.tb.Fatalf("the default mapping has changed: %s", text)
	}
	w.mapping("contact_channels", strings.Replace(string(text), keys,
		fmt.Sprintf(`FROM "contact_channels", (SELECT pg_advisory_xact_lock_shared(%d)) AS "gate"`+"\n", gateOfKeys), 1))
}

// atEachReading calls f whenever keys are read, after the reading has taken its snapshot, until over says so.
func atEachReading(t *testing.T, dsn string, over func() bool, f func()) (readings int) {
	t.Helper()
	gate := connect(t, dsn)
	for {
		exec(t, gate, `SELECT pg_advisory_lock($1)`, gateOfKeys)
		ended := false
		waitFor(t, "keys to be read", func() error {
			if ended = over(); ended {
				return nil
			}
			if n := query(t, dsn, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)[0]; n == `"0"` {
				return fmt.Errorf("nobody waits")
			}
			return nil
		})
		if !ended {
			f()
			readings++
		}
		exec(t, gate, `SELECT pg_advisory_unlock($1)`, gateOfKeys)
		if ended {
			return readings
		}
	}
}

// A channel is given to another user between the reading of the external database's keys and the snapshot that they are
// compared with. The delete step names the channel alone, so the delete of the old key would take the row away for good.
func TestKeysThatMoveDuringASweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(40, tenant1)
	w.exec(`DELETE FROM "ContactChannel" WHERE "projectUserId" > $1`, userID(20)) // who may have a primary channel of another one
	w.gatedKeys()
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	d, moved := r.destination("main"), 0
	must(t, d.Resync(t.Context(), "the test asked for it"))
	n := atEachReading(t, dsn, func() bool { return d.Status().State == sink.Streaming }, func() {
		moved++
		w.exec(`UPDATE "ContactChannel" SET "projectUserId" = $2 WHERE "projectUserId" = $1`, userID(moved), userID(moved+20))
	})
	if n == 0 || n > 20 {
		t.Fatalf("the keys were read %d times", n)
	}
	w.synced()
	w.equal(tenant1, dsn)
}

// The same between the keys of what differs and the repair of it.
func TestKeysThatMoveDuringARepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(40, tenant1)
	w.exec(`DELETE FROM "ContactChannel" WHERE "projectUserId" > $1`, userID(20)) // who may have a primary channel of another one
	w.gatedKeys()
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	db := connect(t, dsn)
	exec(t, db, `UPDATE contact_channels SET user_id = gen_random_uuid() WHERE user_id = ANY ($1::text[]::uuid[])`, []string{userID(1), userID(2), userID(3)})
	done := make(chan *verifyReport, 1)
	go func() {
		report, err := verify(context.Background(), w.cfg, verifyOptions{repair: true}, io.Discard)
		if err != nil {
			t.Error(err)
		}
		done <- report
	}()
	var report *verifyReport
	moved := 0
	atEachReading(t, dsn, func() bool {
		select {
		case report = <-done:
			return true
		default:
			return false
		}
	}, func() {
		moved++
		w.exec(`UPDATE "ContactChannel" SET "projectUserId" = $2 WHERE "projectUserId" = $1`, userID(moved), userID(moved+20))
		w.synced()
	})
	if moved == 0 {
		t.Fatal("the keys were never read")
	}
	t.Logf("the keys were read %d times: %+v", moved, report)
	w.synced()
	w.equal(tenant1, dsn)
}

// A text column tells keys apart that are one to the primary. The form that a key had before is not a row of its own: it is removed, or
// where no delete step can do that the destination halts.
func TestSweepOfTwoFormsOfOneKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, source, value, deletes, old string }{
		{"citext", "citext", "'Row ' || n", "t.id = r.id::text", "'ROW ' || n"},
		{"numeric", "numeric", "n", "t.id = r.id::text", "n || '.00'"},
		{"wide", "citext", "'Row ' || n", "lower(t.id) = lower(r.id::text)", "'ROW ' || n"}, // which takes both forms
		{"unnamed", "timestamptz", "'2000-01-01'::timestamptz + n * interval '1 s'", "t.id = r.id::text", "('2000-01-01'::timestamp + n * interval '1 s')::text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.exec(fmt.Sprintf(`CREATE EXTENSION citext; CREATE TABLE item (tenant uuid, id %s, n int, PRIMARY KEY (tenant, id))`, c.source))
			w.exec(fmt.Sprintf(`INSERT INTO item SELECT $1, %s, n FROM generate_series(1, 1500) n`, c.value), tenant1)
			w.tables("item")
			w.mapping("item", fmt.Sprintf(`name: item
target: item_copy
schema: CREATE TABLE IF NOT EXISTS item_copy (id text PRIMARY KEY, n int)
steps:
  - {from: item, when: delete, sql: 'DELETE FROM item_copy t USING item r WHERE %s'}
  - {from: item, when: upsert, sql: 'INSERT INTO item_copy SELECT r.id::text, r.n FROM item r ON CONFLICT (id) DO UPDATE SET n = excluded.n'}
keys:
  item: SELECT id FROM item_copy
`, c.deletes))
			dsn := w.destination(tenant1, "main", "item")
			r := w.start()
			r.caughtUp()
			exec(t, connect(t, dsn), fmt.Sprintf(`SET timezone = 'UTC'; INSERT INTO item_copy SELECT %s, -1 FROM generate_series(3, 1500, 40) n`, c.old))
			d := resynced(t, r)
			if c.name == "unnamed" {
				contains(t, becomes(t, d, sink.Halted), `"2000-01-01 00:00:03"`, `"2000-01-01 00:00:03+00"`, "one key of item", "remedy: delete the first")
				exec(t, connect(t, dsn), `DELETE FROM item_copy WHERE n = -1`)
				resynced(t, r)
			}
			r.caughtUp()
			same(t, dsn, `SELECT format('%s', id), n FROM item_copy ORDER BY n`, query(t, w.source, `SELECT format('%s', id), n FROM item ORDER BY n`)...)
		})
	}
}
