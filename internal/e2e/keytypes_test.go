package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
)

// keyTypes are types with a btree operator class: of Postgres 15 and its contrib modules, and those that can be made of them. Each has
// an expression of n with another value for each n, and the external database may keep the key in another type.
var keyTypes = []struct{ name, source, target, value string }{
	{"int2", "int2", "", "n::int2"}, {"int4", "int4", "", "n"}, {"int8", "int8", "", "n * 1000000007::bigint"}, {"oid", "oid", "", "n::oid"},
	{"numeric", "numeric", "", "n / 7.0"}, {"float4", "float4", "", "(n / 3.0)::float4"}, {"float8", "float8", "", "n / 3.0::float8"},
	{"money", "money", "", "n::money"}, {"text", "text", "", "'Row ' || n"}, {"varchar", "varchar(40)", "", "md5(n::text)"}, {"name", "name", "", "md5(n::text)::name"},
	{"bpchar", "char(12)", "", "'Row ' || n"}, {"bytea", "bytea", "", "decode(md5(n::text), 'hex')"}, {"date", "date", "", "'2000-01-01'::date + n"},
	{"time", "time", "", "'00:00'::time + n * interval '1 s'"}, {"timetz", "timetz", "", "'00:00+00'::timetz + n * interval '1 s'"},
	{"timestamp", "timestamp", "", "'2000-01-01'::timestamp + n * interval '1 ms'"}, {"timestamptz", "timestamptz", "", "'2000-01-01'::timestamptz + n * interval '1 ms'"},
	{"interval", "interval", "", "n * interval '1 hour 1 minute'"}, {"uuid", "uuid", "", "md5(n::text)::uuid"}, {"inet", "inet", "", "'10.0.0.0'::inet + n"},
	{"cidr", "cidr", "", "('10.0.0.0'::inet + n)::cidr"}, {"macaddr", "macaddr", "", "lpad(to_hex(n), 12, '0')::macaddr"},
	{"macaddr8", "macaddr8", "", "lpad(to_hex(n), 16, '0')::macaddr8"}, {"bit", "bit(16)", "", "n::bit(16)"}, {"varbit", "varbit", "", "n::bit(16)::varbit"},
	{"tsvector", "tsvector", "", "to_tsvector('simple', 'w' || n)"}, {"tsquery", "tsquery", "", "to_tsquery('simple', 'w' || n)"},
	{"pg_lsn", "pg_lsn", "", "'0/0'::pg_lsn + n"}, {"jsonb", "jsonb", "", "jsonb_build_object('n', n)"}, {"xid8", "xid8", "", "n::text::xid8"},
	{"tid", "tid", "", "format('(%s,1)', n)::tid"}, {"oidvector", "oidvector", "", "(n || ' 1')::oidvector"}, {"ints", "int4[]", "", "ARRAY[n, -n]"},
	{"texts", "text[]", "", "ARRAY['a', n::text]"}, {"range", "int4range", "", "int4range(n, n + 5)"}, {"multirange", "int4multirange", "", "int4multirange(int4range(n, n + 5))"},
	{"enum", "mood", "text", "('m' || n % 100)::mood"}, {"composite", "pair", "text", "ROW(n, 'x')::pair"}, {"domain", "even", "int8", "(2 * n)::even"},
	{"citext", "ext.citext", "text", "('Row ' || n)::ext.citext"}, {"ltree", "ext.ltree", "text", "('top.r' || n)::ext.ltree"}, {"hstore", "ext.hstore", "text", "ext.hstore('k', n::text)"},
	{"cube", "ext.cube", "text", "ext.cube(n)"}, {"seg", "ext.seg", "text", "n::text::ext.seg"}, {"isn", "ext.ean13", "text", "ean(n)::ext.ean13"},
	{"names", "nick", "text", "('Row ' || n)::nick"}, {"nondeterministic", "text COLLATE any_case", "text", "'Row ' || n"},
	// Another type there, whose text is another one.
	{"char_text", "char(12)", "text", "'Row ' || n"}, {"text_char", "text", "char(12)", "'Row ' || n"}, {"moment", "timestamptz", "timestamp", "'2000-01-01'::timestamptz + n * interval '1 s'"},
	{"moments", "timestamp", "timestamptz", "'2000-01-01'::timestamp + n * interval '1 s'"}, {"whole", "numeric(10,2)", "bigint", "n"}, {"cents", "bigint", "numeric(10,2)", "n"},
	{"day", "date", "timestamp", "'2000-01-01'::date + n"}, {"digits", "int", "text", "n"}, {"uuid_text", "uuid", "text", "md5(n::text)::uuid"}, {"double", "float8", "numeric", "n / 4.0"},
}

