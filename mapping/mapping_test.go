package mapping

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/strictyaml"
	"outflow/replication/wal"
	"outflow/sql"
)

const sound = `# A comment.
name: items
target: items_copy
schema: |
  CREATE TABLE IF NOT EXISTS items_copy (id int PRIMARY KEY, note text);
  CREATE FUNCTION IF NOT EXISTS f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;
steps:
  - from: item
    when: delete
    sql: DELETE FROM items_copy t USING item r WHERE t.id = r.id
  - from: item
    when: upsert
    sql: |
      WITH own AS (SELECT r.id, r.note FROM item r)
      INSERT INTO items_copy SELECT own.id, own.note FROM own;
keys:
  item: SELECT id FROM items_copy
after: [others]
`

func load(t *testing.T, src string) *Mapping {
	t.Helper()
	m, err := Load("m.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLoad(t *testing.T) {
	m := load(t, sound)
	if m.Name != "items" || m.Target != "items_copy" || len(m.Steps) != 2 || len(m.DDL()) != 2 {
		t.Errorf("%+v", m)
	}
	if diff := cmp.Diff([]string{"item"}, m.Tables()); diff != "" {
		t.Error(diff)
	}
	named, deletes := m.Columns("item", []string{"tenant", "note", "id", "secret"})
	if diff := cmp.Diff([][]string{{"note", "id"}, {"id"}}, [][]string{named, deletes}); diff != "" {
		t.Error(diff)
	}
	if named, _ := m.Columns("other", []string{"id"}); named != nil {
		t.Errorf("of a table that it does not read it names %v", named)
	}
}

// replaced is the sound mapping with a piece of it put in the place of another.
func replaced(t *testing.T, old, piece string) string {
	t.Helper()
	if strings.Count(sound, old) != 1 {
		t.Fatalf("%q is not once in the sound mapping", old)
	}
	return strings.Replace(sound, old, piece, 1)
}

func TestLoadFaults(t *testing.T) {
	const upsert = "WITH own AS (SELECT r.id, r.note FROM item r)\n      INSERT INTO items_copy SELECT own.id, own.note FROM own;"
	for _, c := range []struct{ old, new, fault string }{
		{"name: items\n", "", `a mapping needs a "name"`},
		{"name: items\n", "name: 1 x\n", "2:7: a mapping's name is a letter"},
		{"name: items\n", "name: " + strings.Repeat("x", 64) + "\n", "2:7: a mapping's name is a letter"},
		{"target: items_copy\n", "", `a mapping needs a "target"`},
		{"after: [others]", "after: [items]", "18:8: mapping \"items\" cannot run after itself"},
		{"after: [others]", "before: [others]", "18:1: "},
		{"when: upsert", "when: insert", `12:11: "when" is upsert, delete or any; found "insert"`},
		{"when: upsert", "# when: upsert", `"when" is upsert, delete or any; found ""`},
		{"  - from: item\n    when: upsert", "  - when: upsert", `a step needs "from"`},
		{upsert, "COMMIT", `14:7: a step begins with INSERT, UPDATE, DELETE, MERGE, SELECT or WITH; found "commit"`},
		{upsert, "/* ünï */ COPY x FROM STDIN", `14:17: a step begins with`},
		{upsert, `"select" 1`, `14:7: a step begins with`},
		{upsert, "(SELECT 1)", `14:7: a step begins with`},
		{upsert, "TRUNCATE items_copy", `14:7: a step begins with`},
		{upsert, "SELECT 1;\n      -- the next one\n      SELECT 2", "16:7: a second statement"},
		{upsert, "SELECT 'é', $1, r.id + $23 FROM item r", `14:19: $1: a mapping has no parameters; its rows are the relation "item"`},
		{upsert, "SELECT 'é', $1, r.id + $23 FROM item r", `14:30: $23: a mapping has no parameters`},
		{upsert, "INSERT INTO t\n        SELECT * FROM item", "15:16: * is not allowed"},
		{upsert, "INSERT INTO t SELECT r.* FROM item r", "14:30: * is not allowed"},
		{upsert, "INSERT INTO t SELECT r.id, r.* FROM item r", "14:36: * is not allowed"},
		{upsert, "SELECT id, * FROM item", "14:18: * is not allowed"},
		{upsert, "DELETE FROM t RETURNING *", "14:31: * is not allowed"},
		{upsert, "SELECT ALL * FROM item", "14:18: * is not allowed"},
		{upsert, "SELECT $x$ never ends", "14:14: a string that begins with $x$ does not end"},
		{upsert, "SELECT /* never ends", "14:14: a comment does not end"},
		{upsert, "-- nothing", "14:7: there is no statement"},
		{"CREATE TABLE IF NOT EXISTS items_copy (id int PRIMARY KEY, note text);", "SELECT 1; COMMIT;", "5:13: COMMIT is not allowed in a schema"},
		{"CREATE TABLE IF NOT EXISTS items_copy (id int PRIMARY KEY, note text);", "SET ROLE postgres;", "5:3: SET is not allowed in a schema"},
		{"item: SELECT id FROM items_copy", "other: SELECT id FROM items_copy", `17:10: no step reads from "other"; the steps read from: item`},
		{"item: SELECT id FROM items_copy", "item: SELECT id; SELECT id", "17:20: a second statement"},
		{"item: SELECT id FROM items_copy", "item: DELETE FROM items_copy RETURNING id", `17:9: keys begin with SELECT or WITH; found "delete"`},
		{"item: SELECT id FROM items_copy", "item: VALUES (1)", `keys begin with SELECT or WITH; found "values"`},
		{"item: SELECT id FROM items_copy", "item: WITH x AS (DELETE FROM items_copy RETURNING id) SELECT id FROM x", `17:20: keys may only read what the target holds; found DELETE`},
		{"item: SELECT id FROM items_copy", "item: SELECT id FROM items_copy WHERE id > $1", `17:46: $1: keys have no parameters`},
		{"sql: DELETE FROM items_copy t USING item r WHERE t.id = r.id", `sql: "DELETE FROM t WHERE id = $1"`, "10:36: $1: "},
		{"sql: DELETE FROM items_copy t USING item r WHERE t.id = r.id", "sql: >\n      DELETE FROM t\n      WHERE id = $1", "12:18: $1: "},
		{"steps:", "step:", "7:1: "},
	} {
		_, err := Load("m.yaml", []byte(replaced(t, c.old, c.new)))
		var faults strictyaml.Errors
		if !errors.As(err, &faults) || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%q for %q: expected %s, found %v", c.new, c.old, c.fault, err)
		}
	}
	for sql, want := range map[string]string{
		"CREATE INDEX CONCURRENTLY i ON t (id)":                      "5:16: CONCURRENTLY cannot run in a transaction, but a schema runs in one: remove the word, or run it by hand",
		"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (id)": "CONCURRENTLY",
		"DROP INDEX CONCURRENTLY IF EXISTS i":                        "CONCURRENTLY",
		"REINDEX INDEX CONCURRENTLY i":                               "CONCURRENTLY",
		"REINDEX (CONCURRENTLY) TABLE t":                             "CONCURRENTLY",
		"ALTER TABLE t DETACH PARTITION t1 CONCURRENTLY":             "CONCURRENTLY",
		"REINDEX DATABASE d":                                         "REINDEX DATABASE cannot run in a transaction",
		"CREATE DATABASE d":                                          "CREATE DATABASE cannot run",
		"DROP TABLESPACE s":                                          "DROP TABLESPACE cannot run",
		"CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p":          "CREATE SUBSCRIPTION cannot run",
		"ALTER SYSTEM SET jit = off":                                 "ALTER SYSTEM cannot run",
		"VACUUM t":                                                   "VACUUM is not allowed in a schema",
		"CREATE INDEX IF NOT EXISTS concurrently_done ON t (id)":     "",
		"REFRESH MATERIALIZED VIEW CONCURRENTLY v":                   "",
		`CREATE TABLE IF NOT EXISTS t (id int, "concurrently" int)`:  "",
		"COMMENT ON TABLE t IS 'CREATE INDEX CONCURRENTLY'":          "",
	} {
		_, err := Load("m.yaml", []byte(replaced(t, "CREATE TABLE IF NOT EXISTS items_copy (id int PRIMARY KEY, note text);", sql+";")))
		if (err != nil) != (want != "") || want != "" && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected %q, found %v", sql, want, err)
		}
	}
	// All faults at once, in order.
	_, err := Load("m.yaml", []byte("name: a b\nsteps:\n  - from: x\n    when: never\n    sql: COMMIT\n"))
	var faults strictyaml.Errors
	if !errors.As(err, &faults) || len(faults) != 4 {
		t.Errorf("expected 4 faults: %v", err)
	}
}

