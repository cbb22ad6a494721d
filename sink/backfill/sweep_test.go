package backfill

import (
	"testing"

	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

func TestTallyOfASweep(t *testing.T) {
	for _, c := range []struct {
		name              string
		held, found, gone int64
		copied            int64
		fault             bool
	}{
		{"nothing is gone", 100, 100, 0, 100, false},
		{"the first copy, keys in another form", 0, 0, 300, 300, true},
		{"the first copy, some keys in another form", 0, 200, 100, 300, true},
		{"the first copy of nothing into an old database", 500, 0, 500, 0, false},
		{"an old database with many rows that are gone", 10_300, 300, 10_000, 300, false},
		{"a resync, keys in another form", 300, 0, 300, 300, true},
		{"a resync after half of the rows went", 600, 300, 300, 300, false},
		{"a mapping that keeps few of the rows", 40, 10, 30, 1000, false},
		{"held is not known, keys in another form", -1, 0, 300, 300, true},
		{"held is not known, a few are gone", -1, 290, 10, 300, false},
	} {
		why := tally{Held: c.held, Found: c.found, Gone: c.gone}.fault(c.copied)
		if (why != "") != c.fault {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}

// A chunk of a sweep meets changes that came after its page was read: a TRUNCATE, and a change from before a column went away.
func TestChangesDuringASweep(t *testing.T) {
	text := func(values ...string) wal.Tuple {
		list := make([]wal.Value, len(values))
		for i, v := range values {
			list[i] = wal.Value{Presence: wal.Text, Text: []byte(v)}
		}
		return wal.NewTuple(list)
	}
	before := &wal.Relation{Table: "t", Columns: []wal.Column{{Name: "note"}, {Name: "id"}}, Key: []int{1}}
	now := &wal.Relation{Table: "t", Columns: []wal.Column{{Name: "id"}}, Key: []int{0}}
	c := &chunk{table: "t", relation: now, swept: &page{}, gone: []external.Key{{Tuple: text("1")}}}
	bf := &Backfill{tracker: tracker{changes: []fold.Tracked{{XID: 5, Table: "t", Key: new(fold.Keyer).Key(before, text("n", "2")), Relation: before}}}}
	if keys := bf.changes(c); len(keys) != 1 || keys[0].Len() != 1 || string(keys[0].Value(0).Text) != "2" {
		t.Errorf("changed keys: %v", keys)
	}
	bf.tracker.changes = append(bf.tracker.changes, fold.Tracked{XID: 6, Table: "t", Key: "", Relation: now})
	if gone, err := bf.unchanged(t.Context(), c); len(gone) != 0 || err != nil {
		t.Errorf("after a TRUNCATE %d keys are to be removed: %v", len(gone), err)
	}
}
