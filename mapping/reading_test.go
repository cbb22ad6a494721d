package mapping

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/strictyaml"
	"outflow/replication/wal"
)

// source is the relation that the statements below read. Some of its columns are called as the target's are, or as keywords.
var source = &wal.Relation{Schema: "public", Name: "item", Key: []int{0}, Columns: []wal.Column{
	{Name: "id", Type: "integer", Identity: true}, {Name: "a", Type: "text"}, {Name: "A", Type: "text"}, {Name: "ssn", Type: "text"},
	{Name: "v", Type: "integer"}, {Name: "order", Type: "integer"}, {Name: "key", Type: "text"}, {Name: "first", Type: "integer"},
	{Name: "date", Type: "date"}, {Name: "r", Type: "integer"}, {Name: "Ärger", Type: "text"}, {Name: "list", Type: "integer[]"},
	{Name: "by", Type: "integer"}, {Name: "update", Type: "integer"}, {Name: "d$", Type: "integer"}}}

const sourceTargets = `
	CREATE TABLE t (id int PRIMARY KEY, a text, ssn text, v int, "order" int, list int[], item int);
	CREATE TABLE item (id int PRIMARY KEY, a text, ssn text);
	CREATE TABLE other (o int, b text, w int);
	CREATE TABLE twin (id int, a text, ssn text, v int)`

