package wal

import (
	"strings"
	"testing"
)

// written is a tuple for messages: its values, "NULL" and "(unchanged)".
func written(t Tuple) string {
	var all []string
	for _, v := range t.Values(nil) {
		text := map[Presence]string{Null: "NULL", Unchanged: "(unchanged)"}[v.Presence]
		if v.Presence == Text {
			text = string(v.Text)
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func TestFillTakesUnchangedColumnsOnly(t *testing.T) {
	tuple := func(values ...Value) Tuple { return NewTuple(values) }
	u, n := Value{Presence: Unchanged}, Value{Presence: Null}
	v := func(s string) Value { return Value{Presence: Text, Text: []byte(s)} }
	got := tuple(v("1"), u, v("new"), n).Fill(tuple(v("x"), v("kept"), n, v("y")))
	if want := "1 kept new NULL"; written(got) != want || got.HasUnchanged() {
		t.Errorf("filled: %s, want %s", written(got), want)
	}
	if got := tuple(v("1"), u).Fill(tuple(v("x"), u)); !got.HasUnchanged() {
		t.Error("a column that is unchanged on both sides was filled")
	}
	if got := tuple(v("1"), u).Fill(tuple(v("x"), n)); !got.HasUnchanged() {
		t.Error("a value in TOAST was taken for NULL")
	}
	if got := tuple(v("1"), u).Complete(tuple(v("x"), n)); got.HasUnchanged() || written(got) != "1 NULL" {
		t.Errorf("completed: %s", written(got))
	}
}
