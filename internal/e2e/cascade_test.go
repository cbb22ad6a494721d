package e2e

import (
	"fmt"
	"testing"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// cascading makes two tables of the primary whose copies have a foreign key with ON DELETE CASCADE.
func (w *world) cascading(primary, parent string) (dsn string) {
	w.tb.Helper()
	w.exec(`CREATE TABLE parent (tenant uuid, id int, note text, PRIMARY KEY (tenant, id));
		CREATE TABLE child (tenant uuid, id int, parent int NOT NULL, PRIMARY KEY (tenant, id)` + primary + `)`)
	w.table("child", 1, "id int", "parent int")
	w.table("parent", 1, "id int", "note text")
	dsn = w.destination(tenant1, "main", "child", "parent")
	exec(w.tb, connect(w.tb, dsn), `CREATE TABLE parent_copy (id int PRIMARY KEY, note text `+parent+`);
		CREATE TABLE child_copy (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent_copy ON DELETE CASCADE)`)
	w.exec(`INSERT INTO parent SELECT $1, n, 'm' || n FROM generate_series(1, 300) n`, tenant1)
	w.exec(`INSERT INTO child SELECT $1, n, n FROM generate_series(1, 300) n`, tenant1)
	return dsn
}

// A transaction of many rounds that deletes rows and writes them again takes no rows along that refer to them.
func TestRowsWrittenAgainTakeNoOthersAlong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.BatchRows = 100
	dsn := w.cascading(", FOREIGN KEY (tenant, parent) REFERENCES parent DEFERRABLE INITIALLY DEFERRED", "")
	exec(t, connect(t, dsn), `CREATE TABLE their_own (id int REFERENCES parent_copy ON DELETE CASCADE)`)
	r := w.start()
	r.caughtUp()
	w.familyEqual(dsn)
	exec(t, connect(t, dsn), `INSERT INTO their_own SELECT id FROM parent_copy`)
	for _, sql := range []string{
		`DELETE FROM parent; INSERT INTO parent SELECT '` + tenant1 + `', n, 'again' FROM generate_series(1, 300) n`,
		`UPDATE parent SET id = -id; UPDATE parent SET id = -id, note = 'moved'`,
	} {
		w.exec(`BEGIN; ` + sql + `; COMMIT`)
		w.familyEqual(dsn)
		same(t, dsn, `SELECT count(*) FROM their_own`, `"300"`)
	}
	w.exec(`BEGIN; DELETE FROM child WHERE id > 50; DELETE FROM parent WHERE id > 50; COMMIT`)
	w.familyEqual(dsn)
	same(t, dsn, `SELECT count(*) FROM their_own`, `"50"`)
	if s := r.destination("main").Status(); s.State != ledger.Streaming || s.Failures > 0 {
		t.Errorf("it is %s after %d failures: %v", s.State, s.Failures, s.Err)
	}
}

// A copy of one mapping does not delete rows that another mapping's rows refer to, which it would not bring again.
func TestACopyTakesNoOtherMappingsRowsAlong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.cascading("", "UNIQUE")
	r := w.start()
	r.caughtUp()
	w.familyEqual(dsn)
	r.end()
	w.exec(`UPDATE parent SET note = 'm' || (301 - id) WHERE id IN (1, 2, 299, 300)`)
	exec(t, connect(t, dsn), `UPDATE _stack_sync_metadata SET epoch = 1 WHERE mapping_name = 'parent'`)
	r = w.start()
	d := r.destination("main")
	contains(t, becomes(t, d, ledger.Halted), "parent_copy_note_key", "outflow resync copies all rows")
	w.mirrored(tenant1, dsn, "child", "id, parent")
	must(t, d.Resync(t.Context(), "the test")) // of both
	r.caughtUp()
	copied(t, dsn)
	w.familyEqual(dsn)
}

// A row that moves between two source tables whose mappings write one table is deleted before it is written, whichever comes first in
// the configuration.
func TestTwoMappingsThatWriteOneTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	for _, name := range []string{"one", "two"} {
		w.exec(`CREATE TABLE ` + name + ` (tenant uuid, id int, v text, PRIMARY KEY (tenant, id))`)
		w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: name, Tenant: "tenant"})
		w.addMapping(name, fmt.Sprintf(`name: %[1]s
target: both_tables
schema: CREATE TABLE IF NOT EXISTS both_tables (id int PRIMARY KEY, v text, source text)
steps:
  - {from: %[1]s, when: upsert, sql: "INSERT INTO both_tables (id, v, source) SELECT r.id, r.v, '%[1]s' FROM %[1]s r ON CONFLICT (id) DO UPDATE SET v = excluded.v, source = excluded.source"}
  - {from: %[1]s, when: delete, sql: "DELETE FROM both_tables t USING %[1]s r WHERE t.id = r.id"}
keys: {%[1]s: "SELECT id FROM both_tables WHERE source = '%[1]s'"}
`, name))
	}
	dsn := w.destination(tenant1, "main", "one", "two")
	w.start().caughtUp()
	w.exec(`INSERT INTO one VALUES ($1, 1, 'a')`, tenant1)
	w.exec(`INSERT INTO two VALUES ($1, 2, 'b')`, tenant1)
	w.synced()
	w.exec(`BEGIN; WITH d AS (DELETE FROM one RETURNING *), e AS (DELETE FROM two RETURNING *), f AS (INSERT INTO one SELECT * FROM e)
		INSERT INTO two SELECT * FROM d; COMMIT`)
	w.synced()
	same(t, dsn, `SELECT id, v, source FROM both_tables ORDER BY 1`, `"1"|"a"|"two"`, `"2"|"b"|"one"`)
}