// readings are statements and the columns that they read; more are those that count though the server could do without.
var readings = []struct{ sql, want, more string }{
	// The target's columns.
	{`INSERT INTO t ("a","ssn") SELECT c."a", '***' FROM item c`, "a", ""},
	{`INSERT INTO t AS x (id, ssn) SELECT c.id, '***' FROM item c ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn WHERE x.ssn IS DISTINCT FROM excluded.ssn`, "id", ""},
	{`INSERT INTO item (id, ssn) SELECT r.id, '***' FROM item r ON CONFLICT (id) DO UPDATE SET ssn = item.ssn, a = upper(excluded.a) RETURNING ssn, item.a`, "id", ""},
	{`INSERT INTO t (id, ssn) (SELECT id, 'x' FROM item)`, "id", ""},
	{`INSERT INTO t (id, ssn) SELECT id, 'x' FROM item ON CONFLICT (id) WHERE v > 3 DO UPDATE SET (a, ssn) = (excluded.ssn, 'x'), list[1] = 3 WHERE t.v > 3 RETURNING ssn, (SELECT max(b) FROM other)`, "id", ""},
	{`INSERT INTO t (id, ssn) SELECT id, 'x' FROM item ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET ssn = (SELECT max(i.a) FROM item i)`, "id a", ""},
	{`INSERT INTO t (id) SELECT id FROM item ON CONFLICT DO NOTHING`, "id", ""},
	{`INSERT INTO t (id, ssn) VALUES (1, (SELECT max(a) FROM item))`, "a", ""},
	{`INSERT INTO t (id, ssn) WITH own AS (SELECT id FROM item) SELECT id, 'x' FROM own`, "id", ""},
	{`UPDATE t SET ssn = r.a, "order" = v + 1 FROM item r WHERE t.id = r.id AND t.ssn <> ''`, "id a", "v"},
	{`UPDATE t SET (ssn, a) = (SELECT 'x', r.a FROM item r WHERE r.id = t.id)`, "id a", ""},
	{`UPDATE t AS x SET list[r.v] = 1, ssn = 'x' FROM item r WHERE x.id = r.id`, "id v", ""},
	{`UPDATE item SET ssn = '***' FROM item r WHERE item.id = r.id AND item.a IS DISTINCT FROM r.key`, "id key", ""},
	{`UPDATE t SET ssn = CASE WHEN r.v IS DISTINCT FROM 3 THEN 'x' END FROM item r WHERE r.id = t.id RETURNING t.ssn`, "id v", ""},
	{`DELETE FROM t USING item WHERE t.id = item.id AND t.ssn = ''`, "id", ""},
	{`DELETE FROM t x USING item r WHERE x.id = r.id RETURNING x.ssn`, "id", ""},
	{`WITH gone AS (DELETE FROM t USING item r WHERE t.id = r.id RETURNING t.ssn) INSERT INTO other (b) SELECT ssn FROM gone`, "id", ""},
	// Labels, aliases and other names.
	{`SELECT c."a" AS "ssn", upper(c.a) ssn, 1 "A", c.id key FROM item c`, "id a", ""},
	{`SELECT a ssn FROM item`, "a", ""},
	{`SELECT id FROM item ssn WHERE ssn.v > 0`, "id v", ""},
	{`SELECT id FROM item AS ssn`, "id", ""},
	{`WITH ssn (a, v) AS (SELECT id, 3 FROM item) SELECT ssn.a, ssn.v FROM ssn`, "id", ""},
	{`SELECT sub.ssn FROM (SELECT r.id FROM item r) AS sub (ssn)`, "id", ""},
	{`SELECT x.ssn FROM item r, unnest(r.list) AS x (ssn)`, "list", ""},
	{`SELECT r.a AS ssn FROM item r ORDER BY ssn, r.id DESC LIMIT 3`, "a id", ""},
	{`SELECT r.a AS ssn, count(*) FROM item r GROUP BY r.a, ssn`, "a", "ssn"},
	{`SELECT sum(r.v) OVER ssn FROM item r WINDOW ssn AS (PARTITION BY r.a ORDER BY r.id)`, "id a v", ""},
	{`SELECT r.a::date, date '2020-01-01', CAST(r.a AS date), r.id::double precision FROM item r`, "a id", ""},
	{`SELECT extract(year FROM r.date), substring(r.a FROM 2 FOR v), overlay(r.a PLACING 'x' FROM 1) FROM item r`, "date a v", ""},
	{`SELECT make_date(year => r.v, month => 1, day := 1) FROM item r`, "v", ""},
	{`SELECT r.a COLLATE "C" FROM item r FETCH FIRST 3 ROWS ONLY`, "a", ""},
	{`SELECT upper(r.a), r.v OPERATOR(pg_catalog.+) r.id FROM item r`, "a v id", ""},
	{`SELECT a || $$ssn$$ || E'\'ssn' || U&'ssn' -- ssn
		FROM item /* ssn /* v */ */`, "a", ""},
	// Columns, wherever they stand.
	{`SELECT DISTINCT ON (r.id) ssn FROM item r`, "id ssn", ""},
	{`SELECT DISTINCT ON (r.v) ssn, a FROM item r ORDER BY r.v, "order" NULLS FIRST`, "ssn a v order", ""},
	{`SELECT 1 OPERATOR(pg_catalog.+) (3) OPERATOR(pg_catalog.*) v FROM item`, "v", ""},
	{`SELECT 3 BETWEEN v AND id, NOT (v = 1) AND first > 2 FROM item`, "v id first", ""},
	{`SELECT CASE v WHEN id THEN a ELSE ssn END b FROM item`, "v id a ssn", ""},
	{`SELECT r."order", r.key, r.update, by, "d$", d$ FROM item r ORDER BY r.first`, "order key update by d$ first", ""},
	{`SELECT e."Ärger", e.Ärger FROM item e`, "Ärger", ""},
	{`SELECT e.A, e."A", E.a FROM item e`, "a A", ""},
	{`SELECT r . /* c */ ssn FROM item r`, "ssn", ""},
	{`SELECT (e).ssn, (e.list)[e.v], e.list[id:2] FROM item e`, "ssn list v id", ""},
	{`SELECT r.r FROM item r`, "r", ""},
	{`SELECT key FROM item JOIN twin o USING (id)`, "id key", ""},
	{`SELECT r.a FROM item r LEFT JOIN other o ON left(ssn, 2) = o.b, twin w WHERE w.id = o.o`, "a ssn", ""},
	{`SELECT j.ssn FROM (item r CROSS JOIN other) AS j`, "ssn", ""},
	{`SELECT j.a, b FROM (item r JOIN other o ON r.id = o.o) j`, "a id", ""},
	{`SELECT r.id FROM other o JOIN (item r JOIN twin w ON r.v = w.v) ON o.o = r.id`, "id v", ""},
	{`SELECT o.b FROM other o WHERE EXISTS (SELECT FROM item WHERE ssn = o.b) AND o.o IN (SELECT id FROM item)`, "id ssn", ""},
	{`SELECT o.b, (SELECT count(*) FROM twin w WHERE w.ssn = r.a) FROM item r, other o`, "a", ""},
	{`SELECT (SELECT b || key FROM other LIMIT 1) FROM item`, "key", ""},
	{`SELECT l.n FROM item r CROSS JOIN LATERAL (SELECT r.v + w AS n FROM other) l`, "v", ""},
	{`SELECT l.n FROM item r LEFT JOIN LATERAL (SELECT max(w) AS n FROM other WHERE b = ssn) l ON true`, "ssn", ""},
	{`SELECT a FROM item UNION ALL SELECT b FROM other ORDER BY 1`, "a", ""},
	{`SELECT id, a FROM item UNION SELECT id, ssn FROM twin`, "id a", ""},
	{`INSERT INTO other (o) (SELECT id FROM item) EXCEPT (SELECT v FROM twin)`, "id", ""},
	{`SELECT count(*) FILTER (WHERE v > 3), array_agg(a ORDER BY id), string_agg(DISTINCT key, ',') FROM item`, "v a id key", ""},
	{`SELECT id FROM item GROUP BY GROUPING SETS ((id), (id, v)) HAVING max("first") > 0`, "id v first", ""},
	{`SELECT sum(v) OVER (PARTITION BY key ORDER BY "order" ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM item`, "v key order", ""},
	{`SELECT ARRAY[a, ssn], ROW(v, key), ARRAY(SELECT "A" FROM item) FROM item`, "a A ssn v key", ""},
	{`WITH x AS (SELECT r.id AS ssn FROM item r) SELECT ssn FROM x`, "id", ""},
	{`WITH x AS MATERIALIZED (SELECT ssn FROM twin) SELECT x.ssn, r.id FROM x, item r`, "id", ""},
	{`WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3) SELECT n.n, r.id FROM n, item r`, "id", ""},
	{`SELECT count(*) FROM item`, "", ""},
	{`SELECT w.ssn, w.a FROM twin w, item`, "", ""},
	{`SELECT t.ssn, item.id FROM twin t, item`, "id", ""},
	{`SELECT r.a AT TIME ZONE 'UTC' FROM (SELECT date::timestamp AS a FROM item) r`, "date", ""},
	{`SELECT i.id FROM public.item i, item r WHERE i.ssn = r.key`, "key", ""},
	{`SELECT CASE WHEN v = 1 THEN update ELSE by END, substring(a FROM 1 FOR update) FROM item`, "v update by a", ""},
	{`SELECT r.id FROM item r JOIN other ON key = b`, "id key", ""},
	{`SELECT ssn IS DISTINCT FROM a FROM item`, "ssn a", ""},
	{`SELECT g FROM item, generate_series(1, v) WITH ORDINALITY AS g (key, first)`, "v", ""},
	{`WITH x AS (INSERT INTO t (id, ssn) SELECT id, a FROM item RETURNING ssn) SELECT count(*) FROM x`, "id a", ""},
	{`SELECT x.ssn FROM item r, jsonb_to_recordset(r.a::jsonb) AS x (ssn text, v int)`, "a", ""},
	{`SELECT x.ssn FROM item r, ROWS FROM (jsonb_to_recordset(r.a::jsonb) AS (ssn text, v numeric(10,2))) AS x`, "a", ""},
	{`SELECT xmlelement(name ssn, xmlattributes(r.a AS key), r.id) FROM item r`, "a id", ""},
	{`SELECT r.date::timestamp with time zone ssn, r.date::timestamp AT TIME ZONE first::text FROM item r`, "date first", ""},
	{`SELECT sum(r.v) OVER (ssn ORDER BY r.id) FROM item r WINDOW ssn AS (PARTITION BY r.a)`, "v id a", ""},
	{`SELECT x.ssn FROM item r, (VALUES (1, 'x')) AS x (a, ssn) WHERE x.a = r.id`, "id", ""},
	{`SELECT a LIKE ssn ESCAPE key, (id, v) IN (SELECT 1, "order" FROM other) FROM item`, "a ssn key id v order", ""},
	{`DELETE FROM t USING item AS r JOIN twin w USING (ssn) WHERE t.id = r.id`, "id ssn", ""},
	{`WITH RECURSIVE x AS (SELECT id, a FROM item UNION ALL SELECT x.id + 1, i.key FROM x JOIN item i ON x.id = i.v WHERE x.id < 3) SELECT id, a FROM x`, "id a key v", ""},
	{`SELECT z.n FROM item r JOIN LATERAL (SELECT r.w AS n FROM other r) z ON true`, "", ""},
	{`SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v), count(ALL key) FROM item GROUP BY CUBE (a, "A")`, "v key a A", ""},
	{`SELECT r.a::timestamp with time zone AT TIME ZONE key FROM item r`, "a key", ""},
	{`SELECT CAST(r.a AS timestamp without time zone), r.list::numeric(9, 2)[], interval '1 day' * v FROM item r`, "a list v", ""},
	{`SELECT date_trunc('day', c.date) AS c FROM item c ORDER BY c`, "date", ""},
	{`SELECT x.r FROM (SELECT id AS r FROM item) x WHERE r > 1`, "id", ""},
	{`SELECT array_agg(a ORDER BY key DESC NULLS LAST, v USING >) FROM item`, "a key v", ""},
	{`Insert Into T (ID, SSN) Select R.ID, '***' From Item R Where R.V Is Not Null`, "id v", ""},
	{`UPDATE t SET list[1:2] = r.list, ssn = DEFAULT FROM (item r LEFT OUTER JOIN other o ON o.o = r.v) WHERE t.id = r.id`, "list v id", ""},
	{`SELECT json_agg(x) FROM (SELECT id, key AS ssn FROM item) x`, "id key", ""},
	{`SELECT x FROM item TABLESAMPLE system (10), twin`, "-", ""},
}

