package backfill

import (
	"strings"
	"testing"

	"outflow/replication/tableread"
	"outflow/replication/wal"
)

// tableItem is a table of a tenant's items.
var tableItem = &wal.Relation{OID: 1, Schema: "public", Name: "item", Table: "item", Identity: 'd', Key: []int{0, 1},
	Columns: []wal.Column{{Name: "tenant", Type: "text", Identity: true}, {Name: "id", Type: "text", Identity: true}}}

func insertOf(tenant, id string) wal.Change {
	return wal.Change{Kind: wal.Insert, Relation: tableItem, New: wal.NewTuple([]wal.Value{
		{Presence: wal.Text, Text: []byte(tenant)}, {Presence: wal.Text, Text: []byte(id)}})}
}

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
	insert, truncate := insertOf("t", "1"), wal.Change{Kind: wal.Truncate, Relation: tableItem}
	moved := insertOf("t", "2")
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

// The keys that a copy tracks are bounded by their bytes: a key may be long.
func TestTrackedKeysAreBounded(t *testing.T) {
	t.Parallel()
	bf := &Backfill{reads: map[string]bool{"item": true}, active: true}
	kept := func() (bytes int64) {
		for _, k := range bf.tracker.changes {
			bytes += int64(len(k.Key))
		}
		return bytes
	}
	most := int64(0)
	for i := range 1000 {
		c := insertOf("t", strings.Repeat("k", 200_000))
		bf.Track(uint32(i), []wal.Change{c})
		most = max(most, kept())
	}
	if most > maxTracked || most < maxTracked/2 {
		t.Errorf("the copy has kept %d bytes of keys; %d are allowed", most, maxTracked)
	}
	all, err := wal.ParseSnapshot("5000:5000:")
	if err != nil {
		t.Fatal(err)
	}
	bf.tracker.seen(all)
	if bf.tracker.bytes != 0 || len(bf.tracker.changes) > 0 {
		t.Errorf("%d keys of %d bytes are left, all of transactions that the snapshot sees", len(bf.tracker.changes), bf.tracker.bytes)
	}
}
