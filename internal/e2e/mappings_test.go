package e2e

import (
	"fmt"
	"strings"
	"testing"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// stepped is a mapping with these steps, each "from when: sql".
func stepped(name, schema string, steps ...string) string {
	text := fmt.Sprintf("name: %s\ntarget: %s\nschema: %q\nsteps:\n", name, name, schema)
	for _, s := range steps {
		head, sql, _ := strings.Cut(s, ": ")
		at := strings.LastIndex(head, " ")
		from, when := head[:at], head[at+1:]
		text += fmt.Sprintf("  - {from: '%s', when: %s, sql: %q}\n", from, when, sql)
	}
	return text
}

// tables sets the only tables of the configuration, which have the tenant column "tenant".
func (w *world) tables(names ...string) {
	w.cfg.Source.Tables, w.cfg.Source.Tombstones = nil, nil
	for _, name := range names {
		w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: name, Tenant: "tenant"})
	}
}

// A column that the SQL reads nowhere stays on the primary, whatever the target's columns are called.
func TestUnreadColumnsStayOnThePrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE k (tenant text, id int, a text, ssn text, PRIMARY KEY (tenant, id)); INSERT INTO k VALUES ('t1', 1, 'x', 'secret')`)
	w.tables("k")
	w.mapping("x", stepped("x", `CREATE TABLE IF NOT EXISTS x (a text PRIMARY KEY, ssn text)`,
		`k upsert: INSERT INTO x ("a", "ssn") SELECT c."a", '***' FROM k c ON CONFLICT (a) DO UPDATE SET ssn = excluded.ssn WHERE x.ssn <> excluded.ssn`))
	dsn := w.destination("t1", "one", "x")
	w.start().caughtUp()
	w.exec(`INSERT INTO k VALUES ('t1', 2, 'y', 'secret')`)
	w.synced()
	same(t, dsn, `SELECT a, ssn FROM x ORDER BY 1`, `"x"|"***"`, `"y"|"***"`)
	if w.version() >= 15 {
		same(t, w.source, `SELECT attnames::text FROM pg_publication_tables WHERE tablename = 'k'`, `"{tenant,id,a}"`)
	}
}

// One table name in two schemas, a name with a dot, and columns that differ by case only.
func TestNamesOfTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE SCHEMA a; CREATE SCHEMA "my schema";
		CREATE TABLE a.items (tenant text, id int, v text, PRIMARY KEY (tenant, id));
		CREATE TABLE "my schema".items (tenant text, id int, v text, PRIMARY KEY (tenant, id));
		CREATE TABLE "my schema"."a.b" (tenant text, id int, a text, "A" text, "Ärger" text, PRIMARY KEY (tenant, id))`)
	w.tables("a.items", "my schema.items", `"my schema"."a.b"`)
	w.mapping("m", stepped("m", `CREATE TABLE IF NOT EXISTS one (id int PRIMARY KEY, v text); CREATE TABLE IF NOT EXISTS two (LIKE one INCLUDING ALL);
			CREATE TABLE IF NOT EXISTS ab (id int PRIMARY KEY, a text, b text, c text)`,
		`a.items delete: DELETE FROM one t USING items r WHERE t.id = r.id`,
		`a.items upsert: INSERT INTO one SELECT r.id, r.v FROM items r ON CONFLICT (id) DO UPDATE SET v = excluded.v`,
		`my schema.items delete: DELETE FROM two t USING items r WHERE t.id = r.id`,
		`my schema.items upsert: INSERT INTO two SELECT r.id, r.v FROM items r ON CONFLICT (id) DO UPDATE SET v = excluded.v`,
		`"a.b" delete: DELETE FROM ab t USING "a.b" r WHERE t.id = r.id`,
		`"a.b" upsert: INSERT INTO ab SELECT r.id, r.a, r."A", r.Ärger FROM "a.b" r ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b, c = excluded.c`)+
		"keys:\n  a.items: SELECT id FROM one\n  my schema.items: SELECT id FROM two\n  '\"a.b\"': SELECT id FROM ab\n")
	dsn := w.destination("t1", "one", "m")
	w.exec(`INSERT INTO a.items VALUES ('t1', 1, 'a'), ('t1', 2, 'a'); INSERT INTO "my schema".items VALUES ('t1', 1, 'b'), ('t1', 3, 'b');
		INSERT INTO "my schema"."a.b" VALUES ('t1', 1, 'a', 'A', 'Ä')`)
	check := func() {
		t.Helper()
		w.synced()
		same(t, dsn, `SELECT * FROM one ORDER BY 1`, query(t, w.source, `SELECT id, v FROM a.items ORDER BY 1`)...)
		same(t, dsn, `SELECT * FROM two ORDER BY 1`, query(t, w.source, `SELECT id, v FROM "my schema".items ORDER BY 1`)...)
		same(t, dsn, `SELECT * FROM ab ORDER BY 1`, query(t, w.source, `SELECT id, a, "A", "Ärger" FROM "my schema"."a.b" ORDER BY 1`)...)
	}
	r := w.start()
	r.caughtUp()
	check()
	w.exec(`UPDATE a.items SET v = 'aa' WHERE id = 1; DELETE FROM "my schema".items WHERE id = 1; UPDATE "my schema"."a.b" SET "A" = 'AA';
		INSERT INTO "my schema"."a.b" VALUES ('t1', 2, 'a', 'A', 'Ä'); DELETE FROM a.items WHERE id = 2`)
	check()
	r.end()
	w.exec(`TRUNCATE a.items`) // a resync of that one alone
	w.start().caughtUp()
	waitFor(t, "the truncation", func() error {
		if got := query(t, dsn, `SELECT id FROM one`); len(got) > 0 {
			return fmt.Errorf("rows are left: %v", got)
		}
		return nil
	})
	check()
}

