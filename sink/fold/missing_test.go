package fold

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outflow/mapping"
	"outflow/replication/wal"
)

// steps load a mapping that names the columns id, a and b of the table doc, and not the column n.
func steps(t *testing.T) []*mapping.Mapping {
	t.Helper()
	m, err := mapping.Load("m.yaml", []byte(`name: docs
target: docs
schema: CREATE TABLE IF NOT EXISTS docs (id text PRIMARY KEY, a text, b text)
steps:
  - {from: doc, when: delete, sql: 'DELETE FROM docs t USING doc r WHERE t.id = r.id'}
  - {from: doc, when: upsert, sql: 'INSERT INTO docs (id, a, b) SELECT r.id, r.a, r.b FROM doc r ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b'}
keys:
  doc: SELECT id FROM docs
`))
	if err != nil {
		t.Fatal(err)
	}
	return []*mapping.Mapping{m}
}

// docOf is the table doc with columns "name oid".
func docOf(columns ...string) *wal.Relation {
	rel := shaped(columns...)
	rel.OID, rel.Name, rel.Table, rel.Key = 2, "doc", "doc", []int{0, 1}
	return rel
}

var docColumns = []string{"tenant 25", "id 25", "n 23", "a 25", "b 25"}

// docs are upserts of doc, with sequence ids 1, 2, ...
func docs(tuples ...wal.Tuple) *mapping.Rows {
	rows := &mapping.Rows{Relation: docOf(docColumns...)}
	for i, t := range tuples {
		rows.Upserts = append(rows.Upserts, mapping.Row{Tuple: t, SequenceID: int64(i + 1), CommittedAt: time.Unix(int64(i), 0)})
	}
	return rows
}

func shown(rows []mapping.Row) (texts []string) {
	for _, r := range rows {
		texts = append(texts, show(r.Tuple))
	}
	return texts
}

// Only rows that lack a value named by a step are looked up, with all columns that any of the rows lacks.
func TestFindMissing(t *testing.T) {
	t.Parallel()
	rows := docs(
		row("t", "1", "1", "~", "y"),
		row("t", "2", "~", "x", "y"), // no step names n
		row("t", "3", "1", "x", "~"),
		row("t", "4", "1", "x", "y"),
		row("t", "5", "~", "~", "y"), // lacks what an earlier row lacks
		row("t", "6", "1", "-", "y"))
	rows.Deletes = []mapping.Row{{Tuple: row("t", "7", "~", "~", "~"), SequenceID: 7}}
	whole := docs(row("t", "1", "~", "x", "y"))
	all, keys := FindMissing(map[string]*mapping.Rows{"doc": rows, "other": whole}, steps(t))
	if len(all) != 1 || keys != 3 {
		t.Fatalf("%d tables and %d rows lack values", len(all), keys)
	}
	m := all[0]
	if m.Rows != rows || !slices.Equal(m.Columns, []string{"a", "b"}) {
		t.Errorf("columns %v are missing", m.Columns)
	}
	var ids []string
	for _, k := range m.Keys {
		ids = append(ids, string(k.Value(1).Text))
	}
	if !slices.Equal(ids, []string{"1", "3", "5"}) {
		t.Errorf("the rows are %v", ids)
	}
	if diff := cmp.Diff(map[int64]bool{1: true, 3: true, 5: true}, m.From); diff != "" {
		t.Errorf("the transactions (-want +got):\n%s", diff)
	}
}

// The missing values come from the rows as the primary has them now, by the names of the columns.
func TestFillMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		now   *wal.Relation
		found []wal.Tuple // of the rows 1 and 3
		want  []string
		oid   uint32 // of b
		gone  string
	}{
		"the same table": {docOf(docColumns...), []wal.Tuple{row("t", "1", "9", "A", "B"), row("t", "3", "9", "C", "D")},
			[]string{"t 1 1 A y", "t 2 ~ x y", "t 3 1 x D"}, 25, ""},
		"NULL by now": {docOf(docColumns...), []wal.Tuple{row("t", "1", "9", "-", "B"), row("t", "3", "9", "C", "-")},
			[]string{"t 1 1 - y", "t 2 ~ x y", "t 3 1 x -"}, 25, ""},
		"a row is gone": {docOf(docColumns...), []wal.Tuple{{}, row("t", "3", "9", "C", "D")},
			[]string{"t 2 ~ x y", "t 3 1 x D"}, 25, ""},
		"every row is gone": {docOf(docColumns...), []wal.Tuple{{}, {}},
			[]string{"t 2 ~ x y"}, 25, ""},
		"another order, another type": {docOf("b 114", "a 25", "more 25", "id 25", "tenant 25", "n 23"),
			[]wal.Tuple{row("B", "A", "m", "1", "t", "9"), row("D", "C", "m", "3", "t", "9")},
			[]string{"t 1 1 A y", "t 2 ~ x y", "t 3 1 x D"}, 114, ""},
		"a missing column is gone": {docOf("tenant 25", "id 25", "n 23", "a 25"), []wal.Tuple{row("t", "1", "9", "A"), row("t", "3", "9", "C")},
			[]string{"t 1 1 ~ y", "t 2 ~ x y", "t 3 1 x ~"}, 25, "b"},
		"a column is gone, of a row that is gone": {docOf("tenant 25", "id 25", "n 23", "a 25"), []wal.Tuple{row("t", "1", "9", "A"), {}},
			[]string{"t 1 1 A y", "t 2 ~ x y"}, 25, ""},
		"a column is gone that no step names": {docOf("tenant 25", "id 25", "a 25", "b 25"), []wal.Tuple{row("t", "1", "A", "B"), row("t", "3", "C", "D")},
			[]string{"t 1 1 A y", "t 2 ~ x y", "t 3 1 x D"}, 25, ""},
	} {
		rows := docs(row("t", "1", "1", "~", "y"), row("t", "2", "~", "x", "y"), row("t", "3", "1", "x", "~"))
		before := rows.Relation
		all, _ := FindMissing(map[string]*mapping.Rows{"doc": rows}, steps(t))
		gone := all[0].Fill(test.found, test.now)
		if gone != test.gone {
			t.Errorf("%s: gone is %q", name, gone)
		}
		if diff := cmp.Diff(test.want, shown(rows.Upserts)); diff != "" {
			t.Errorf("%s: rows (-want +got):\n%s", name, diff)
		}
		if got := rows.Relation.Columns[4]; got.TypeOID != test.oid || got.Name != "b" || before.Columns[4].TypeOID != 25 {
			t.Errorf("%s: b is %+v, and was %+v", name, got, before.Columns[4])
		}
		if test.gone != "" && rows.Relation != before {
			t.Errorf("%s: the relation was changed", name)
		}
		for _, r := range rows.Upserts {
			if id := string(r.Tuple.Value(1).Text); id != string(rune('0'+r.SequenceID)) {
				t.Errorf("%s: row %s has the sequence id %d", name, id, r.SequenceID)
			}
		}
	}
}
