package e2e

import (
	"fmt"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// big is SQL for a jsonb that is stored out of line: 24 KB that do not compress.
func big(seed int) string {
	return fmt.Sprintf(`(SELECT jsonb_build_object('big', string_agg(md5('%d' || n::text), '')) FROM generate_series(1, 750) n)`, seed)
}

// TestTableShapes has tables with all kinds of replica identity and partitions, each mirrored.
func TestTableShapes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`
		CREATE TABLE parted (tenant uuid, id int, day date, note text, PRIMARY KEY (tenant, id, day)) PARTITION BY RANGE (day);
		CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
		CREATE TABLE parted_2 (note text, day date NOT NULL, id int NOT NULL, tenant uuid NOT NULL) PARTITION BY LIST (id);
		CREATE TABLE parted_2a PARTITION OF parted_2 DEFAULT;
		ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
		CREATE TABLE whole (tenant uuid NOT NULL, id int NOT NULL, note text, doc jsonb);
		CREATE UNIQUE INDEX ON whole (tenant, id);
		ALTER TABLE whole REPLICA IDENTITY FULL;
		CREATE TABLE wholekey (tenant uuid NOT NULL, id int PRIMARY KEY, note text, doc jsonb);
		ALTER TABLE wholekey REPLICA IDENTITY FULL;
		CREATE TABLE indexed (serial bigserial PRIMARY KEY, tenant uuid NOT NULL, id int NOT NULL, note text);
		CREATE UNIQUE INDEX indexed_key ON indexed (tenant, id);
		ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_key;
		CREATE SCHEMA "Other Schema";
		CREATE TABLE "Other Schema"."select" (tenant uuid, id int GENERATED ALWAYS AS IDENTITY, note text,
			upper_note text GENERATED ALWAYS AS (upper(note)) STORED, PRIMARY KEY (tenant, id))`)
	w.table("parted", 2, "id int", "day date", "note text")
	w.table("whole", 1, "id int", "note text", "doc jsonb")
	w.table("wholekey", 1, "id int", "note text", "doc jsonb")
	w.table("indexed", 1, "id int", "note text")
	w.cfg.Source.Tables = append(w.cfg.Source.Tables, w.cfg.Source.Tables[0])
	other := &w.cfg.Source.Tables[len(w.cfg.Source.Tables)-1]
	other.Name, other.Tenant = "Other Schema.select", "tenant"
	w.mapping("odd", `name: odd
target: odd_copy
schema: CREATE TABLE IF NOT EXISTS "od""d_copy" ("i""d" int PRIMARY KEY, note text)
steps:
  - {from: select, when: delete, sql: 'DELETE FROM "od""d_copy" t USING "select" r WHERE t."i""d" = r.id'}
  - {from: select, when: upsert, sql: 'INSERT INTO "od""d_copy" SELECT r.id, r.note FROM "select" r ON CONFLICT ("i""d") DO UPDATE SET note = excluded.note'}
`)
	names := []string{"parted", "whole", "wholekey", "indexed", "odd"}
	dsn := w.destination(tenant1, "one", names...)
	dsn2 := w.destination(tenant2, "two", names...)
	r := w.start()
	check := func() {
		t.Helper()
		w.synced()
		for tenant, dsn := range map[string]string{tenant1: dsn, tenant2: dsn2} {
			w.mirrored(tenant, dsn, "parted", "id, day, note")
			w.mirrored(tenant, dsn, "whole", "id, note, doc")
			w.mirrored(tenant, dsn, "wholekey", "id, note, doc")
			w.mirrored(tenant, dsn, "indexed", "id, note")
			same(t, dsn, `SELECT "i""d", note FROM "od""d_copy" ORDER BY 1`,
				query(t, w.source, `SELECT id, note FROM "Other Schema"."select" WHERE tenant = $1 ORDER BY 1`, tenant)...)
		}
	}
	run := func(sql string) {
		t.Helper()
		w.exec(strings.NewReplacer(":1", "'"+tenant1+"'", ":2", "'"+tenant2+"'").Replace(sql))
	}
	run(`INSERT INTO parted SELECT x, n, '2020-06-01'::date + n, 'note' FROM generate_series(1, 300, 50) n, unnest(ARRAY[:1, :2]::uuid[]) x;
		INSERT INTO whole SELECT :1, n, 'note', '{}' FROM generate_series(1, 5) n;
		INSERT INTO wholekey SELECT :1, n, 'note', '{}' FROM generate_series(1, 5) n;
		INSERT INTO indexed (tenant, id, note) SELECT :2, n, 'note' FROM generate_series(1, 5) n;
		INSERT INTO "Other Schema"."select" (tenant, note) VALUES (:1, 'a'), (:1, NULL), (:2, 'c')`)
	check()
	if n := query(t, dsn, `SELECT count(*) FROM parted_copy WHERE day < '2021-01-01'`); n[0] == `"0"` || n[0] == `"6"` {
		t.Errorf("the rows are not in both partitions: %v", n)
	}
	// Updates of other columns, of the key, over partitions, to another tenant; several in one transaction.
	run(`UPDATE parted SET note = 'changed' WHERE id > 100`)
	run(`UPDATE parted SET day = day + 365 WHERE day < '2021-01-01' AND day + 365 < '2022-01-01'`) // row movement: a delete and an insert
	run(`UPDATE parted SET id = id + 1000 WHERE tenant = :1`)
	run(`UPDATE whole SET note = 'changed' WHERE id = 2; UPDATE whole SET id = id + 10 WHERE id < 3; DELETE FROM whole WHERE id = 4; UPDATE whole SET tenant = :2 WHERE id = 5`)
	run(`UPDATE wholekey SET id = -id; UPDATE wholekey SET note = NULL WHERE id = -3; DELETE FROM wholekey WHERE id = -2; UPDATE wholekey SET tenant = :2 WHERE id = -1`)
	run(`UPDATE indexed SET serial = serial + 100; UPDATE indexed SET id = 6 - id + 10; UPDATE indexed SET tenant = :1 WHERE id = 12; DELETE FROM indexed WHERE id = 13`)
	run(`UPDATE "Other Schema"."select" SET note = note || '!'; DELETE FROM "Other Schema"."select" WHERE note IS NULL`)
	check()
	// Keys that change places, within one transaction.
	run(`BEGIN; UPDATE wholekey SET id = 1000 WHERE id = -4; UPDATE wholekey SET id = -4 WHERE id = -3; UPDATE wholekey SET id = -3 WHERE id = 1000; COMMIT`)
	run(`BEGIN; UPDATE indexed SET id = 1000 WHERE id = 14; UPDATE indexed SET id = 14 WHERE id = 15; UPDATE indexed SET id = 15 WHERE id = 1000; DELETE FROM indexed WHERE id = 14; COMMIT`)
	check()

	// Values in TOAST that an UPDATE leaves alone: with the old row, from the batch, and from the primary.
	run(`UPDATE whole SET doc = ` + big(1) + `; UPDATE wholekey SET doc = ` + big(2))
	check()
	run(`UPDATE whole SET note = 'toast kept'; UPDATE wholekey SET note = 'toast kept'`)
	run(`UPDATE wholekey SET id = id + 500; UPDATE whole SET id = id + 500`)
	check()
	if s := r.destination("one").Status(); s.Attempts != 0 || s.State != ledger.Streaming {
		t.Errorf("the status is %+v", s)
	}
}