// What a table of the primary does not allow is refused when the mapping meets it, with its place and the remedy.
func TestMappingsThatATableRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE items (tenant text, id int, v text, _op text, twice int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (tenant, id));
		CREATE SCHEMA b; CREATE TABLE b.items (tenant text, id int, PRIMARY KEY (tenant, id))`)
	w.tables("items")
	w.destination("t1", "one", "m")
	for what, c := range map[string]struct{ step, fault, remedy string }{
		"delete by another column":  {`items delete: DELETE FROM x t USING items c WHERE t.v = c.v`, `m.yaml:5:85: rows to delete are found by the key of public.items (tenant, id), and "v" may have changed`, `remove "v" from the condition`},
		"a value of another column": {`items delete: INSERT INTO x SELECT c.id, c.v FROM items c`, `m.yaml:5:70: a DELETE of public.items brings only the replica identity's columns (tenant, id), so "v" is NULL here`, `ALTER TABLE "public"."items" REPLICA IDENTITY FULL`},
		"a query of other columns":  {`items delete: WITH gone AS (SELECT c.v AS w FROM items c) DELETE FROM x t USING gone g WHERE t.v = g.w`, `found by the key of public.items`, `remove "v" from`},
		"any row by another column": {`items any: DELETE FROM x t USING items c WHERE t.v = c.v AND c._op = 'delete'`, `found by the key of public.items`, `or write one step with when: delete and one with when: upsert`},
		"a merge by another column": {`items any: MERGE INTO x t USING items c JOIN items d ON c.v = d.v ON c.v = t.v WHEN MATCHED AND c._op = 'delete' THEN DELETE`, `m.yaml:5:98: rows to delete are found by the key`, `remove "v" from`},
		"any step":                  {`items any: UPDATE x t SET v = 'old' FROM items c WHERE t.v = c.v`, `"v" is NULL here`, `REPLICA IDENTITY FULL`},
		"without a qualifier":       {`items delete: DELETE FROM x USING items WHERE x.v = v`, `"v" may have changed`, `remove "v" from`},
		"a special name":            {`items upsert: INSERT INTO x SELECT c.id, c._op FROM items c`, `public.items has its own column "_op"`, `rename the column on the primary`},
		"a generated column":        {`items upsert: INSERT INTO x SELECT c.twice, c.v FROM items c`, `column "twice" of public.items is generated`, `write its expression`},
		"a table that is not there": {`b.items upsert: INSERT INTO x SELECT c.id FROM items c`, `mapping "m" reads from "b.items", which is not in source.tables`, ``},
	} {
		w.with(func(*config.Config) {}, func() {
			w.mapping("m", stepped("m", `CREATE TABLE IF NOT EXISTS x (id int, v text)`, c.step))
			w.refused(what, "t1/one", c.fault, c.remedy)
			w.checked(pipeline.Selection{}).says(t, "destinations", primary.Failed, "configuration", c.fault, "")
		})
	}
	w.with(func(*config.Config) {}, func() {
		w.tables("items", "b.items")
		w.mapping("m", stepped("m", "", `items upsert: SELECT c.id FROM items c`))
		w.refused("a name of two tables", `mapping "m" reads from "items", which several schemas of source.tables have: write public.items or b.items`)
	})
	// With the whole old row values can be read, where no copy knows less.
	w.exec(`ALTER TABLE items REPLICA IDENTITY FULL, DROP _op`)
	if w.version() < 18 { // from 18 on a generated column in a whole identity is refused: see TestRefusedTables
		w.cfg.Source.Tables[0].Columns = []string{"twice"}
		w.checked(pipeline.Selection{}).says(t, "primary", primary.Failed, "table public.items", `column "twice" is generated`, "write its expression")
		w.cfg.Source.Tables[0].Columns = nil
	} else {
		w.exec(`ALTER TABLE items DROP twice`)
	}
	steps := stepped("m", `CREATE TABLE IF NOT EXISTS x (id int PRIMARY KEY, v text); CREATE TABLE IF NOT EXISTS gone (id int, v text)`,
		`items delete: DELETE FROM x t USING items c WHERE t.id = c.id`, `items delete: INSERT INTO gone SELECT c.id, c.v FROM items c`,
		`items any: INSERT INTO x SELECT c.id, c.v FROM items c WHERE c._op = 'upsert' ON CONFLICT (id) DO UPDATE SET v = excluded.v`)
	w.with(func(*config.Config) {}, func() {
		w.mapping("keys", stepped("keys", "", `items upsert: SELECT c.id FROM items c`)+"keys:\n  items: SELECT id FROM x\n")
		w.mapping("m", steps)
		w.addDestination("t1", "keys", w.cfg.Destinations.Static[0].DSN.Reveal(), "m", "keys")
		w.refused("a value that a copy does not know", "t1/keys", `a copy finds deleted rows of public.items by keys: and knows only their key columns (tenant, id)`)
	})
	w.mapping("m", steps)
	w.checked(pipeline.Selection{}).says(t, "destination t1/one", primary.Passed, "mapping m", "3 steps", "")
	dsn := w.destination("t1", "two", "m")
	w.exec(`INSERT INTO items VALUES ('t1', 1, 'a'), ('t1', 2, 'b')`)
	w.start().caughtUp()
	w.exec(`UPDATE items SET v = 'aa'; DELETE FROM items WHERE id = 1`)
	w.synced()
	same(t, dsn, `SELECT id, v FROM x`, `"2"|"aa"`)
	same(t, dsn, `SELECT id, v FROM gone`, `"1"|"aa"`)
}