// neededColumns asks the server: a column is read if the statement cannot be prepared without it. ok is false where the server takes it in no way.
func neededColumns(t *testing.T, conn *pgconn.PgConn, m *Mapping) (needed []string, ok bool) {
	t.Helper()
	prepare := func(columns []wal.Column) string {
		rel := *source
		rel.Columns = columns
		all := *m // as if the SQL read every column
		all.Steps = slices.Clone(m.Steps)
		all.Steps[0].read = nil
		for _, c := range columns {
			all.Steps[0].read = append(all.Steps[0].read, reference{name: c.Name})
		}
		st := all.Compile(0, &rel, known)
		_, err := conn.Prepare(t.Context(), "", st.SQL, st.ParameterOIDs())
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
			return pgErr.Code
		}
		if err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if prepare(source.Columns) != "" {
		return nil, false
	}
	for i, c := range source.Columns {
		switch state := prepare(slices.Delete(slices.Clone(source.Columns), i, i+1)); state {
		case "":
		case "42703":
			needed = append(needed, c.Name)
		default:
			t.Errorf("%s without %s: SQLSTATE %s", m.Steps[0].SQL, c.Name, state)
		}
	}
	return needed, true
}

func oneStep(sql string) (*Mapping, error) {
	return Load("m.yaml", fmt.Appendf(nil, "name: m\ntarget: t\nsteps:\n  - {from: item, when: upsert, sql: %q}\n", sql))
}

