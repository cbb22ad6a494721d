package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
	"outflow/sink/ledger"
)

// family makes two tables of the primary, children first in the configuration, whose copies have a foreign key between them.
func (w *world) family() (dsn string) {
	w.tb.Helper()
	w.exec(`CREATE TABLE parent (tenant uuid, id int, note text, PRIMARY KEY (tenant, id));
		CREATE TABLE child (tenant uuid, id int, parent int NOT NULL, PRIMARY KEY (tenant, id),
			FOREIGN KEY (tenant, parent) REFERENCES parent ON DELETE CASCADE)`)
	w.table("child", 1, "id int", "parent int")
	w.table("parent", 1, "id int", "note text")
	dsn = w.destination(tenant1, "main", "child", "parent")
	exec(w.tb, connect(w.tb, dsn), `CREATE TABLE parent_copy (id int PRIMARY KEY, note text);
		CREATE TABLE child_copy (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent_copy)`)
	return dsn
}

// copyAnew has a destination whose process does not run copied again by the next one.
func copyAnew(tb testing.TB, dsn string) {
	tb.Helper()
	exec(tb, connect(tb, dsn), `UPDATE _stack_sync_metadata SET epoch = 1`)
}

// copied waits until a destination is copied again.
func copied(tb testing.TB, dsn string) {
	tb.Helper()
	waitFor(tb, "the copy to end", func() error {
		if left := query(tb, dsn, `SELECT mapping_name, epoch, backfill FROM _stack_sync_metadata WHERE epoch = 1 OR backfill IS NOT NULL`); len(left) > 0 {
			return fmt.Errorf("it is at %s", left)
		}
		return nil
	})
}

func (w *world) familyEqual(dsn string) {
	w.tb.Helper()
	w.synced()
	w.mirrored(tenant1, dsn, "parent", "id, note")
	w.mirrored(tenant1, dsn, "child", "id, parent")
}

// Rows that refer to others are copied after them and swept before them, whatever the order of source.tables.
func TestCopiesIntoTablesWithForeignKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.family()
	w.exec(`INSERT INTO parent SELECT $1, n, 'first' FROM generate_series(1, 2000) n`, tenant1)
	w.exec(`INSERT INTO child SELECT $1, n, n FROM generate_series(1, 2000) n`, tenant1)
	r := w.start()
	r.caughtUp()
	w.familyEqual(dsn)

	// While it is away, parents go with their children, children move, and new families come.
	r.end()
	w.exec(`DELETE FROM parent WHERE id <= 500`)
	w.exec(`INSERT INTO parent SELECT $1, n, 'second' FROM generate_series(3001, 3500) n`, tenant1)
	w.exec(`UPDATE child SET parent = parent + 2000 WHERE id BETWEEN 1001 AND 1500; DELETE FROM parent WHERE id BETWEEN 1001 AND 1500`)
	w.exec(`INSERT INTO child SELECT $1, n, n FROM generate_series(3001, 3500) n`, tenant1)
	copyAnew(t, dsn)
	r = w.start()
	copied(t, dsn)
	w.familyEqual(dsn)
	if s := r.destination("main").Status(); s.Failures > 0 {
		t.Errorf("the copy failed %d times: %v", s.Failures, s.Err)
	}
}