// A DELETE and its tombstone are one delete, with all that either of them knows.
func TestDeleteStepsByATombstonesColumns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE items (tenant text, id int, v text, PRIMARY KEY (tenant, id));
		CREATE TABLE gone (n serial PRIMARY KEY, tenant text, tab text, key jsonb, row jsonb);
		INSERT INTO items SELECT 't1', n, 'v' || n FROM generate_series(1, 6) n`)
	w.tables("items")
	w.cfg.Source.Tombstones = &config.Tombstones{Table: "gone", Tenant: "tenant", TableName: "tab", Key: "key", Row: "row"}
	dsn := w.destination("t1", "one", "m")
	const x = `CREATE TABLE IF NOT EXISTS x (id int PRIMARY KEY, v text); CREATE TABLE IF NOT EXISTS was (id int, v text)`
	const step = `items delete: DELETE FROM x t USING items c WHERE t.id = c.id`
	w.with(func(*config.Config) {}, func() { // a DELETE may come without a tombstone, and a changed key does
		w.mapping("m", stepped("m", x, step+` AND t.v = c.v`))
		w.refused("delete by what only a tombstone has", `"v" may have changed`)
	})
	w.mapping("m", stepped("m", x, step, `items delete: INSERT INTO was SELECT c.id, c.v FROM items c`,
		`items upsert: INSERT INTO x SELECT c.id, c.v FROM items c ON CONFLICT DO NOTHING`))
	w.start().caughtUp()
	const tombstone = `INSERT INTO gone (tenant, tab, key, row) SELECT tenant, 'items', jsonb_build_object('tenant', tenant, 'id', id), to_jsonb(items) FROM items WHERE id IN (%s);`
	const remove = `DELETE FROM items WHERE id IN (%s);`
	w.exec(fmt.Sprintf(tombstone+remove, "1, 2", "1, 2"))
	w.exec(fmt.Sprintf(`CREATE TEMP TABLE old AS SELECT * FROM items WHERE id = 3; `+remove+strings.ReplaceAll(tombstone, "items WHERE id IN (%s)", "old items"), "3"))
	w.exec(`DELETE FROM items WHERE id = 4; UPDATE items SET id = 7 WHERE id = 5`)
	w.synced()
	same(t, dsn, `SELECT id, v FROM x ORDER BY 1`, `"6"|"v6"`, `"7"|"v5"`)
	same(t, dsn, `SELECT id, v FROM was ORDER BY 1`, `"1"|"v1"`, `"2"|"v2"`, `"3"|"v3"`, `"4"|NULL`, `"5"|NULL`)
}

// A function of the whole row that is written as a column is none.
func TestFunctionsInTheGuiseOfColumns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE items (tenant text, id int, v text, PRIMARY KEY (tenant, id))`)
	w.tables("items")
	w.mapping("m", stepped("m", `CREATE TABLE IF NOT EXISTS x (id int, doc jsonb)`, `items upsert: INSERT INTO x SELECT c.id, c.to_jsonb FROM items c`))
	w.destination("t1", "one", "m")
	w.checked(pipeline.Selection{}).says(t, "destination t1/one", primary.Failed, "mapping m", `"to_jsonb" is not a column of public.items`, "")
}

