package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/destination"
	"outflow/sink/ledger"
)

// Columns get other types while nothing of the table is streamed: a copy casts to the types of its own moment, and cuts nothing.
func TestCopyWithTheTypesOfItsMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.unwatched = true
	w.exec(`CREATE TABLE item (tenant uuid, id int, a varchar(10), b numeric(6,1), c numeric(10,2), d char(3), e bit(4), f varchar(5)[], g interval(0), PRIMARY KEY (tenant, id));
		ALTER TABLE item REPLICA IDENTITY FULL`) // before Postgres 18 a column of a column list keeps its type
	columns := []string{"id bigint", "a text", "b numeric", "c numeric", "d bpchar", "e text", "f text", "g text"}
	w.table("item", 1, columns...)
	dsn := w.destination(tenant1, "main", "item")
	w.exec(`INSERT INTO item SELECT $1, n, 'short', n / 10.0, n, 'abc', '1010', '{abc}', '1 s' FROM generate_series(1, 200) n`, tenant1)
	r := w.start()
	r.caughtUp()
	w.synced()
	const names = "id, a, b, c, d, e, f, g"
	w.mirrored(tenant1, dsn, "item", names)
	resync := func(what string) {
		t.Helper()
		must(t, r.destination("main").Resync(t.Context(), "the test asked for it"))
		r.caughtUp()
		w.mirrored(tenant1, dsn, "item", names)
		if t.Failed() {
			t.Fatal(what)
		}
	}
	w.exec(`ALTER TABLE item ALTER a TYPE varchar(40), ALTER b TYPE numeric(12,4), ALTER c TYPE numeric(10,4) USING c / 3, ALTER d TYPE char(9),
		ALTER e TYPE bit(8) USING e || '1111', ALTER f TYPE varchar(30)[], ALTER g TYPE interval(6)`)
	resync("other modifiers")
	w.exec(`ALTER TABLE item DROP COLUMN g, ADD COLUMN h int; ALTER TABLE item ADD COLUMN g text DEFAULT 'made anew'`)
	resync("a column that was made anew")
	w.exec(`ALTER TABLE item ALTER id TYPE bigint USING id + 5000000000, ALTER b TYPE text USING 'b ' || b`)
	if text := becomes(t, resynced(t, r), ledger.Halted); !strings.Contains(text, "numeric") {
		t.Errorf("a text for a numeric: %s", text)
	}
	w.exec(`ALTER TABLE item ALTER b TYPE numeric USING substr(b, 3)::numeric`)
	resync("another type of the key")
	w.exec(`ALTER TABLE item RENAME TO item_for_a_moment`)
	resynced(t, r)
	r.caughtUp()
	w.exec(`ALTER TABLE item_for_a_moment RENAME TO item`)
	w.mirrored(tenant1, dsn, "item", names)
	w.exec(`UPDATE item SET a = 'changed, and longer than it was', f = '{"longer than five"}' WHERE id % 2 = 0`)
	w.synced()
	w.mirrored(tenant1, dsn, "item", names)
}

func resynced(t *testing.T, r *running) *destination.Destination {
	t.Helper()
	d := r.destination("main")
	must(t, d.Resync(t.Context(), "the test asked for it"))
	return d
}

// A table is altered, and so written again, between the keys of a sweep and the snapshot: an older snapshot finds it empty.
func TestTableWrittenAnewDuringASweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.unwatched = true
	w.existing(300, tenant1)
	w.exec(`ALTER TABLE "ContactChannel" REPLICA IDENTITY FULL; ALTER TABLE "ProjectUser" REPLICA IDENTITY FULL`)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	d := resynced(t, r)
	for n := 0; d.Status().State != ledger.Streaming || n < 5; n++ {
		w.exec(fmt.Sprintf(`ALTER TABLE "ContactChannel" ALTER "value" TYPE varchar(%d)`, 100+n%2))
		w.exec(fmt.Sprintf(`ALTER TABLE "ProjectUser" ALTER "displayName" TYPE varchar(%d) USING "displayName"`, 90+n%2))
	}
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
}

// A mapping whose keys are not the primary's would have everything removed that was just copied.
func TestSweepThatWouldRemoveTheCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.unwatched = true
	w.exec(`CREATE TABLE item (tenant uuid, id text, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, 'Row ' || n, 'x' FROM generate_series(1, 300) n`, tenant1)
	w.cfg.Source.Tables = append(w.cfg.Source.Tables, w.cfg.Source.Tables[0])
	table := &w.cfg.Source.Tables[len(w.cfg.Source.Tables)-1]
	table.Name, table.Tenant = "item", "tenant"
	mapping := mirror("item", 1, "id text", "note text")
	file := w.mapping("item", strings.Replace(mapping, "SELECT r.id,", "SELECT lower(r.id),", 1))
	dsn := w.destination(tenant1, "main", "item")
	r := w.start()
	text := becomes(t, r.destination("main"), ledger.Halted)
	contains(t, text, file+":", "keys", "item", "300 keys that the primary does not have", "id=row 1", "held 0 keys", "remedy: ")
	same(t, dsn, `SELECT count(*) FROM item_copy`, `"300"`)
	r.end()
	must(t, os.WriteFile(file, []byte(mapping), 0o600))
	exec(t, connect(t, dsn), `TRUNCATE item_copy`)
	exec(t, connect(t, dsn), `INSERT INTO item_copy SELECT 'old ' || n, 'gone long ago' FROM generate_series(1, 5000) n`)
	r = w.start()
	r.caughtUp()
	w.mirrored(tenant1, dsn, "item", "id, note")
}