func TestUnchangedToast(t *testing.T) {
	t.Parallel()
	for _, rows := range []int{10000, 1} { // 1: each transaction is a batch, and larger ones go in rounds
		t.Run(fmt.Sprintf("batch_rows=%d", rows), func(t *testing.T) { testUnchangedToast(t, rows) })
	}
}

func testUnchangedToast(t *testing.T, batchRows int) {
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.BatchRows = batchRows
	gate := w.gated(tenant1, "backlog")
	live := w.destination(tenant1, "live")
	two := w.destination(tenant2, "two")
	r := w.start()
	n := 0
	tx := func(sql string) { t.Helper(); n++; w.exec(sql) }
	set := func(id int, what string) string {
		return fmt.Sprintf(`UPDATE "ProjectUser" SET %s WHERE "projectUserId" = '00000000-0000-4000-8000-%012d'; `, what, id)
	}
	insert := func(id int) string {
		return fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "serverMetadata", "clientMetadata") VALUES ('%s', '00000000-0000-4000-8000-%012d', %s, %s); `,
			tenant1, id, big(id), big(id+1000))
	}
	tx(insert(1) + set(1, `"displayName" = 'in one transaction'`))
	tx(insert(2))
	tx(set(2, `"displayName" = 'in another one'`))
	tx(insert(3))
	tx(set(3, `"serverMetadata" = '{"small": 1}'`)) // one of two
	tx(insert(4))
	tx(set(4, `"projectUserId" = '00000000-0000-4000-8000-000000000044'`) + set(44, `"displayName" = 'another key'`))
	tx(insert(5))
	tx(set(5, `"displayName" = 'and gone'`) + `DELETE FROM "ProjectUser" WHERE "projectUserId" = '00000000-0000-4000-8000-000000000005'`)
	gate.open(r, r.destination("backlog"), n)
	check := func() {
		t.Helper()
		w.synced()
		w.equal(tenant1, gate.dsn)
		w.equal(tenant1, live)
	}
	check()
	if stored := query(t, w.source, `SELECT "displayName" FROM "ProjectUser" WHERE pg_column_size("clientMetadata") < 10000`); len(stored) > 0 {
		t.Fatalf("not in TOAST: %v", stored)
	}

	// The insert is long applied: the value comes from the primary.
	tx(set(1, `"displayName" = 'much later'`))
	check()
	tx(`UPDATE "ProjectUser" SET "isAnonymous" = NOT "isAnonymous"`)
	check()
	tx(set(2, `"projectUserId" = '00000000-0000-4000-8000-000000000022'`))
	check()
	tx(`BEGIN; ` + set(3, `"serverMetadata" = `+big(77)) + set(3, `"displayName" = 'set and left alone'`) + `COMMIT`)
	check()
	// A row that moves to another tenant brings along what its new database never had.
	tx(`UPDATE "ProjectUser" SET "tenancyId" = '` + tenant2 + `' WHERE "displayName" = 'much later'`)
	check()
	w.equal(tenant2, two)
	same(t, two, `SELECT display_name, length(server_metadata::text) > 20000 FROM users`, `"much later"|"t"`)

	// The row is gone from the primary when its update is applied: no row with NULL, and its delete arrives.
	gate.Refuse(true)
	gate.Cut()
	queued := r.destination("backlog").Status().Queued
	tx(set(3, `"displayName" = 'last words'`))
	tx(`DELETE FROM "ProjectUser" WHERE "projectUserId" = '00000000-0000-4000-8000-000000000003'`)
	tx(set(44, `"displayName" = 'still here'`))
	gate.open(r, r.destination("backlog"), queued+3)
	check()
	same(t, gate.dsn, `SELECT display_name FROM users ORDER BY 1`, `"in another one"`, `"still here"`)
}

// TestToastFromTheBatch: an insert, an update that leaves the value alone, and a delete in a later batch. The primary has the
// row no more when the first batch is applied, so its value can only come from the batch itself.
func TestToastFromTheBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.BatchRows = 2
	gate := w.gated(tenant1, "backlog")
	journaled(t, gate.dsn)
	r := w.start()
	w.exec(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "serverMetadata") VALUES ('` + tenant1 + `', '` + tenant1 + `', ` + big(1) + `);
		UPDATE "ProjectUser" SET "displayName" = 'with its value'`)
	w.exec(`DELETE FROM "ProjectUser"`)
	gate.open(r, r.destination("backlog"), 2)
	w.synced()
	same(t, gate.dsn, `SELECT op, row->>'display_name', length(row->>'server_metadata') > 20000 FROM journal ORDER BY n`,
		`"INSERT"|"with its value"|"t"`, `"DELETE"|"with its value"|"t"`)
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE parent (tenant uuid, id int, note text, PRIMARY KEY (tenant, id));
		CREATE TABLE child (tenant uuid, id int, parent int, PRIMARY KEY (tenant, id), FOREIGN KEY (tenant, parent) REFERENCES parent (tenant, id))`)
	w.table("parent", 1, "id int", "note text")
	w.table("child", 1, "id int", "parent int")
	dsn := w.destination(tenant1, "main", "contact_channels", "users", "parent", "child")
	w.cfg.Sink.BatchRows = 100 // keys are read in rounds
	r := w.start()
	run := func(sql string) { t.Helper(); w.exec(strings.ReplaceAll(sql, ":1", "'"+tenant1+"'")) }
	check := func() {
		t.Helper()
		w.synced()
		w.equal(tenant1, dsn)
		w.mirrored(tenant1, dsn, "parent", "id, note")
		w.mirrored(tenant1, dsn, "child", "id, parent")
	}
	fill := `INSERT INTO parent SELECT :1, n, 'note' FROM generate_series(1, 350) n; INSERT INTO child SELECT :1, n, n FROM generate_series(1, 350) n; `
	for i, s := range scenarios[:6] {
		steps, _ := s.of(7, i)
		w.exec(strings.Join(steps, ";"))
	}
	run(fill)
	check()
	run(`TRUNCATE child`)
	check()
	same(t, dsn, `SELECT (SELECT count(*) FROM parent_copy), (SELECT count(*) FROM child_copy)`, `"350"|"0"`)
	if users := query(t, dsn, `SELECT 1 FROM users`); len(users) < 3 {
		t.Errorf("rows of another table went: %d users are left", len(users))
	}
	run(`INSERT INTO child VALUES (:1, 1, 1)`)
	run(`TRUNCATE parent CASCADE`)
	run(`INSERT INTO parent VALUES (:1, 7, 'after')`)
	check()
	// In the middle of a transaction: what was before is gone, what is after stays.
	run(`BEGIN; INSERT INTO parent VALUES (:1, 8, 'before'); TRUNCATE parent, child; ` + fill + `TRUNCATE child; INSERT INTO child VALUES (:1, 3, 9); COMMIT`)
	check()
	run(`BEGIN; TRUNCATE parent CASCADE; ROLLBACK`)
	run(`UPDATE parent SET note = 'all still there'`)
	check()
	// CASCADE from a user to the channels.
	run(`TRUNCATE "ProjectUser" CASCADE`)
	check()
	same(t, dsn, `SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM contact_channels), (SELECT count(*) FROM parent_copy)`, `"0"|"0"|"350"`)
	w.user(tenant1, tenant1, "after")
	check()
	r.caughtUp()
	if s := r.destination("main").Status(); s.State != ledger.Streaming || s.Err != nil {
		t.Errorf("the status is %+v", s)
	}
}

// The external database keeps keys in other types, whose text the primary's type would not take: the TRUNCATE finds them all the same.
func TestTruncateOfKeysInOtherTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id bigint, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, 'note' FROM generate_series(1, 300) n`, tenant1)
	w.table("item", 1, "id numeric(10,2)", "note text")
	dsn := w.destination(tenant1, "main", "item")
	w.cfg.Sink.BatchRows = 100
	r := w.start()
	r.caughtUp()
	w.exec(`BEGIN; TRUNCATE item; INSERT INTO item VALUES ('` + tenant1 + `', 7, 'after'); COMMIT`)
	w.synced()
	same(t, dsn, `SELECT id, note FROM item_copy`, `"7.00"|"after"`)
	if s := r.destination("main").Status(); s.State != ledger.Streaming || s.Failures > 0 {
		t.Errorf("the status is %+v", s)
	}
}

func TestAlterTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, extra text, PRIMARY KEY (tenant, id));
		CREATE TABLE whole (tenant uuid, id int PRIMARY KEY, extra text, note text, n int);
		ALTER TABLE whole REPLICA IDENTITY FULL`)
	w.table("item", 1, "id int", "note text")
	w.table("whole", 1, "id int", "note text", "n bigint")
	gate := w.gated(tenant1, "backlog", "item", "whole")
	live := w.destination(tenant1, "live", "item", "whole")
	r := w.start()
	n := 0
	tx := func(sql string) { t.Helper(); n++; w.exec(strings.ReplaceAll(sql, ":1", "'"+tenant1+"'")) }
	ddl := func(sql string) { t.Helper(); w.exec(sql) }
	tx(`INSERT INTO item VALUES (:1, 1, 'one', 'x'), (:1, 2, 'two', 'x'); INSERT INTO whole VALUES (:1, 1, 'x', 'one', 1), (:1, 2, 'x', 'two', 2)`)
	ddl(`ALTER TABLE item ADD COLUMN added int DEFAULT 7`)
	tx(`INSERT INTO item VALUES (:1, 3, 'three', 'x', 8)`)
	ddl(`ALTER TABLE whole DROP COLUMN extra, ADD COLUMN front text DEFAULT 'front', ALTER COLUMN n TYPE bigint USING n * 10000000000`)
	tx(`UPDATE item SET note = note || '+' WHERE id = 1; UPDATE whole SET n = n + 1`)
	ddl(`ALTER TABLE item DROP COLUMN extra`)
	tx(`UPDATE item SET note = note || '+' WHERE id < 3`)
	tx(`BEGIN; INSERT INTO item VALUES (:1, 4, 'four', 9); INSERT INTO whole (tenant, id, note) VALUES (:1, 4, 'four');
		ALTER TABLE item ADD COLUMN more text DEFAULT clock_timestamp()::text; ALTER TABLE whole ADD COLUMN more text DEFAULT clock_timestamp()::text;
		INSERT INTO item VALUES (:1, 5, 'five', 9); UPDATE item SET note = note || '#' WHERE id = 4; UPDATE whole SET note = note || '#' WHERE id IN (1, 4); COMMIT`)
	ddl(`ALTER TABLE item ALTER COLUMN added TYPE bigint; ALTER TABLE whole DROP COLUMN front; ALTER TABLE whole ALTER COLUMN note TYPE varchar(50)`)
	tx(`DELETE FROM item WHERE id = 2; DELETE FROM whole WHERE id = 2`)
	tx(`UPDATE item SET note = note || '.' WHERE id = 3; UPDATE whole SET note = note || '.'`)
	gate.open(r, r.destination("backlog"), n)
	w.synced()
	for _, dsn := range []string{gate.dsn, live} {
		w.mirrored(tenant1, dsn, "item", "id, note")
		w.mirrored(tenant1, dsn, "whole", "id, note, n")
		same(t, dsn, `SELECT id, note FROM item_copy ORDER BY 1`, `"1"|"one++"`, `"3"|"three."`, `"4"|"four#"`, `"5"|"five"`)
		same(t, dsn, `SELECT id, note, n FROM whole_copy ORDER BY 1`, `"1"|"one#."|"10000000001"`, `"4"|"four#."|NULL`)
	}
	r.caughtUp()
	for _, name := range []string{"backlog", "live"} {
		if s := r.destination(name).Status(); s.State != ledger.Streaming || s.Err != nil {
			t.Errorf("the status of %s is %+v", name, s)
		}
	}
}