// What only the external server can tell of a mapping is told before a row is copied, with advice that works.
func TestMappingsThatATargetRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE items (tenant text, id int, v text, PRIMARY KEY (tenant, id)); INSERT INTO items VALUES ('t1', 1, 'x')`)
	w.tables("items")
	const upsert = `items upsert: INSERT INTO x (id) SELECT c.id FROM items c ON CONFLICT DO NOTHING`
	const x = `CREATE TABLE IF NOT EXISTS x (id int PRIMARY KEY, n int GENERATED ALWAYS AS (id + 1) STORED)`
	faults := map[string][]string{
		"keys":       {"keys_file.yaml:", `column k.id does not exist`, "make the query return the columns of the key of items"},
		"generated":  {"428C9", "remove the column from the step: the external database computes it"},
		"procedural": {"25001", "cannot"},
	}
	w.mapping("keys_file", stepped("keys", x, upsert)+"keys:\n  items: SELECT n FROM x\n")
	w.mapping("generated", stepped("generated", x, `items upsert: INSERT INTO x (id, n) SELECT c.id, 3 FROM items c`))
	w.mapping("procedural", stepped("procedural", x+`; DO $$ BEGIN EXECUTE 'VACUUM x'; END $$`, upsert))
	dsns := map[string]string{}
	for name := range faults {
		dsns[name] = w.destination("t1", name, name)
	}
	report := w.checked(pipeline.Selection{})
	for name, parts := range faults {
		report.says(t, "destination t1/"+name, primary.Failed, "mapping "+name, parts[len(parts)-2], "")
	}
	r := w.start()
	for name, parts := range faults {
		contains(t, becomes(t, r.destination(name), ledger.Halted), parts...)
		if made := query(t, dsns[name], `SELECT to_regclass('x') IS NOT NULL`); made[0] == `"t"` {
			same(t, dsns[name], `SELECT * FROM x`)
		}
	}
}

// Values of an extension's type are compared by the type's own operators, in whatever schema the external database has them.
func TestOperatorsInOtherSchemas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE EXTENSION citext; CREATE TABLE items (tenant text, c citext, v text, PRIMARY KEY (tenant, c)); INSERT INTO items VALUES ('t1', 'foo', '1'), ('t1', 'bar', '1')`)
	w.tables("items")
	dsn := w.destination("t1", "one", "m")
	exec(t, connect(t, dsn), `CREATE SCHEMA "Ext ensions"; CREATE EXTENSION citext SCHEMA "Ext ensions"`)
	w.mapping("m", stepped("m", `CREATE TABLE IF NOT EXISTS x (c citext PRIMARY KEY, v text)`, `items delete: DELETE FROM x t USING items r WHERE t.c = r.c`,
		`items upsert: INSERT INTO x SELECT r.c, r.v FROM items r ON CONFLICT (c) DO UPDATE SET v = excluded.v`)+"keys:\n  items: SELECT c FROM x\n")
	w.start().caughtUp()
	exec(t, connect(t, dsn), `UPDATE x SET c = upper(c::text)`) // the same keys
	if report, code := w.verify(pipeline.Selection{}); code != 1 {
		t.Errorf("exit code %d: %+v", code, report.Destinations[0])
	}
	w.exec(`DELETE FROM items WHERE c = 'foo'; UPDATE items SET v = '2'`)
	w.synced()
	same(t, dsn, `SELECT c, v FROM x`, `"BAR"|"2"`)
}

