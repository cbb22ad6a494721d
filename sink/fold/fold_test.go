package fold

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"outflow/mapping"
	"outflow/replication/wal"
)

// note is a table with a key of two columns, a short column and a column that may be in TOAST.
var note = &wal.Relation{OID: 1, Schema: "public", Name: "note", Table: "note", Identity: 'd', Key: []int{0, 1},
	Columns: []wal.Column{{Name: "tenant", Type: "text", Identity: true}, {Name: "id", Type: "text", Identity: true},
		{Name: "n", Type: "integer"}, {Name: "body", Type: "text"}}}

// row is a tuple of texts: "-" is NULL, "~" an unchanged value in TOAST.
func row(texts ...string) wal.Tuple {
	values := make([]wal.Value, len(texts))
	for i, text := range texts {
		switch text {
		case "-":
			values[i].Presence = wal.Null
		case "~":
			values[i].Presence = wal.Unchanged
		default:
			values[i] = wal.Value{Presence: wal.Text, Text: []byte(text)}
		}
	}
	return wal.NewTuple(values)
}

// show is the reverse of row.
func show(t wal.Tuple) string {
	text := ""
	for i := range t.Len() {
		switch v := t.Value(i); v.Presence {
		case wal.Null:
			text += " -"
		case wal.Unchanged:
			text += " ~"
		default:
			text += " " + string(v.Text)
		}
	}
	return text[1:]
}

func inserted(t wal.Tuple) wal.Change {
	return wal.Change{Kind: wal.Insert, Relation: note, New: t}
}

func updated(old, t wal.Tuple) wal.Change {
	return wal.Change{Kind: wal.Update, Relation: note, Old: old, New: t}
}

func deleted(t wal.Tuple) wal.Change {
	return wal.Change{Kind: wal.Delete, Relation: note, Old: t}
}

func tombstone(t wal.Tuple) wal.Change {
	return wal.Change{Kind: wal.Delete, Relation: note, Old: t, Tombstone: true}
}

// net shows the net changes of a fold of the table note: upserts, then deletes, each with the id of the transaction.
func net(f *Fold) (upserts, deletes []string) {
	rows := f.Rows()["note"]
	if rows == nil {
		return nil, nil
	}
	for _, r := range rows.Upserts {
		upserts = append(upserts, fmt.Sprintf("%d: %s", r.SequenceID, show(r.Tuple)))
	}
	for _, r := range rows.Deletes {
		deletes = append(deletes, fmt.Sprintf("%d: %s", r.SequenceID, show(r.Tuple)))
	}
	return upserts, deletes
}