// A row of a table that refers to another row of the same table may come before that one.
func TestCopyOfATableThatRefersToItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE node (tenant uuid, id int, up int, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO node SELECT $1, n, nullif(n + 1, 1300) FROM generate_series(1, 1299) n`, tenant1)
	w.table("node", 1, "id int", "up int")
	dsn := w.destination(tenant1, "main", "node")
	exec(t, connect(t, dsn), `CREATE TABLE node_copy (id int PRIMARY KEY, up int REFERENCES node_copy)`)
	r := w.start()
	r.caughtUp()
	w.synced()
	w.mirrored(tenant1, dsn, "node", "id, up")
}

// What was written in one transaction that the source's constraints allow does not halt a destination with foreign keys, whatever
// the order of the changes in the stream.
func TestLiveChangesOfTablesWithForeignKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.family()
	w.cfg.Sink.BatchRows = 200
	r := w.start()
	r.caughtUp()
	for _, sql := range []string{
		`INSERT INTO parent SELECT :t, n, 'x' FROM generate_series(1, 100) n; INSERT INTO child SELECT :t, n, n FROM generate_series(1, 80) n`,
		`DELETE FROM child WHERE id = 1; DELETE FROM parent WHERE id = 1`,
		`DELETE FROM parent WHERE id = 2`, // the cascade comes later in the stream
		`INSERT INTO parent VALUES (:t, 201, 'y'); UPDATE child SET parent = 201 WHERE id = 3; DELETE FROM parent WHERE id = 3`,
		`INSERT INTO parent VALUES (:t, 202, 'y'); UPDATE child SET parent = 202 WHERE id = 4; DELETE FROM parent WHERE id IN (4, 5)`,
		`INSERT INTO parent SELECT :t, n, 'large' FROM generate_series(1001, 1500) n; INSERT INTO child SELECT :t, n, n FROM generate_series(1001, 1500) n`,
		`DELETE FROM parent WHERE id BETWEEN 1001 AND 1100`,
		`TRUNCATE parent, child`,
		`INSERT INTO parent SELECT :t, n, 'again' FROM generate_series(1, 300) n; INSERT INTO child SELECT :t, n, n FROM generate_series(1, 300) n`,
		`TRUNCATE parent CASCADE; INSERT INTO parent SELECT :t, n, 'at once' FROM generate_series(1, 20) n; INSERT INTO child SELECT :t, n, n FROM generate_series(11, 20) n`,
	} {
		w.exec(strings.ReplaceAll("BEGIN; "+sql+"; COMMIT", ":t", "'"+tenant1+"'"))
		w.familyEqual(dsn)
	}
	if s := r.destination("main").Status(); s.State != ledger.Streaming || s.Failures > 0 {
		t.Errorf("it is %s after %d failures: %v", s.State, s.Failures, s.Err)
	}
}

// A unique value that a stale row still holds does not stop a copy: of a row that is gone, and of two rows that swapped theirs.
func TestCopyWithUniqueValuesThatMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, mail text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, 'm' || n FROM generate_series(1, 3000) n`, tenant1)
	w.table("item", 1, "id int", "mail text")
	dsn := w.destination(tenant1, "main", "item")
	exec(t, connect(t, dsn), `CREATE TABLE item_copy (id int PRIMARY KEY, mail text UNIQUE)`)
	r := w.start()
	r.caughtUp()
	r.end()
	w.exec(`DELETE FROM item WHERE id = 20`)
	w.exec(`INSERT INTO item VALUES ($1, -1, 'm20')`, tenant1)
	w.exec(`UPDATE item SET mail = CASE id WHEN 5 THEN 'm2900' WHEN 2900 THEN 'm5' ELSE 'm' || (3 - id) END WHERE id IN (1, 2, 5, 2900)`)
	copyAnew(t, dsn)
	r = w.start()
	copied(t, dsn)
	w.synced()
	w.mirrored(tenant1, dsn, "item", "id, mail")

	// A value that two rows of the primary have is at fault, and the row is named.
	w.exec(`INSERT INTO item VALUES ($1, 4000, 'm7')`, tenant1)
	contains(t, becomes(t, r.destination("main"), ledger.Halted), "id=4000", "item_copy_mail_key", "remedy: ")
	must(t, r.destination("main").Resync(t.Context(), "the test"))
	waitFor(t, "the copy to find it", func() error {
		s := r.destination("main").Status()
		if s.State != ledger.Halted || !strings.Contains(fmt.Sprint(s.Err), "id=4000") || s.Copied == 0 {
			return fmt.Errorf("it is %s: %w", s.State, s.Err)
		}
		return nil
	})
}

// A mapping that folds rows of the source into one row of the target is refused for chunks of many rows, and is not slow for it.
func TestCopyThatFoldsRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, kind int, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, CASE WHEN n <= 190 THEN 0 ELSE n END FROM generate_series(1, 8000) n`, tenant1)
	w.table("item", 1, "id int")
	w.addMapping("kinds", `name: kinds
target: kinds
schema: CREATE TABLE IF NOT EXISTS kinds (kind int PRIMARY KEY, last int)
steps:
  - {from: item, when: upsert, sql: "INSERT INTO kinds (kind, last) SELECT i.kind, i.id FROM item i ON CONFLICT (kind) DO UPDATE SET last = excluded.last"}