// A trigger that takes 3 ms a row, and a statement may take 150: the copy comes through with small chunks.
func TestCopyIntoASlowTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.unwatched = true
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, 'x' FROM generate_series(1, 700) n`, tenant1)
	w.exec(`INSERT INTO item VALUES ($1, 1000, 'slow')`, tenant1)
	w.table("item", 1, "id int", "note text")
	w.cfg.Sink.StatementTimeout = 150 * time.Millisecond
	dsn := w.destination(tenant1, "main", "item")
	db := connect(t, dsn)
	exec(t, db, `CREATE TABLE item_copy (id int PRIMARY KEY, note text);
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(CASE WHEN NEW.note = 'slow' THEN 0.5 ELSE 0.003 END); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON item_copy FOR EACH ROW EXECUTE FUNCTION slow()`)
	r := w.start()
	waitFor(t, "the row to be named", func() error {
		if err := r.destination("main").Status().Err; err == nil || !strings.Contains(err.Error(), "id=1000") || !strings.Contains(err.Error(), "statement_timeout") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	exec(t, db, `UPDATE pg_proc SET prosrc = replace(prosrc, '0.5', '0.003') WHERE proname = 'slow'`)
	exec(t, db, `TRUNCATE item_copy`)
	resynced(t, r)
	r.caughtUp()
	w.mirrored(tenant1, dsn, "item", "id, note")
}

// Who cancels the read on the primary, as a statement_timeout there would: it is tried again, with fewer rows.
func TestReadsOnThePrimaryThatAreCanceled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.unwatched = true
	w.existing(300, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	lock := connect(t, w.source)
	exec(t, lock, `BEGIN; LOCK TABLE "ProjectUser", "ContactChannel" IN ACCESS EXCLUSIVE MODE`)
	d := resynced(t, r)
	for range 5 {
		waitFor(t, "a read to be canceled", func() error {
			if n := query(t, w.source, `SELECT count(*) FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
				AND wait_event_type = 'Lock' AND application_name = 'outflow') x`)[0]; n == `"0"` {
				return fmt.Errorf("nobody waits: %+v", d.Status())
			}
			return nil
		})
	}
	if s := d.Status(); s.State != ledger.Backfilling {
		t.Errorf("the status is %+v", s)
	}
	exec(t, lock, `ROLLBACK`)
	r.caughtUp()
	w.equal(tenant1, dsn)
}

// A value in TOAST is looked up on the primary by key. Under a tenant's name that is the same to the column's type another tenant has a
// row of that key by now: the look-up takes nothing of it.
func TestLookUpOfAnotherTenantsRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.unwatched = true
	w.exec(`CREATE EXTENSION citext; CREATE TABLE item (tenant citext, id int, note text, doc text, PRIMARY KEY (tenant, id));
		ALTER TABLE item ALTER doc SET STORAGE EXTERNAL`)
	w.cfg.Source.Tombstones, w.cfg.Sink.BatchRows = nil, 1
	w.cfg.Source.Tables = nil
	w.table("item", 1, "id int", "note text", "doc text")
	gate := w.gated("Foo", "gated", "item")
	other := w.destination("foo", "other", "item")
	exec(t, connect(t, gate.dsn), `CREATE TABLE item_copy (id int PRIMARY KEY, note text, doc text)`)
	journal(t, gate.dsn, "item_copy")
	r := w.start()
	w.exec(`INSERT INTO item VALUES ('Foo', 1, 'x', repeat('own ', 5000)), ('Foo', 2, 'x', repeat('own ', 5000))`)
	w.exec(`UPDATE item SET note = 'the value stays in TOAST'`)
	w.exec(`UPDATE item SET tenant = 'foo', doc = repeat('secret ', 5000) WHERE id = 1`)
	gate.open(r, r.destination("gated"), 3)
	w.synced()
	same(t, gate.dsn, `SELECT id, note, left(doc, 4) FROM item_copy`, `"2"|"the value stays in TOAST"|"own "`)
	same(t, other, `SELECT id, note, left(doc, 7) FROM item_copy`, `"1"|"the value stays in TOAST"|"secret "`)
	same(t, gate.dsn, `SELECT count(*) FROM journal WHERE row->>'doc' LIKE '%secret%'`, `"0"`)
}
