package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/verification"
	"outflow/sink/ledger"
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
	n := atEachReading(t, dsn, func() bool { return d.Status().State == ledger.Streaming }, func() {
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
	done := make(chan *verification.Report, 1)
	go func() {
		report, err := compare(context.Background(), w.cfg, pipeline.Selection{}, verification.Options{Repair: true})
		if err != nil {
			t.Error(err)
		}
		done <- report
	}()
	var report *verification.Report
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
				contains(t, becomes(t, d, ledger.Halted), `"2000-01-01 00:00:03"`, `"2000-01-01 00:00:03+00"`, "one key of item", "remedy: delete the first")
				exec(t, connect(t, dsn), `DELETE FROM item_copy WHERE n = -1`)
				resynced(t, r)
			}
			r.caughtUp()
			same(t, dsn, `SELECT format('%s', id), n FROM item_copy ORDER BY n`, query(t, w.source, `SELECT format('%s', id), n FROM item ORDER BY n`)...)
		})
	}
}

// Two mappings fill one target table, and the keys of each give the rows of both: a sweep would remove rows that the primary has. The
// destination halts before, and names both mappings.
func TestKeysThatGiveRowsOfAnotherTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, where string
		halts       bool
	}{{"mixed", "", true}, {"apart", " WHERE origin = '%s'", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.exec(`CREATE TABLE one (tenant uuid, id int, PRIMARY KEY (tenant, id)); CREATE TABLE two (LIKE one INCLUDING ALL)`)
			w.tables("one", "two")
			for _, table := range []string{"one", "two"} {
				where := c.where
				if where != "" {
					where = fmt.Sprintf(where, table)
				}
				w.mapping(table, fmt.Sprintf(`name: %[1]s
target: both_tables
schema: CREATE TABLE IF NOT EXISTS both_tables (id int PRIMARY KEY, origin text)
steps:
  - {from: %[1]s, when: delete, sql: 'DELETE FROM both_tables t USING %[1]s r WHERE t.id = r.id'}
  - {from: %[1]s, when: upsert, sql: 'INSERT INTO both_tables SELECT r.id, ''%[1]s'' FROM %[1]s r ON CONFLICT (id) DO NOTHING'}
keys:
  %[1]s: SELECT id FROM both_tables%[2]s
`, table, where))
			}
			dsn := w.destination(tenant1, "main", "one", "two")
			r := w.start()
			r.caughtUp()
			w.exec(`INSERT INTO one SELECT $1, n FROM generate_series(1, 10) n`, tenant1)
			w.exec(`INSERT INTO two SELECT $1, n FROM generate_series(101, 103) n`, tenant1)
			w.synced()
			r.end()
			exec(t, connect(t, dsn), `INSERT INTO both_tables VALUES (51, 'one'), (52, 'one')`)
			copyAnew(t, dsn)
			r = w.start()
			d := r.destination("main")
			if c.halts {
				contains(t, becomes(t, d, ledger.Halted), "mapping two", "mapping one returns as keys of one", "Nothing was removed", "remedy: make the query return only rows that come from two")
				same(t, dsn, `SELECT count(*) FROM both_tables`, `"15"`)
				return
			}
			copied(t, dsn)
			same(t, dsn, `SELECT origin, count(*) FROM both_tables GROUP BY 1 ORDER BY 1`, `"one"|"10"`, `"two"|"3"`)
		})
	}
}