`)
	dsn := w.destination(tenant1, "main", "kinds")
	begun := time.Now()
	r := w.start()
	r.caughtUp()
	same(t, dsn, `SELECT count(*), count(*) FILTER (WHERE kind = 0 AND last = 190) FROM kinds`, `"7811"|"1"`)
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("the copy took %s", took)
	}
}

// A copy that no change follows moves last_synced_sequence_id, in the external database, the status and the notes.
func TestACopyMovesTheSequenceID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(50, tenant1)
	dsn := w.destination(tenant1, "main")
	idle := w.destination(tenant2, "main")
	r := w.start()
	r.caughtUp()
	const metadata = `SELECT DISTINCT last_synced_sequence_id FROM _stack_sync_metadata`
	for tenant, dsn := range map[string]string{tenant1: dsn, tenant2: idle} {
		at := query(t, dsn, metadata)
		if len(at) != 1 || at[0] == `"-1"` {
			t.Fatalf("after the copy the metadata is at %s", at)
		}
		for _, d := range r.Router.Destinations() {
			if s := d.Status(); d.Tenant == tenant && quoted(s.SequenceID) != at[0] {
				t.Errorf("the status says %d, the metadata %s", s.SequenceID, at)
			}
		}
		waitFor(t, "the primary to know it", func() error {
			noted := query(t, w.source, `SELECT last_sequence_id FROM outflow.destination_state WHERE slot = $1 AND tenant_id = $2`, w.cfg.Source.Slot, tenant)
			if noted[0] != at[0] {
				return fmt.Errorf("it knows %s, the metadata is at %s", noted, at)
			}
			return nil
		})
	}
	before, writers := query(t, dsn, metadata), query(t, dsn, `SELECT count(DISTINCT xmin::text) FROM users`)
	r.end()
	w.start()
	w.user(tenant1, tenant1, "the first change")
	w.synced()
	w.equal(tenant1, dsn)
	if after := query(t, dsn, metadata); after[0] <= before[0] || len(after) != 1 {
		t.Errorf("the metadata went from %s to %s", before, after)
	}
	same(t, dsn, `SELECT count(DISTINCT xmin::text) FROM users WHERE display_name LIKE 'user %'`, writers...) // it was not copied again
}

// Live changes go on while a target with foreign keys is filled, and filled again over old rows: what refers to rows that are still to
// come, or to rows that are still to be swept, waits for another pass.
func TestLiveChangesDuringCopiesWithForeignKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.family()
	gate, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	w.cfg.Destinations.Static[0].DSN = secret.New(gate.DSN(dsn))
	w.cfg.Sink.ParkAfter = 100 * time.Millisecond
	const families = 6000
	w.exec(`INSERT INTO parent SELECT $1, n, 'first' FROM generate_series(1, $2::int) n`, tenant1, families)
	w.exec(`INSERT INTO child SELECT $1, n, n FROM generate_series(1, $2::int) n`, tenant1, families)
	r := w.start()
	rnd, db := rand.New(rand.NewPCG(seed(t), 9)), connect(t, w.source)
	changes := func(n int) {
		for range n {
			a, b := 1+rnd.IntN(families), 1+rnd.IntN(families)
			sql := []string{
				`INSERT INTO child SELECT :t, nextval('more'), id FROM parent WHERE id = :a`,
				`DELETE FROM parent WHERE id = :a`,
				`INSERT INTO parent VALUES (:t, :a, 'again') ON CONFLICT DO NOTHING; INSERT INTO child VALUES (:t, :b, :a) ON CONFLICT (tenant, id) DO UPDATE SET parent = :a`,
				`UPDATE child SET parent = :a WHERE id = :b AND EXISTS (SELECT FROM parent WHERE id = :a)`,
				`DELETE FROM child WHERE parent = :a; DELETE FROM parent WHERE id = :a`,
			}[rnd.IntN(5)]
			exec(t, db, strings.NewReplacer(":t", "'"+tenant1+"'", ":a", fmt.Sprint(a), ":b", fmt.Sprint(b)).Replace("BEGIN; "+sql+"; COMMIT"))
		}
	}
	w.exec(`CREATE SEQUENCE more START 100000`)
	changes(300)
	r.caughtUp()
	w.familyEqual(dsn)
	for range 3 {
		gate.Refuse(true)
		gate.Cut()
		changes(10)
		becomes(t, r.destination("main"), ledger.Parked)
		changes(1500) // that it never sees
		w.synced()
		gate.Refuse(false)
		waitFor(t, "it to be copied anew", func() error {
			changes(5)
			if s := r.destination("main").Status(); s.State == ledger.Parked || s.State == ledger.Retrying {
				return fmt.Errorf("it is %s: %w", s.State, s.Err)
			}
			return nil
		})
		changes(300)
		r.caughtUp()
		w.familyEqual(dsn)
	}
}

// A transaction with more changes than a batch whose order the external database refuses is not applied from the stream: the rows are
// copied as they are now.
func TestLargeTransactionsInTheWrongOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.family()
	w.cfg.Sink.BatchRows = 100
	w.exec(`INSERT INTO parent SELECT $1, n, 'x' FROM generate_series(1, 1000) n`, tenant1)
	w.exec(`INSERT INTO child SELECT $1, n, n FROM generate_series(1, 1000) n`, tenant1)
	r := w.start()
	r.caughtUp()
	w.exec(`DELETE FROM parent WHERE id <= 500`) // the children follow in the stream, in later rounds
	waitFor(t, "both sides to be equal", func() error {
		if got := query(t, dsn, `SELECT (SELECT count(*) FROM parent_copy), (SELECT count(*) FROM child_copy)`)[0]; got != `"500"|"500"` {
			return fmt.Errorf("the external database has %s rows: %w", got, r.destination("main").Status().Err)
		}
		return nil
	})
	becomes(t, r.destination("main"), ledger.Streaming)
	w.exec(`INSERT INTO parent VALUES ($1, 1, 'and on')`, tenant1)
	w.familyEqual(dsn)
}