func TestFold(t *testing.T) {
	t.Parallel()
	none := wal.Tuple{}
	for _, test := range []struct {
		name             string
		changes          [][]wal.Change // by transaction: ids 1, 2, ...
		upserts, deletes []string
	}{
		{"the last state of a row", [][]wal.Change{{inserted(row("t", "a", "1", "x"))}, {updated(none, row("t", "a", "2", "y"))}},
			[]string{"2: t a 2 y"}, nil},
		{"inserted and deleted", [][]wal.Change{{inserted(row("t", "a", "1", "x")), deleted(row("t", "a", "-", "-"))}},
			nil, []string{"1: t a - -"}},
		{"deleted and inserted again", [][]wal.Change{{deleted(row("t", "a", "-", "-"))}, {inserted(row("t", "a", "2", "y"))}},
			[]string{"2: t a 2 y"}, nil},
		{"a value in TOAST comes from the batch", [][]wal.Change{{inserted(row("t", "a", "1", "long"))}, {updated(none, row("t", "a", "2", "~"))}},
			[]string{"2: t a 2 long"}, nil},
		{"a value in TOAST that the batch does not have", [][]wal.Change{{updated(none, row("t", "a", "2", "~"))}},
			[]string{"1: t a 2 ~"}, nil},
		{"a value in TOAST of a deleted row", [][]wal.Change{{deleted(row("t", "a", "-", "-"))}, {updated(none, row("t", "a", "2", "~"))}},
			[]string{"2: t a 2 ~"}, nil},
		{"a change of the key", [][]wal.Change{{updated(row("t", "a", "-", "-"), row("t", "b", "1", "x"))}},
			[]string{"1: t b 1 x"}, []string{"1: t a - -"}},
		{"a change of the key takes the value in TOAST along", [][]wal.Change{
			{inserted(row("t", "a", "1", "long"))}, {updated(row("t", "a", "-", "-"), row("t", "b", "2", "~"))}},
			[]string{"2: t b 2 long"}, []string{"2: t a - -"}},
		{"two rows change places", [][]wal.Change{{updated(row("t", "a", "-", "-"), row("t", "c", "1", "x")),
			updated(row("t", "b", "-", "-"), row("t", "a", "2", "y")), updated(row("t", "c", "-", "-"), row("t", "b", "1", "x"))}},
			[]string{"1: t a 2 y", "1: t b 1 x"}, []string{"1: t c - -"}},
		{"an old row with the same key is no change of the key", [][]wal.Change{{updated(row("t", "a", "1", "x"), row("t", "a", "2", "y"))}},
			[]string{"1: t a 2 y"}, nil},
		{"a tombstone of the row's earlier life, before", [][]wal.Change{{tombstone(row("t", "a", "-", "-")), inserted(row("t", "a", "2", "y"))}},
			[]string{"1: t a 2 y"}, nil},
		{"a tombstone of the row's earlier life, behind", [][]wal.Change{{inserted(row("t", "a", "2", "y")), tombstone(row("t", "a", "-", "-"))}},
			[]string{"1: t a 2 y"}, nil},
		{"a tombstone of a later transaction", [][]wal.Change{{inserted(row("t", "a", "2", "y"))}, {tombstone(row("t", "a", "-", "-"))}},
			nil, []string{"2: t a - -"}},
		{"a tombstone and the delete are one", [][]wal.Change{{tombstone(row("t", "a", "1", "x")), deleted(row("t", "a", "-", "-"))}},
			nil, []string{"1: t a 1 x"}},
		{"the delete and a tombstone are one", [][]wal.Change{{deleted(row("t", "a", "-", "-")), tombstone(row("t", "a", "1", "x"))}},
			nil, []string{"1: t a 1 x"}},
		{"inserted, deleted, and the tombstone", [][]wal.Change{{inserted(row("t", "a", "2", "y")), deleted(row("t", "a", "-", "-")), tombstone(row("t", "a", "-", "-"))}},
			nil, []string{"1: t a - -"}},
	} {
		var f Fold
		for i, changes := range test.changes {
			for j := range changes {
				f.Add("note", &changes[j], int64(i+1), time.Unix(int64(i), 0))
			}
		}
		upserts, deletes := net(&f)
		if diff := cmp.Diff(test.upserts, upserts); diff != "" {
			t.Errorf("%s: upserts (-want +got):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.deletes, deletes); diff != "" {
			t.Errorf("%s: deletes (-want +got):\n%s", test.name, diff)
		}
	}
}

// A table is new where there was nothing but inserts: the first statement for such rows needs no ON CONFLICT.
func TestFoldTellsNewRows(t *testing.T) {
	t.Parallel()
	var f Fold
	if f.Relation("note") != nil || len(f.Rows()) != 0 {
		t.Error("an empty fold has a table")
	}
	c := inserted(row("t", "a", "1", "x"))
	f.Add("note", &c, 1, time.Time{})
	if f.Relation("note") != note || !f.Rows()["note"].New {
		t.Errorf("the relation is %v, new is %v", f.Relation("note"), f.Rows()["note"].New)
	}
	c = updated(wal.Tuple{}, row("t", "b", "1", "x"))
	f.Add("note", &c, 1, time.Time{})
	if f.Rows()["note"].New {
		t.Error("new, after an update")
	}
}

// Keys are told apart whatever their texts, and NULL from the empty text; a key is made a row again.
func TestKeys(t *testing.T) {
	t.Parallel()
	var keys Keyer
	seen := map[string]string{}
	for _, tuple := range []wal.Tuple{row("t", "a", "1", "x"), row("ta", "", "1", "x"), row("", "ta", "1", "x"), row("t", "-", "1", "x"),
		row("-", "t", "1", "x"), row("", "", "1", "x"), row("-", "-", "1", "x"), row("t\x00a", "b", "1", "x"), row("t", "\x00ab", "1", "x")} {
		key := keys.Key(note, tuple)
		if other, twice := seen[key]; twice {
			t.Errorf("%q and %q have one key", other, show(tuple))
		}
		seen[key] = show(tuple)
		back := KeyTuple(note, key)
		for i := range note.Columns {
			want := wal.Value{Presence: wal.Null}
			if slices.Contains(note.Key, i) {
				want = tuple.Value(i)
			}
			if got := back.Value(i); got.Presence != want.Presence || string(got.Text) != string(want.Text) {
				t.Errorf("%q: column %d comes back as %q", show(tuple), i, got.Text)
			}
		}
		if again := keys.Key(note, back); again != key {
			t.Errorf("%q: the key comes back as %q", key, again)
		}
	}
}

// TestFoldEqualsOneByOne draws transactions and compares a target that takes the net changes with a target that takes the changes one by one.
func TestFoldEqualsOneByOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ids := []string{"a", "b", "c"}
		source := map[string]string{} // body by id
		for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID[string]).Draw(t, "before") {
			source[id] = "old " + id
		}
		oneByOne, folded := maps.Clone(source), maps.Clone(source)
		var f Fold
		for i := range rapid.IntRange(1, 12).Draw(t, "changes") {
			c := draw(t, ids, source, i)
			f.Add("note", &c, int64(i), time.Time{})
			apply(oneByOne, &mapping.Rows{Upserts: upserted(&c), Deletes: gone(&c)})
		}
		if rows := f.Rows()["note"]; rows != nil {
			apply(folded, rows)
		}
		if diff := cmp.Diff(oneByOne, folded); diff != "" {
			t.Fatalf("(-one by one +folded):\n%s", diff)
		}
		if diff := cmp.Diff(source, folded); diff != "" {
			t.Fatalf("(-source +folded):\n%s", diff)
		}
	})
}

