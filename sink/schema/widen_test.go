package schema

import (
	"testing"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/external"
)

// rowOf is a row of texts.
func rowOf(texts ...string) mapping.Row {
	values := make([]wal.Value, len(texts))
	for i, text := range texts {
		values[i] = wal.Value{Presence: wal.Text, Text: []byte(text)}
	}
	return mapping.Row{Tuple: wal.NewTuple(values), SequenceID: 7}
}

// Rows from before a column came have the column as a value to be looked up; the value of a deleted row can no longer be found.
func TestWiden(t *testing.T) {
	t.Parallel()
	old := relationOf(1, "t", "tenant", "a")
	s := New(external.SourceTables{{Relation: old, Tenant: "tenant"}}, nil, zap.NewNop())
	s.Learn(relationOf(1, "t", "tenant", "a", "b", "c"))
	rows := &mapping.Rows{Relation: old, Upserts: []mapping.Row{rowOf("t", "1"), rowOf("t", "2")}, Deletes: []mapping.Row{rowOf("t", "3")}}
	whole := &mapping.Rows{Relation: s.Relation("t"), Upserts: []mapping.Row{rowOf("t", "1", "x", "y")}}
	s.Widen(map[string]*mapping.Rows{"t": rows, "u": whole})
	if names := rows.Relation.Names(); len(names) != 4 || names[3] != "c" || len(old.Columns) != 2 {
		t.Errorf("widened to %v from %v", names, old.Names())
	}
	presence := func(r mapping.Row, want wal.Presence) {
		t.Helper()
		if r.Tuple.Len() != 4 || r.SequenceID != 7 || r.Tuple.Value(1).Presence != wal.Text || r.Tuple.Value(2).Presence != want || r.Tuple.Value(3).Presence != want {
			t.Errorf("the row becomes %v of %d", r.Tuple.Values(nil), r.SequenceID)
		}
	}
	presence(rows.Upserts[0], wal.Unchanged)
	presence(rows.Upserts[1], wal.Unchanged)
	presence(rows.Deletes[0], wal.Null)
	if !rows.Upserts[1].Tuple.HasUnchanged() || string(rows.Upserts[1].Tuple.Value(1).Text) != "2" {
		t.Errorf("the second row is %v", rows.Upserts[1].Tuple.Values(nil))
	}
	if whole.Upserts[0].Tuple.HasUnchanged() || whole.Upserts[0].Tuple.Len() != 4 {
		t.Errorf("a whole row becomes %v", whole.Upserts[0].Tuple.Values(nil))
	}
}
