package wal

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func relation() *Relation {
	return &Relation{OID: 1, Schema: "public", Name: "item", Identity: 'd', Key: []int{1},
		Columns: []Column{{Name: "doc", TypeOID: 25}, {Name: "id", TypeOID: 23, Identity: true}, {Name: "v", TypeOID: 25}, {Name: "w", TypeOID: 25}}}
}

func TestOnlyKeepsTheWantedAndTheKey(t *testing.T) {
	r := relation()
	r.Only([]string{"w", "absent"})
	if diff := cmp.Diff([]string{"id", "w"}, r.Names()); diff != "" || !slices.Equal(r.KeyNames(), []string{"id"}) || !r.Partial() {
		t.Errorf("key %v, partial %v, columns (-expected +found):\n%s", r.KeyNames(), r.Partial(), diff)
	}
	all := relation()
	if all.Only([]string{"doc", "v", "w"}); all.Partial() || len(all.Columns) != 4 {
		t.Errorf("all columns are wanted, and the relation has %v", all.Names())
	}
	if r.SentLike(all) || all.SentLike(r) {
		t.Error("the server is said to have sent two different relations alike")
	}
	again := relation()
	again.Only([]string{"w"})
	again.Columns[0].Type = "integer" // only the catalog tells
	if !r.SentLike(again) || r.SameShape(again) {
		t.Error("what the server sent is told apart by what the catalog adds")
	}
}

func TestSameShape(t *testing.T) {
	for name, change := range map[string]func(*Relation){
		"a column more": func(r *Relation) { r.Columns = append(r.Columns, Column{Name: "x"}) },
		"another type":  func(r *Relation) { r.Columns[2].TypeOID = 1043 },
		"another key":   func(r *Relation) { r.Key = []int{2} },
		"a longer key":  func(r *Relation) { r.Key = []int{1, 2} },
	} {
		if r := relation(); !r.SameShape(relation()) {
			t.Fatal("two equal relations differ")
		} else if change(r); r.SameShape(relation()) || relation().SameShape(r) {
			t.Errorf("%s: the same shape", name)
		}
	}
}

// A row is decoded whole, with and without columns left out, and no prefix of the row is taken for a row.
func TestDecodeTupleGivesTheValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.Custom(func(t *rapid.T) Value {
			p := rapid.SampledFrom([]Presence{Null, Unchanged, Text}).Draw(t, "presence")
			if p != Text {
				return Value{Presence: p}
			}
			return Value{Presence: Text, Text: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "text")}
		})
		r := relation()
		values := rapid.SliceOfN(value, 4, 4).Draw(t, "values")
		wanted := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"doc", "v", "w"}), rapid.ID[string]).Draw(t, "wanted")
		r.Only(wanted)
		var kept []Value
		for i, c := range relation().Columns {
			if c.Identity || slices.Contains(wanted, c.Name) {
				kept = append(kept, values[i])
			}
		}
		sent := binary.BigEndian.AppendUint16(nil, 4)
		for _, v := range values {
			if sent = append(sent, byte(v.Presence)); v.Presence == Text {
				sent = append(binary.BigEndian.AppendUint32(sent, uint32(len(v.Text))), v.Text...)
			}
		}
		for n := range sent {
			if _, _, err := r.DecodeTuple(bytes.Clone(sent[:n])); err == nil {
				t.Fatalf("%d of %d bytes are a row", n, len(sent))
			}
		}
		got, size, err := r.DecodeTuple(append(bytes.Clone(sent), 'N'))
		if err != nil || size != len(sent) {
			t.Fatalf("%d of %d bytes: %v", size, len(sent), err)
		}
		if diff := cmp.Diff(written(NewTuple(kept)), written(got)); diff != "" || got.Len() != len(kept) || got.HasUnchanged() != NewTuple(kept).HasUnchanged() {
			t.Fatalf("%d values, unchanged %v (-sent +decoded):\n%s", got.Len(), got.HasUnchanged(), diff)
		}
		for i, v := range kept {
			if at := got.Value(i); at.Presence != v.Presence || !bytes.Equal(at.Text, v.Text) {
				t.Fatalf("column %d is %v; expected %v", i, at, v)
			}
		}
	})
}

func TestDecodeTupleRefuses(t *testing.T) {
	r := relation()
	for _, row := range [][]byte{{0, 3, 'n', 'n', 'n'}, {0, 5, 'n', 'n', 'n', 'n', 'n'}, {0, 4, 'n', 'n', 'b', 'n'}, {0, 4, 't', 0xff, 0xff, 0xff, 0xff, 'n', 'n', 'n'}} {
		if _, _, err := r.DecodeTuple(row); err == nil {
			t.Errorf("%v was taken for a row", row)
		}
	}
}
