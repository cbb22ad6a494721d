package sink

import (
	"testing"

	"outflow/replication/tableread"
	"outflow/replication/wal"
)

func snapshotOf(t *testing.T, text string) wal.Snapshot {
	t.Helper()
	s, err := wal.ParseSnapshot(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTracker(t *testing.T) {
	var tr tracker
	tr.begin()
	insert, truncate := inserted("t", "1"), wal.Change{Kind: wal.Truncate, Relation: item}
	moved := inserted("t", "2")
	moved.Kind, moved.Old = wal.Update, insert.New
	tr.add(5, &insert)
	tr.add(6, &moved)
	tr.add(7, &truncate)
	if len(tr.changes) != 4 || tr.changes[3].Key != "" || tr.changes[0].Key != tr.changes[1].Key || tr.full() {
		t.Errorf("tracked are %+v", tr.changes)
	}
	concerning := func(c *chunk) (n int) {
		for range tr.concerning(c) {
			n++
		}
		return n
	}
	see6 := snapshotOf(t, "7:7:")
	rows := &chunk{Chunk: tableread.Chunk{Snapshot: see6}, table: "item"}
	if n := concerning(rows); n != 1 {
		t.Errorf("%d changes concern rows of a snapshot that sees all but one", n)
	}
	if n := concerning(&chunk{Chunk: tableread.Chunk{Snapshot: see6}, table: "item", swept: &page{since: 1}}); n != 3 {
		t.Errorf("%d changes concern keys read before three of them", n)
	}
	if n := concerning(&chunk{Chunk: tableread.Chunk{Snapshot: see6}, table: "other"}); n != 0 {
		t.Errorf("%d changes concern another table", n)
	}
	tr.seen(see6)
	if len(tr.changes) != 1 || tr.bytes != tr.changes[0].Bytes() {
		t.Errorf("left are %+v of %d bytes", tr.changes, tr.bytes)
	}
	number := tr.number
	if tr.begin(); tr.number == number || len(tr.changes) > 0 || tr.bytes != 0 {
		t.Errorf("after another beginning: %+v", tr)
	}
}

func TestSuspects(t *testing.T) {
	tr := tracker{suspects: map[uint32]bool{5: true, 9: true, 12: true}}
	twelve := uint32(12)
	if xid, found := tr.unseen(snapshotOf(t, "9:20:9,12"), &twelve); !found || xid != 12 {
		t.Errorf("the awaited transaction does not come first: %d, %v", xid, found)
	}
	if xid, found := tr.unseen(snapshotOf(t, "12:20:12"), nil); !found || xid != 12 {
		t.Errorf("a transaction not visible yet: %d, %v", xid, found)
	}
	if _, found := tr.unseen(snapshotOf(t, "20:20:"), &twelve); found || len(tr.suspects) != 0 {
		t.Errorf("suspects are left, and the snapshot sees all: %v", tr.suspects)
	}
	// A transaction that was seen once is a suspect no longer.
	if _, found := tr.unseen(snapshotOf(t, "5:20:5,9,12"), &twelve); found {
		t.Error("a transaction that was visible is waited for")
	}
}