// A type of an extension is itself in whatever schema the external database has it, arrays too.
func TestTypesInOtherSchemas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION citext;
		CREATE TABLE items (tenant text, id int, h hstore, l ltree, ls ltree[], c citext, n numeric(9,2)[], PRIMARY KEY (tenant, id));
		INSERT INTO items VALUES ('t1', 1, 'a=>1', 'a.b', '{a.b,c}', 'Foo', '{1.50}')`)
	w.tables("items")
	dsn := w.destination("t1", "one", "m")
	exec(t, connect(t, dsn), `CREATE SCHEMA "Ext ensions"; CREATE EXTENSION hstore SCHEMA "Ext ensions"; CREATE EXTENSION ltree SCHEMA "Ext ensions";
		CREATE SCHEMA other; CREATE DOMAIN other.hstore AS text; CREATE TYPE other.ltree AS ENUM ('a.b')`)
	w.mapping("m", stepped("m", `CREATE TABLE IF NOT EXISTS x (id int PRIMARY KEY, h "Ext ensions".hstore, l "Ext ensions".ltree, ls "Ext ensions".ltree[], c text, n numeric[], types text)`,
		`items upsert: INSERT INTO x SELECT r.id, r.h, r.l, r.ls, r.c, r.n, concat_ws(' ', pg_typeof(r.h), pg_typeof(r.ls), pg_typeof(r.c)) FROM items r ON CONFLICT DO NOTHING`))
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO items VALUES ('t1', 2, NULL, 'b', '{}', 'bar', NULL)`)
	w.synced()
	same(t, dsn, `SELECT id, h, l, ls, c, n, types FROM x ORDER BY id`,
		`"1"|"\"a\"=\u003e\"1\""|"a.b"|"{a.b,c}"|"Foo"|"{1.50}"|"hstore ltree[] text"`,
		`"2"|NULL|"b"|"{}"|"bar"|NULL|"hstore ltree[] text"`)
	r.end()
	w.mapping("two", stepped("two", "", `items upsert: SELECT r.h FROM items r`))
	exec(t, connect(t, w.destination("t2", "two", "two")), `CREATE SCHEMA one; CREATE TYPE one.hstore AS RANGE (subtype = int);
		CREATE SCHEMA two; CREATE TYPE two.hstore AS RANGE (subtype = int)`)
	w.checked(pipeline.Selection{}).says(t, "destination t2/two", primary.Failed, "mapping two",
		`column "h" of public.items is of type public.hstore, which several schemas of the external database have: `, "keep one of them")
}