const keyExtensions = `
	CREATE SCHEMA ext;
	CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION ltree SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext;
	CREATE EXTENSION cube SCHEMA ext; CREATE EXTENSION seg SCHEMA ext; CREATE EXTENSION isn SCHEMA ext;
	CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TYPE pair AS (n int, x text); CREATE DOMAIN even AS bigint CHECK (VALUE % 2 = 0); CREATE DOMAIN nick AS ext.citext;
	CREATE FUNCTION ean(n int) RETURNS text LANGUAGE sql AS $$
		SELECT d || (10 - (SELECT sum(substr(d, i, 1)::int * CASE WHEN i % 2 = 0 THEN 3 ELSE 1 END) FROM generate_series(1, 12) i) % 10) % 10
		FROM (SELECT '20000000' || lpad(n::text, 4, '0') AS d) x $$;`

// Tables of several chunks with keys of every type are copied whole, and a sweep removes what the primary does not have and no more.
func TestKeysOfEveryType(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(keyExtensions)
	w.exec(`DO $$ BEGIN EXECUTE (SELECT 'CREATE TYPE mood AS ENUM (' || string_agg(quote_literal('m' || n), ',' ORDER BY n % 7, n) || ')' FROM generate_series(0, 99) n); END $$`)
	w.cfg.Source.Tables, w.cfg.Source.Tombstones = nil, nil
	var names []string
	for _, k := range keyTypes {
		table := "k_" + k.name
		w.exec(fmt.Sprintf(`CREATE TABLE %s (tenant uuid, id %s, n int, PRIMARY KEY (tenant, id))`, table, k.source))
		w.exec(fmt.Sprintf(`INSERT INTO %s SELECT $1, %s, n FROM generate_series(1, 2500) n ON CONFLICT DO NOTHING`, table, k.value), tenant1)
		w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: table, Tenant: "tenant"})
		target := k.target
		if target == "" {
			target = k.source
		}
		w.mapping(table, fmt.Sprintf(`name: %[1]s
target: %[1]s_copy
schema: CREATE TABLE IF NOT EXISTS %[1]s_copy (id %[2]s PRIMARY KEY, n int)
steps:
  - {from: %[1]s, when: delete, sql: 'DELETE FROM %[1]s_copy t USING %[1]s r WHERE t.id = r.id::%[2]s'}
  - {from: %[1]s, when: upsert, sql: 'INSERT INTO %[1]s_copy SELECT r.id::%[2]s, r.n FROM %[1]s r ON CONFLICT (id) DO UPDATE SET n = excluded.n'}
keys:
  %[1]s: SELECT id FROM %[1]s_copy
`, table, target))
		names = append(names, table)
	}
	dsn := w.destination(tenant1, "main", names...)
	r := w.start()
	check := func(when string) {
		t.Helper()
		for _, name := range names {
			want := query(t, w.source, fmt.Sprintf(`SELECT n FROM %s ORDER BY n`, name))
			got := query(t, dsn, fmt.Sprintf(`SELECT n FROM %s_copy ORDER BY n`, name))
			if strings.Join(want, " ") != strings.Join(got, " ") {
				t.Errorf("%s: %s has %d rows, expected %d", when, name, len(got), len(want))
			}
		}
	}
	r.caughtUp()
	check("copied")
	// Rows that the external database has alone: the sweep removes these.
	db := connect(t, dsn)
	for i, k := range keyTypes {
		target := k.target
		if target == "" {
			target = k.source
		}
		rows := query(t, w.source, fmt.Sprintf(`SELECT (%s)::text FROM generate_series(2501, 2520) n`, k.value))
		for _, text := range rows {
			exec(t, db, fmt.Sprintf(`INSERT INTO %s_copy VALUES ('%s'::text::%s, -1) ON CONFLICT DO NOTHING`, names[i],
				strings.ReplaceAll(unquoted(t, text), "'", "''"), target))
			if i%5 > 0 {
				break // one will do
			}
		}
	}
	must(t, r.destination("main").Resync(t.Context(), "the test asked for it"))
	r.caughtUp()
	check("swept")
}

