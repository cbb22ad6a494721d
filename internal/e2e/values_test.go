package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/pgcluster/pgtest"
)

// fixed has a connection print values in one form, whatever its database is set to.
func fixed(dsn string) string {
	return dsn + "&search_path=public&standard_conforming_strings=on&quote_all_identifiers=off&jit=off&datestyle=ISO&intervalstyle=postgres&extra_float_digits=3&bytea_output=hex&timezone=UTC&lc_monetary=C&xmlbinary=base64"
}

// aType is a type with values of it, as SQL expressions that are cast to it.
type aType struct {
	name   string
	target string // in the external database, where it does not have the type
	values []string
}

var commonTypes = []aType{
	{"bool", "", []string{"true", "false"}},
	{"int2", "", []string{"-32768", "32767"}},
	{"int4", "", []string{"-2147483648", "2147483647"}},
	{"int8", "", []string{"-9223372036854775808", "9223372036854775807"}},
	{"float4", "", []string{"'NaN'", "'-Infinity'", "1.1754944e-38", "3.4028235e38", "0.1", "'-0'", "16777217"}},
	{"float8", "", []string{"'NaN'", "'Infinity'", "0.1::float8 + 0.2", "5e-324", "1.7976931348623157e308", "'-0'", "3.141592653589793"}},
	{"numeric", "", []string{"'NaN'", "'Infinity'", "'-Infinity'", "0.000", "-1.10", "repeat('9', 200) || '.' || repeat('7', 200)", "1e-16000", "1e131000"}},
	{"numeric(12,4)", "", []string{"1.5", "-99999999.9999"}},
	{"money", "", []string{"'-92233720368547758.08'", "1234567.89"}},
	{"text", "", []string{"''", "'NULL'", "E' a\\n\\t\\\\ \\'\" {},()'", "'日本語 👩‍👩‍👧‍👦'", "repeat('x', 100000)"}},
	{"varchar(5)", "", []string{"''", "'ab  '", "'ünïcö'"}},
	{"char(5)", "", []string{"''", "'ab'", "'ab   '"}},
	{`"char"`, "", []string{"'a'", "''", `'\377'`}},
	{"name", "", []string{"'some name'", "''"}},
	{"bytea", "", []string{"''", `'\x00ff5c27'`, "decode(repeat('00ff', 40000), 'hex')"}},
	{"date", "", []string{"'infinity'", "'-infinity'", "'4713-01-01 BC'", "'0001-12-31 BC'", "'5874897-12-31'", "'2024-02-29'", "'2003-02-01'"}},
	{"timestamp", "", []string{"'infinity'", "'-infinity'", "'4713-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'", "'2024-02-03 04:05:06.000001'"}},
	{"timestamp(3)", "", []string{"'2024-02-03 04:05:06.0009'"}},
	{"timestamptz", "", []string{"'infinity'", "'-infinity'", "'0044-03-15 12:00:00+00 BC'", "'2024-07-01 12:00:00.123456+05:45'"}},
	{"time", "", []string{"'00:00'", "'24:00'", "'23:59:59.999999'"}},
	{"timetz", "", []string{"'00:00+15:59:59'", "'24:00-15:59'", "'12:34:56.789+02'"}},
	{"interval", "", []string{"'1 year -2 mons 3 days -04:05:06.789'", "'-178000000 years'", "'178000000 years'", "'0'", "'-1 day +23:00'"}},
	{"inet", "", []string{"'192.168.0.1/24'", "'::ffff:1.2.3.4/128'", "'2001:db8::/32'"}},
	{"cidr", "", []string{"'10.0.0.0/8'", "'::/0'"}},
	{"macaddr", "", []string{"'08:00:2b:01:02:03'"}},
	{"macaddr8", "", []string{"'08:00:2b:01:02:03:04:05'"}},
	{"bit(9)", "", []string{"B'101010101'"}},
	{"varbit", "", []string{"B''", "B'1'", "repeat('10', 500)"}},
	{"json", "", []string{`'{"b": 1,  "a": [null, "\u00e9"], "b": 2}'`, "'null'", `'"text"'`}},
	{"jsonb", "", []string{`'{"b": 1.10, "a": [null, "é\\"]}'`, "'null'", "'1e400'", "'[]'"}},
	{"xml", "", []string{"'<a b=\"c\">é&amp;</a>'", "''"}},
	{"uuid", "", []string{"'00000000-0000-0000-0000-000000000000'", "'FFFFFFFF-ffff-ffff-ffff-ffffffffffff'"}},
	{"tsvector", "", []string{"'''it''''s'':1A fat:2B,4C cat:5'", "''"}},
	{"tsquery", "", []string{"'fat & !(rat | cat:AB*) <-> ''it''''s'''"}},
	{"point", "", []string{"'(0.1,-1e300)'"}},
	{"line", "", []string{"'{1,2,3}'"}},
	{"box", "", []string{"'((0,0),(1,1))'"}},
	{"path", "", []string{"'[(0,0),(1,1)]'", "'((0,0),(1,1))'"}},
	{"circle", "", []string{"'<(0,0),1.5>'"}},
	{"int4range", "", []string{"'empty'", "'[1,10)'", "'(,)'"}},
	{"numrange", "", []string{"'[-1.10,]'", "'(0,0.5]'"}},
	{"tsrange", "", []string{"'[\"2024-01-01 00:00\",infinity)'"}},
	{"tstzrange", "", []string{"'(\"2024-01-01 00:00+02\",)'"}},
	{"daterange", "", []string{"'[\"0044-03-15 BC\",2024-01-01]'"}},
	{"int8multirange", "", []string{"'{}'", "'{[1,3),[5,)}'"}},
	{"pg_lsn", "", []string{"'FFFFFFFF/FFFFFFFF'"}},
	{"oid", "", []string{"'4294967295'"}},
	{"text[]", "", []string{"'{}'", `ARRAY[NULL, 'NULL', '', 'a"b', E'\\', 'c,d', '{}', E'\n', 'é']`, "ARRAY[['a', NULL], ['c', 'd e']]", "'[0:1]={x,y}'", "'[-2:-1][3:3]={{a},{b}}'"}},
	{"int4[]", "", []string{"ARRAY[1, NULL, -2147483648]", "'{{{1,2},{3,4}}}'"}},
	{"timestamptz[]", "", []string{"ARRAY['infinity', '2024-07-01 12:00:00.5+02', NULL]"}},
	{"bytea[]", "", []string{`ARRAY['\x00', '\x5c22'::bytea, NULL]`}},
	{"numeric(9,2)[]", "", []string{"'{NaN,1.50,-3.00}'"}},
	{"float8[]", "", []string{"ARRAY['NaN', 0.1::float8 + 0.2, '-0']"}},
	{"interval[]", "", []string{"ARRAY['1 year 2 mons'::interval, '-3 days']"}},
	{"jsonb[]", "", []string{`ARRAY['{"a": "b\""}'::jsonb, NULL]`}},
	{"money[]", "", []string{"ARRAY[1.5::money, '-1234.56']"}},
	{"box[]", "", []string{"'{(1,1),(0,0);(3,3),(2,2)}'"}},
	{"int4range[]", "", []string{`'{"[1,3)",empty}'`}},
	{"feeling", "text", []string{"'so-so'", "'it''s \"great\", really'"}},
	{"feeling[]", "text[]", []string{"ARRAY['so-so', NULL, 'it''s \"great\", really']::feeling[]", "'{}'"}},
	{"positive", "numeric(9,2)", []string{"1.5"}},
	{"positive[]", "text[]", []string{"'{1.50,NULL}'"}},
	{"pair", "text", []string{"ROW('a,b\"c', 1.50, NULL)", "ROW(NULL, NULL, '{1,NULL}')"}},
	{"pair[]", "text[]", []string{"ARRAY[ROW('a,b', 1, NULL)::pair, NULL]"}},
	{"feelings", "text", []string{`'[so-so,"it''s \"great\", really"]'`, "'empty'"}},
	{`"Odd ""Type"`, "text", []string{"'x'"}},
}