func sourceServer(t *testing.T) *pgconn.PgConn {
	t.Helper()
	conn := server(t)
	if _, err := conn.Exec(t.Context(), sourceTargets).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestReadColumns: the columns that a statement reads are those without which a server cannot prepare it.
func TestReadColumns(t *testing.T) {
	conn := sourceServer(t)
	for _, c := range readings {
		m, err := oneStep(c.sql)
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		if c.want == "-" {
			continue // the server refuses it
		}
		got, _ := m.Columns("item", source.Names())
		want := strings.Fields(c.want + " " + c.more)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s\nexpected %v\nfound    %v", c.sql, want, got)
		}
		needed, ok := neededColumns(t, conn, m)
		if c.more != "" && !ok {
			continue // what is too much may make it ambiguous
		}
		slices.Sort(needed)
		if own := slices.Sorted(slices.Values(strings.Fields(c.want))); !ok || !slices.Equal(needed, own) {
			t.Errorf("%s\nexpected %v\nthe server needs %v (%t)", c.sql, own, needed, ok)
		}
	}
}

// JSON_TABLE needs a server of 17 to be prepared, and XMLTABLE one that was built with XML.
func TestReadColumnsOfTableFunctions(t *testing.T) {
	for _, function := range []string{
		`JSON_TABLE(r.a::jsonb, '$' PASSING r.v AS ssn COLUMNS (ssn text PATH '$.x', NESTED PATH '$.y' COLUMNS (key numeric(10,2), date date)))`,
		`XMLTABLE('/x' PASSING r.a::xml COLUMNS ssn text PATH r.v::text, key int PATH 'v' DEFAULT 3, date FOR ORDINALITY)`,
	} {
		tokens, err := lex("SELECT x.ssn FROM item r, " + function + " AS x")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range read(tokens, "item").references {
			names = append(names, r.name)
		}
		if !slices.Equal(names, []string{"a", "v"}) {
			t.Errorf("%s reads %q", function, names)
		}
	}
}

