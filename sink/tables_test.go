package sink

import (
	"testing"

	"outflow/replication/wal"
)

func TestTableCounts(t *testing.T) {
	var counts tableCounts
	first, second := tableOf(1, "t", "tenant"), tableOf(2, "u", "tenant")
	c := counts.add(first)
	counts.add(second)
	if counts.of(tableOf(1, "renamed", "tenant")) != c || counts.of(tableOf(3, "t")) != nil {
		t.Error("a table is known by another thing than its oid")
	}
	for id, kind := range []wal.Kind{wal.Insert, wal.Update, wal.Update, wal.Delete, wal.Truncate} {
		c.add(kind, int64(10+id))
	}
	c.skip()
	want := TableStatus{Table: first.String(), Inserts: 1, Updates: 2, Deletes: 1, Truncates: 1, Skipped: 1, MinSequenceID: 10, MaxSequenceID: 14}
	got := counts.status()
	if len(got) != 2 || got[0] != want || got[1] != (TableStatus{Table: second.String(), MinSequenceID: -1, MaxSequenceID: -1}) {
		t.Errorf("the counts are %+v", got)
	}
}

// tableOf is a relation of public.table; the first column is the tenant's, and the key.
func tableOf(oid uint32, table string, columns ...string) *wal.Relation {
	rel := &wal.Relation{OID: oid, Schema: "public", Name: table, Table: table, Key: []int{0}}
	for _, name := range columns {
		rel.Columns = append(rel.Columns, wal.Column{Name: name, TypeOID: 25, Type: "text"})
	}
	return rel
}
