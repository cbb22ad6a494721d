package sink

import (
	"testing"

	"outflow/replication/wal"
)

func TestTableCounts(t *testing.T) {
	var counts tableCounts
	first, second := relationOf(1, "t", "tenant"), relationOf(2, "u", "tenant")
	c := counts.add(first)
	counts.add(second)
	if counts.of(relationOf(1, "renamed", "tenant")) != c || counts.of(relationOf(3, "t")) != nil {
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