func TestStarsThatAreAllowed(t *testing.T) {
	for _, sql := range []string{"SELECT count(*) FROM item", "SELECT r.id * 2 FROM item r", "SELECT (r.id) * (2) FROM item r", "SELECT 2*r.id FROM item r"} {
		if _, err := Load("m.yaml", []byte("name: a\ntarget: a\nsteps:\n  - {from: item, when: any, sql: '"+sql+"'}\n")); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	const known = "dd971469921f2d40" // a change of the fingerprint makes every external database run its schemas again
	first := load(t, sound).Fingerprint()
	if first != known {
		t.Errorf("the fingerprint of the same mapping has become %s", first)
	}
	for _, c := range []struct{ old, new string }{
		{"# A comment.", "# Another comment."},
		{"name: items\ntarget: items_copy\n", "target:   'items_copy'\nname: items\n"},
		{"after: [others]", "after:\n  - others"},
		{"    sql: DELETE FROM items_copy t USING item r WHERE t.id = r.id", "    sql: >-\n      DELETE FROM items_copy t\n      USING item r WHERE t.id = r.id"},
	} {
		if got := load(t, replaced(t, c.old, c.new)).Fingerprint(); got != first {
			t.Errorf("layout changes the fingerprint: %q", c.new)
		}
	}
	for _, c := range []struct{ old, new string }{
		{"name: items", "name: things"},
		{"target: items_copy", "target: elsewhere"},
		{"note text);", "note  text);"},
		{"when: upsert", "when: any"},
		{"WHERE t.id = r.id", "WHERE t.id = r.id -- really"},
		{"after: [others]", "after: []"},
		{"after: [others]", "after: [more, others]"},
		{"item: SELECT id FROM items_copy", "item: SELECT id FROM items_copy WHERE true"},
	} {
		if load(t, replaced(t, c.old, c.new)).Fingerprint() == first {
			t.Errorf("%q for %q does not change the fingerprint", c.new, c.old)
		}
	}
}

func TestOrder(t *testing.T) {
	set := Set{}
	for name, after := range map[string]string{"a": "b", "b": "c, missing", "c": "", "d": "a, c", "x": "y", "y": "z", "z": "x"} {
		set[name] = load(t, "name: "+name+"\ntarget: t\nafter: ["+after+"]\nsteps:\n  - {from: item, when: any, sql: SELECT 1}\n")
	}
	for _, c := range []struct{ names, want string }{
		{"a b c d", "c b a d"},
		{"d c b a", "c b a d"},
		{"a c", "a c"}, // b, which would order them, is not chosen
		{"d b", "d b"},
		{"c a", "c a"},
		{"x y", "y x"},
		{"x x", "x"},
		{"", ""},
		{"x y z", "mappings depend on each other in a circle: x after y after z after x"},
		{"a nothing", `there is no mapping "nothing"; there are: a, b, c, d, x, y, z`},
	} {
		ordered, err := set.Order(strings.Fields(c.names))
		var got []string
		for _, m := range ordered {
			got = append(got, m.Name)
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s: expected %q, found %q", c.names, c.want, text)
		}
	}
}

func TestSets(t *testing.T) {
	set := Set{}
	if err := set.LoadFS(sql.Mappings(), "embedded"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"contact_channels", "users"}, set.Names()); diff != "" {
		t.Error(diff)
	}
	// An operator's own takes the place of a default; what is no mapping's file is left alone.
	dir := t.TempDir()
	for name, text := range map[string]string{"own.yml": strings.Replace(sound, "name: items", "name: users", 1), "more.yaml": sound, "README.md": "no mapping"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.LoadPath(dir); err != nil {
		t.Fatal(err)
	}
	if set["users"].Target != "items_copy" || set["items"] == nil {
		t.Errorf("the set has %v", set.Names())
	}
	err := Set{}.LoadFS(fstest.MapFS{"a.yaml": {Data: []byte("name: 1")}, "b.yaml": {Data: []byte("name: [")}}, "dir")
	for _, file := range []string{"dir/a.yaml:", "dir/b.yaml:"} {
		if err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("the faults of %s are not in: %v", file, err)
		}
	}
	if err := set.LoadPath(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// item is the relation that the tests' steps read.
var item = &wal.Relation{Schema: "public", Name: "item", Table: "item", Key: []int{0, 1}, Columns: []wal.Column{
	{Name: "tenant", Type: "uuid", Identity: true}, {Name: "id", Type: "integer", Identity: true}, {Name: "note", Type: "text"},
	{Name: "mood", Type: "mood"}, {Name: "moods", Type: "mood[]"}, {Name: `o"dd`, Type: "numeric(9,2)"}}}

func known(name string) string {
	if strings.HasPrefix(name, "mood") {
		return ""
	}
	return name
}

func TestCompile(t *testing.T) {
	for _, c := range []struct{ sql, want string }{
		{"DELETE FROM t USING item r WHERE r.id = t.id;",
			`WITH "item" AS (SELECT u.c0::integer AS "id" FROM (SELECT unnest($1::text[]) AS c0) AS u) DELETE FROM t USING item r WHERE r.id = t.id`},
		{"-- first\nWith x AS (SELECT r.note FROM item r) SELECT x.note FROM x",
			`WITH "item" AS (SELECT u.c0::text AS "note" FROM (SELECT unnest($1::text[]) AS c0) AS u),  x AS (SELECT r.note FROM item r) SELECT x.note FROM x`},
		{"WITH /* c */ RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 3) SELECT x.n, r.id FROM x, item r",
			`WITH RECURSIVE "item" AS (SELECT u.c0::integer AS "id" FROM (SELECT unnest($1::text[]) AS c0) AS u),  x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 3) SELECT x.n, r.id FROM x, item r`},
		{`SELECT r.mood, r.moods, r."o""dd" FROM item r`,
			`WITH "item" AS (SELECT u.c0::text AS "mood", u.c1::text[] AS "moods", u.c2::numeric(9,2) AS "o""dd" FROM (SELECT unnest($1::text[]) AS c0, unnest($2::text[]) AS c1, unnest($3::text[]) AS c2) AS u) SELECT r.mood, r.moods, r."o""dd" FROM item r`},
		{`SELECT r._op, r._sequence_id, r._committed_at FROM item r`,
			`WITH "item" AS (SELECT u.c0::uuid AS "tenant", u.c1::integer AS "id", u.c2::bigint AS "_sequence_id", u.c3::timestamptz AS "_committed_at", u.c4::text AS "_op" FROM (SELECT unnest($1::text[]) AS c0, unnest($2::text[]) AS c1, unnest($3::text[]) AS c2, unnest($4::text[]) AS c3, unnest($5::text[]) AS c4) AS u) SELECT r._op, r._sequence_id, r._committed_at FROM item r`},
	} {
		m := load(t, fmt.Sprintf("name: m\ntarget: t\nsteps:\n  - {from: item, when: any, sql: %q}\n", c.sql))
		st := m.Compile(0, item, known)
		if st.SQL != c.want {
			t.Errorf("%s\nexpected %s\nfound    %s", c.sql, c.want, st.SQL)
		}
		if again := m.Compile(0, item, known); again.Name != st.Name || len(st.Name) > 63 {
			t.Errorf("%s: the names are %s and %s", c.sql, st.Name, again.Name)
		}
	}
}

// A text that is all faults is given up early: each is looked for in the whole of it.
func TestManyFaults(t *testing.T) {
	for _, sql := range []string{"select " + strings.Repeat(",*", 30_000), "select " + strings.Repeat("$1 ", 20_000)} {
		_, err := Load("m.yaml", fmt.Appendf(nil, "name: m\ntarget: t\nsteps:\n  - {from: a, when: upsert, sql: %q}\n", sql))
		var faults strictyaml.Errors
		if !errors.As(err, &faults) || len(faults) != maxFaults {
			t.Errorf("%d faults", len(faults))
		}
	}
	_, err := Load("m.yaml", []byte("name: m\ntarget: t\nschema: "+strings.Repeat("set; ", 12_000)+"\nsteps: ["+strings.Repeat("{}, ", 10_000)+"]\n"))
	var faults strictyaml.Errors
	if !errors.As(err, &faults) || len(faults) > 2*maxFaults {
		t.Errorf("%d faults", len(faults))
	}
}

// Plain is the statement up to its ON CONFLICT, where nothing stands behind that.
// Each fault of a key is looked for in the whole text: of many keys not all are looked at.
func TestManyKeysWithFaults(t *testing.T) {
	var text strings.Builder
	text.WriteString("name: m\ntarget: t\nsteps:\n  - {from: P, when: upsert, sql: SELECT 1}\nkeys:\n")
	for n := range 7000 {
		fmt.Fprintf(&text, "  %x: S\n", n)
	}
	_, err := Load("m.yaml", []byte(text.String()))
	var faults strictyaml.Errors
	if !errors.As(err, &faults) || len(faults) != maxFaults {
		t.Errorf("%d faults", len(faults))
	}
}

func TestPlainStatements(t *testing.T) {
	rel := &wal.Relation{Schema: "public", Name: "item", Table: "item", Columns: []wal.Column{{Name: "id", Type: "integer", Identity: true}, {Name: "note", Type: "text"}}, Key: []int{0}}
	for sql, want := range map[string]string{
		`INSERT INTO copy SELECT r.id, r.note FROM item r ON CONFLICT (id) DO UPDATE SET note = excluded.note`:  `INSERT INTO copy SELECT r.id, r.note FROM item r`,
		"INSERT INTO copy SELECT r.id FROM item r WHERE r.id > 3 -- but these\n ON CONFLICT DO NOTHING -- else": `INSERT INTO copy SELECT r.id FROM item r WHERE r.id > 3`,
		`INSERT INTO copy SELECT r.id FROM item r`:                                                              "",
		`INSERT INTO copy SELECT r.id FROM item r ON CONFLICT DO NOTHING RETURNING id`:                          "",
		`INSERT INTO copy SELECT r.id FROM item r JOIN other o USING (id) ON CONFLICT DO NOTHING`:               "",
		`INSERT INTO copy SELECT r.id, 'on conflict' FROM item r`:                                               "",
		`WITH x AS (SELECT 1) INSERT INTO copy SELECT r.id FROM item r ON CONFLICT DO NOTHING`:                  "",
	} {
		m, err := Load("m.yaml", fmt.Appendf(nil, "name: m\ntarget: copy\nsteps:\n  - {from: item, when: upsert, sql: %q}\n", sql))
		if err != nil {
			t.Fatal(err)
		}
		st := m.Compile(0, rel, known)
		_, plain, _ := strings.Cut(st.Plain, ") AS u) ")
		if plain != want || !strings.HasPrefix(st.SQL, st.Plain) || (want != "") != (st.PlainName != "") || st.PlainName == st.Name {
			t.Errorf("%s:\n%q\n%q", sql, st.Plain, st.SQL)
		}
	}
}

func TestSimpleSteps(t *testing.T) {
	for sql, want := range map[string]bool{
		`INSERT INTO copy SELECT r.id, r.note FROM item r ON CONFLICT (id) DO UPDATE SET note = excluded.note`: true,
		`INSERT INTO copy (id) SELECT id FROM "item" WHERE id > 3`:                                             true,
		`INSERT INTO copy SELECT r.id FROM item AS r RETURNING id`:                                             true,
		`INSERT INTO copy SELECT r.id FROM item r, other o WHERE o.id = r.id`:                                  false,
		`INSERT INTO copy SELECT r.id FROM item r JOIN other o ON o.id = r.id`:                                 false,
		`INSERT INTO copy SELECT r.id, (SELECT max(n) FROM other) FROM item r`:                                 false,
		`INSERT INTO copy SELECT o.id FROM other o`:                                                            false,
		`INSERT INTO copy SELECT r.id FROM item.item r`:                                                        false,
		`DELETE FROM copy t USING item r WHERE t.id = r.id`:                                                    false,
		`WITH x AS (SELECT id FROM item) INSERT INTO copy SELECT id FROM x`:                                    false,
		`UPDATE copy t SET note = r.note FROM item r WHERE r.id = t.id`:                                        false,
		`INSERT INTO copy SELECT r.id, extract(year FROM r.at) FROM item r`:                                    false, // to be safe
	} {
		tokens, err := lex(sql)
		if err != nil {
			t.Fatal(err)
		}
		if got := simple(Step{From: "item", SQL: sql, tokens: tokens}); got != want {
			t.Errorf("%s: %t", sql, got)
		}
	}
}