// mergeReadings need a server of 15 or newer to be prepared.
func TestReadColumnsOfMerge(t *testing.T) {
	for sql, want := range map[string]string{
		`MERGE INTO t USING item r ON t.id = r.id WHEN MATCHED AND r.v > 3 THEN UPDATE SET ssn = r.a, a = 'x' WHEN NOT MATCHED THEN INSERT (id, ssn) VALUES (r.id, '***')`:      "a id v",
		`MERGE INTO t AS x USING (SELECT id, a FROM item) s ON x.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED AND s.a <> 'ssn' THEN INSERT (id, ssn) VALUES (s.id, s.a)`: "a id",
		`MERGE INTO t USING item r ON CASE WHEN r.v = 1 THEN t.id = r.id END WHEN MATCHED THEN DO NOTHING`:                                                                      "id v",
	} {
		m, err := oneStep(sql)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := m.Columns("item", source.Names())
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v", sql, got)
		}
		conn := sourceServer(t)
		if version := conn.ParameterStatus("server_version"); version >= "15" {
			if needed, ok := neededColumns(t, conn, m); !ok || !slices.Equal(slices.Sorted(slices.Values(needed)), got) {
				t.Errorf("%s: the server needs %v (%t)", sql, needed, ok)
			}
		}
	}
}