func TestValuesArriveIdentical(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`
		CREATE TYPE feeling AS ENUM ('so-so', 'it''s "great", really');
		CREATE TYPE feelings AS RANGE (subtype = feeling);
		CREATE DOMAIN base_number AS numeric(9,2);
		CREATE DOMAIN positive AS base_number CHECK (VALUE > 0);
		CREATE TYPE pair AS (a text, b numeric(9,2), c int[]);
		CREATE TYPE "Odd ""Type" AS ENUM ('x')`)
	columns, definitions := []string{"id int"}, []string{"tenant uuid", "id int GENERATED ALWAYS AS IDENTITY"}
	names := []string{"id"}
	for i, c := range commonTypes {
		target := c.name
		if c.target != "" {
			target = c.target
		}
		columns = append(columns, fmt.Sprintf("c%d %s", i, target))
		definitions = append(definitions, fmt.Sprintf("c%d %s", i, c.name))
		names = append(names, fmt.Sprintf("c%d", i))
	}
	w.exec(fmt.Sprintf(`CREATE TABLE vals (%s, PRIMARY KEY (tenant, id))`, strings.Join(definitions, ", ")))
	w.table("vals", 1, columns...)
	dsn := w.destination(tenant1, "main", "vals")
	hostile(t, w.source, "SQL, DMY", "escape")
	hostile(t, dsn, "German", "escape")
	r := w.start()
	for i, c := range commonTypes {
		for _, v := range c.values {
			w.exec(fmt.Sprintf(`INSERT INTO vals (tenant, c%d) VALUES ('%s', (%s)::%s)`, i, tenant1, v, c.name))
		}
	}
	w.synced()
	if s := r.destination("main").Status(); s.Err != nil {
		t.Fatalf("the status is %+v", s)
	}
	compare := func() {
		t.Helper()
		for i, c := range commonTypes {
			sql := fmt.Sprintf(`SELECT id, c%d::text FROM %%s WHERE c%d IS DISTINCT FROM NULL ORDER BY 1`, i, i)
			want := query(t, fixed(w.source), fmt.Sprintf(sql, "vals"))
			if len(want) < len(c.values) {
				t.Errorf("%s: the primary has %d of %d values", c.name, len(want), len(c.values))
			}
			got := query(t, fixed(dsn), fmt.Sprintf(sql, "vals_copy"))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-primary +external):\n%.4000s", c.name, diff)
			}
		}
	}
	compare()
	// The same again as updates, and all columns NULL.
	w.exec(`UPDATE vals SET id = DEFAULT; INSERT INTO vals (tenant) VALUES ('` + tenant1 + `')`)
	w.synced()
	compare()
	w.source = fixed(w.source)
	w.mirrored(tenant1, fixed(dsn), "vals", strings.Join(names, "::text, ")+"::text")
}