// A tenant is named by the text of its column: not by what its type takes for equal.
func TestTenantsOfEveryType(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, kind, one, other, written string }{
		{"char", "char(8)", "ab", "abc", "ab      "}, {"citext", "ext.citext", "Foo", "foo", "Foo"}, {"numeric", "numeric", "7", "7.0", "7"},
		{"collation", "text COLLATE any_case", "Foo", "foo", "Foo"}, {"domain", "nick", "Foo", "foo", "Foo"}, {"int", "int", "07", "8", "7"},
		{"uuid", "uuid", strings.ToUpper("aaaaaaaa-0000-4000-8000-000000000001"), tenant2, "aaaaaaaa-0000-4000-8000-000000000001"},
		{"enum", "kind", "a", "b", "a"}, {"scale", "numeric(8,2)", "7", "8", "7.00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, pgtest.Shared(t))
			w.exec(keyExtensions + `CREATE TYPE kind AS ENUM ('a', 'b')`)
			w.cfg.Source.Tables, w.cfg.Source.Tombstones = nil, nil
			w.exec(fmt.Sprintf(`CREATE TABLE items (tenant %s, id int, v text, PRIMARY KEY (tenant, id))`, c.kind))
			w.table("items", 1, "id int", "v text")
			one, other := w.destination(c.one, "one", "items"), w.destination(c.other, "other", "items")
			insert := func(from int) {
				t.Helper()
				w.exec(fmt.Sprintf(`INSERT INTO items SELECT CASE WHEN n %% 3 = 0 THEN '%s' ELSE '%s' END::text::%s, n, 'v' FROM generate_series(%d, %d) n`,
					c.other, c.one, strings.TrimSuffix(c.kind, " COLLATE any_case"), from, from+29))
			}
			insert(1)
			check := func(when string) {
				t.Helper()
				for dsn, tenant := range map[string]string{one: c.written, other: ""} {
					condition := fmt.Sprintf(`format('%%s', tenant) COLLATE "C" = '%s'`, tenant)
					if tenant == "" {
						condition = fmt.Sprintf(`format('%%s', tenant) COLLATE "C" <> '%s'`, c.written)
					}
					want := query(t, w.source, `SELECT id, v FROM items WHERE `+condition+` ORDER BY id`)
					if len(want) < 5 {
						t.Fatalf("%s: %q has %d rows", when, tenant, len(want))
					}
					if got := query(t, dsn, `SELECT id, v FROM items_copy ORDER BY id`); strings.Join(got, " ") != strings.Join(want, " ") {
						t.Errorf("%s: %q has %v; expected %v", when, tenant, got, want)
					}
				}
			}
			r := w.start()
			r.caughtUp()
			check("copied")
			insert(31)
			w.exec(`UPDATE items SET v = 'changed' WHERE id % 4 = 0`)
			w.exec(`DELETE FROM items WHERE id % 5 = 0`)
			w.synced()
			check("streamed")
			for _, name := range []string{"one", "other"} {
				must(t, r.destination(name).Resync(t.Context(), "the test asked for it"))
			}
			exec(t, connect(t, one), `INSERT INTO items_copy SELECT n, 'of nobody, or of the other' FROM generate_series(3, 63, 3) n ON CONFLICT DO NOTHING`)
			r.caughtUp()
			check("swept")
			if report, code := w.verify(pipeline.Selection{}); code != 0 {
				t.Errorf("verify: exit code %d: %+v %+v", code, *report.Destinations[0], *report.Destinations[1])
			}
		})
	}
}

func unquoted(t *testing.T, line string) string {
	t.Helper()
	var text string
	must(t, json.Unmarshal([]byte(line), &text))
	return text
}

// A tenant's name is a text and no SQL, also where the database of the primary reads a backslash in a literal as an escape.
func TestATenantsNameIsNoSQL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	const tenant = `\' OR true --`
	w.cfg.Source.Tables, w.cfg.Source.Tombstones = nil, nil
	w.exec(`CREATE TABLE items (tenant text, id int, v text, PRIMARY KEY (tenant, id))`)
	w.table("items", 1, "id int", "v text")
	w.exec(`INSERT INTO items SELECT CASE WHEN n > 3 THEN 'another' ELSE $1 END, n, 'v' FROM generate_series(1, 8) n`, tenant)
	w.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database()); END $$`)
	dsn := w.destination(tenant, "main", "items")
	r := w.start()
	r.caughtUp()
	w.synced()
	same(t, dsn, `SELECT count(*) FROM items_copy`, `"3"`)
	if s := r.destination("main").Status(); s.Failures > 0 || s.CopyTotal != 3 {
		t.Errorf("%d rows were to be copied, with %d failures: %v", s.CopyTotal, s.Failures, s.Err)
	}
}