// TestWholeRowsAreRefused: what would see only the columns that happen to travel is refused, with its place and the remedy.
func TestWholeRowsAreRefused(t *testing.T) {
	for sql, want := range map[string]string{
		`SELECT to_jsonb(e) FROM item e`:                                      `6:31: "e" is a whole row of "item"`,
		`SELECT e::text FROM item e`:                                          `"e" is a whole row`,
		`SELECT row_to_json("item") FROM item`:                                `"item" is a whole row`,
		`SELECT row_to_json("I x") FROM item "I x"`:                           `"I x" is a whole row`,
		`SELECT (e).* FROM item e`:                                            `* is not allowed`,
		`SELECT count(e) FROM item AS e`:                                      `"e" is a whole row`,
		`SELECT count(DISTINCT e) FROM item AS e`:                             `"e" is a whole row`,
		`SELECT id FROM item e WHERE e IS NOT NULL`:                           `"e" is a whole row`,
		`SELECT id FROM item e ORDER BY e`:                                    `"e" is a whole row`,
		`SELECT ssn(e) FROM item e`:                                           `"e" is a whole row`,
		`SELECT to_jsonb(j) FROM (item e CROSS JOIN other) j`:                 `"j" is a whole row`,
		`SELECT o.id FROM other o WHERE EXISTS (SELECT o = e FROM item e)`:    `"e" is a whole row`,
		`SELECT l.k FROM item e, LATERAL jsonb_object_keys(to_jsonb(e)) l(k)`: `"e" is a whole row`,
		`SELECT (SELECT to_jsonb(e)) FROM item e`:                             `"e" is a whole row`,
		`INSERT INTO t (v) SELECT (e) FROM item e`:                            `"e" is a whole row`,
		`UPDATE t SET a = e FROM item e`:                                      `"e" is a whole row`,
		`TABLE "item"`:                                                        `a step begins with`,
		`INSERT INTO t TABLE "item"`:                                          `TABLE "item" would return only the columns`,
		`WITH x AS (TABLE item) SELECT x.id FROM x`:                           `TABLE "item" would return only`,
		`SELECT id FROM item NATURAL JOIN other`:                              `NATURAL JOIN joins by all common columns`,
		`SELECT other.id FROM other NATURAL LEFT JOIN item`:                   `NATURAL JOIN joins by all common columns`,
		`SELECT x FROM item AS e (x)`:                                         `columns of "item" cannot be renamed by position`,
		`SELECT x FROM item e (x, y)`:                                         `columns of "item" cannot be renamed by position`,
		`DELETE FROM t USING item e WHERE t.id = e.id RETURNING e.*`:          `* is not allowed`,
		`DELETE FROM t USING item e WHERE t.id = e.id RETURNING e`:            `"e" is a whole row`,
		`SELECT ` + strings.Repeat("(", 300) + "1" + strings.Repeat(")", 300): `parentheses are nested deeper than`,
	} {
		_, err := oneStep(strings.ReplaceAll(sql, "6:31", ""))
		var faults strictyaml.Errors
		if want = strings.TrimPrefix(want, "6:31: "); !errors.As(err, &faults) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected %s, found %v", sql, want, err)
		}
	}
	// Whole rows of others are theirs alone.
	for _, sql := range []string{`SELECT to_jsonb(x) FROM (SELECT r.id FROM item r) x`, `WITH x AS (SELECT id FROM item) SELECT to_jsonb(x), count(x) FROM x`,
		`INSERT INTO t (id) SELECT id FROM item r ON CONFLICT (id) DO UPDATE SET item = 3 WHERE t.item > 2`, `SELECT to_jsonb(o) FROM item r, other o`,
		`SELECT e.e FROM item e`, `SELECT o.a AS e FROM item e, twin o`, `SELECT o.a NATURAL FROM twin o NATURAL JOIN other`} {
		if _, err := oneStep(sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	_, err := oneStep("SELECT\n  to_jsonb(e) FROM item e")
	if faults := (strictyaml.Errors)(nil); !errors.As(err, &faults) || faults[0].Line != 4 {
		t.Errorf("the place: %v", err)
	}
}

// generator makes random statements over item (as the source) and tables that it has beside it.
type generator struct{ *rand.Rand }

func (g generator) pick(of ...string) string { return of[g.IntN(len(of))] }

// column is a column of what is visible: the aliases of the source in this query and around it.
func (g generator) column(aliases []string) string {
	names := []string{"id", "a", `"A"`, "ssn", "v", `"order"`, "key", "first", "date", "r", `"Ärger"`, "by", "update", "d$"}
	name := g.pick(names...)
	if len(aliases) == 1 && g.IntN(3) == 0 {
		return name
	}
	return g.pick(aliases...) + g.pick(".", ".", " . ", "./* ssn */") + name
}

func (g generator) expression(depth int, aliases []string) string {
	if depth <= 0 {
		return g.column(aliases) + "::text"
	}
	e := func() string { return g.expression(depth-1, aliases) }
	switch g.IntN(12) {
	case 0:
		return "coalesce(" + e() + ", 'ssn')"
	case 1:
		return "(" + e() + " || " + e() + ")"
	case 2:
		return "CASE WHEN " + e() + " IS DISTINCT FROM " + e() + " THEN " + e() + " END"
	case 3:
		return "(SELECT max(" + e() + ") FROM other tenant WHERE b = " + e() + ")"
	case 4:
		inner := fmt.Sprintf("i%d", depth)
		return "(SELECT max(" + g.expression(depth-1, append(slices.Clone(aliases), inner)) + ") FROM item " + inner + ")"
	case 5:
		return "upper(" + e() + ") COLLATE \"C\""
	case 6:
		return "substring(" + e() + " FROM 1 FOR 2)"
	case 7:
		return "((" + e() + " = " + e() + ")::int::double precision)::text"
	case 8:
		return "(" + e() + " BETWEEN " + e() + " AND " + e() + ")::text"
	case 9:
		return "lower(" + e() + ")::varchar(3)::text"
	case 10:
		return "(ARRAY[" + e() + ", " + e() + "])[1]"
	default:
		return g.column(aliases) + "::text"
	}
}

// query is a SELECT of n texts.
func (g generator) query(n, depth int) string {
	alias := g.pick("", "r", "c", "ssn", `"x y"`, "key")
	name := alias
	if alias == "" {
		name = "item"
	}
	var list []string
	labels := []string{"", ` AS ssn`, ` "ssn"`, ` v`, ` AS "order"`, ` AS first`}
	for i := range n {
		label := ""
		if i == 0 {
			label = g.pick(labels...)
		}
		list = append(list, g.expression(depth, []string{name})+label)
	}
	from := "item " + alias
	switch g.IntN(6) {
	case 0:
		from += " JOIN other o ON o.b = " + g.expression(depth-1, []string{name})
	case 1:
		from += ", LATERAL (SELECT " + g.expression(depth-1, []string{name}) + " AS ssn FROM other q) l"
	case 2:
		from = "(SELECT 1 AS ssn) AS p CROSS JOIN (" + from + " CROSS JOIN other o)"
	}
	sql := "SELECT " + g.pick("", "", "DISTINCT ", "ALL ") + strings.Join(list, ", ") + " FROM " + from
	if strings.Contains(from, "other") || strings.Contains(from, " p ") { // unqualified names may be theirs: no matter, the server refuses
		sql += " WHERE " + g.expression(depth-1, []string{name}) + " <> ''"
	}
	if g.IntN(6) == 0 {
		sql += " UNION " + g.pick("", "ALL ") + "SELECT " + strings.TrimSuffix(strings.Repeat("b, ", n), ", ") + " FROM other"
	}
	return sql
}

func (g generator) statement() string {
	depth := g.IntN(4)
	switch g.IntN(7) {
	case 0:
		return g.query(1+g.IntN(3), depth)
	case 1:
		return "INSERT INTO twin (a, ssn) " + g.query(2, depth) + g.pick("", " RETURNING ssn, twin.v")
	case 2:
		return "INSERT INTO t AS x (id, ssn) SELECT r.id, " + g.expression(depth, []string{"r"}) +
			" FROM item r ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn, a = " + g.pick("x.ssn", "x.a", "excluded.a", "(SELECT max(i.key) FROM item i)") + g.pick("", " WHERE x.v > excluded.v")
	case 3:
		return "UPDATE t x SET ssn = " + g.expression(depth, []string{"r"}) + ", a = 'ssn', v = 3 FROM item r WHERE x.id = r.id AND x.ssn <> " + g.expression(depth-1, []string{"r"})
	case 4:
		return "DELETE FROM t x USING item r WHERE x.id = r.id AND x.a = " + g.expression(depth, []string{"r"}) + g.pick("", " RETURNING x.ssn")
	case 5:
		return "WITH own (ssn, v) AS (" + g.query(2, depth) + "), more AS (SELECT ssn AS a FROM twin) SELECT ssn, own.v, more.a FROM own, more"
	default:
		return "WITH own AS (SELECT r.id, " + g.expression(depth, []string{"r"}) + " AS ssn FROM item r) INSERT INTO twin (id, ssn) SELECT id, ssn FROM own ORDER BY ssn"
	}
}

// TestReadColumnsOfRandomStatements: for random statements the columns are exactly those that a server needs.
func TestReadColumnsOfRandomStatements(t *testing.T) {
	conn := sourceServer(t)
	const statements = 400
	taken := 0
	for seed := range uint64(statements) {
		g := generator{rand.New(rand.NewPCG(seed, 7))} //nolint:gosec // a test's
		sql := g.statement()
		m, err := oneStep(sql)
		if err != nil {
			if !strings.Contains(err.Error(), "is a whole row") { // a column that is called as the alias is
				t.Errorf("seed %d: %s: %v", seed, sql, err)
			}
			continue
		}
		needed, ok := neededColumns(t, conn, m)
		if !ok {
			continue // ambiguous names
		}
		taken++
		got, _ := m.Columns("item", source.Names())
		if !slices.Equal(needed, got) {
			t.Errorf("seed %d: %s\nthe server needs %v\nfound            %v", seed, sql, needed, got)
		}
	}
	if taken < statements/2 {
		t.Errorf("the server took only %d of %d statements", taken, statements)
	}
	_ = conn.Close(context.Background())
}