// hostile gives a database settings that change how values are written and read.
func hostile(t *testing.T, dsn, datestyle, bytea string) {
	t.Helper()
	db := connect(t, dsn)
	for _, s := range []string{"datestyle = '" + datestyle + "'", "intervalstyle = 'sql_standard'", "extra_float_digits = -15", "bytea_output = '" + bytea + "'",
		"timezone = 'Asia/Kathmandu'", "lc_monetary = 'C.UTF-8'", "xmloption = 'document'", "xmlbinary = 'hex'", "search_path = 'pg_temp'",
		"standard_conforming_strings = off", "array_nulls = off", "default_transaction_isolation = 'serializable'", "quote_all_identifiers = on",
		"default_transaction_deferrable = on", "backslash_quote = on", "escape_string_warning = on", "row_security = off", "transform_null_equals = on",
		"statement_timeout = '20s'", "idle_in_transaction_session_timeout = '10s'", "enable_hashjoin = off", "jit_above_cost = 0"} {
		exec(t, db, `DO $do$ BEGIN EXECUTE format('ALTER DATABASE %I SET `+strings.ReplaceAll(s, "'", "''")+`', current_database()); END $do$`)
	}
}

// TestHostileTarget runs the default mappings into a database whose settings are all against it.
func TestHostileTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	hostile(t, w.source, "SQL, DMY", "escape")
	hostile(t, dsn, "Postgres, MDY", "escape")
	exec(t, connect(t, dsn), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	w.start()
	for i, s := range scenarios {
		steps, _ := s.of(8, i)
		w.exec(strings.Join(steps, ";"))
	}
	w.synced()
	w.source, dsn = fixed(w.source), fixed(dsn)
	w.equal(tenant1, dsn)
	w.exec(`TRUNCATE "ProjectUser" CASCADE`)
	w.synced()
	w.equal(tenant1, dsn)
}