// draw makes a change that the source allows, and carries the change out there.
func draw(t *rapid.T, ids []string, source map[string]string, i int) wal.Change {
	id := rapid.SampledFrom(ids).Draw(t, "id")
	body, ok := source[id]
	if !ok {
		source[id] = fmt.Sprint("body ", i)
		return inserted(row("t", id, "1", source[id]))
	}
	switch rapid.SampledFrom([]string{"update", "toast", "delete", "move"}).Draw(t, "kind") {
	case "update":
		source[id] = fmt.Sprint("body ", i)
		return updated(wal.Tuple{}, row("t", id, "1", source[id]))
	case "toast":
		return updated(wal.Tuple{}, row("t", id, "1", "~"))
	case "move":
		for _, other := range ids {
			if _, taken := source[other]; !taken {
				source[other] = body
				delete(source, id)
				return updated(row("t", id, "-", "-"), row("t", other, "1", body))
			}
		}
	}
	delete(source, id)
	return deleted(row("t", id, "-", "-"))
}

func upserted(c *wal.Change) []mapping.Row {
	if c.New.IsZero() {
		return nil
	}
	return []mapping.Row{{Tuple: c.New}}
}

func gone(c *wal.Change) []mapping.Row {
	if c.Old.IsZero() {
		return nil
	}
	return []mapping.Row{{Tuple: c.Old}}
}

// apply is an external database: deletes first, and an unchanged value in TOAST stays.
func apply(target map[string]string, rows *mapping.Rows) {
	for _, r := range rows.Deletes {
		delete(target, string(r.Tuple.Value(1).Text))
	}
	for _, r := range rows.Upserts {
		if v := r.Tuple.Value(3); v.Presence == wal.Text {
			target[string(r.Tuple.Value(1).Text)] = string(v.Text)
		}
	}
}
