package fold

import (
	"testing"

	"outflow/replication/wal"
)

// of gives a change another table.
func of(rel *wal.Relation, c wal.Change) wal.Change {
	c.Relation = rel
	return c
}

// A change waits for an earlier change of its row, by the old key or by the new key, and for a TRUNCATE of its table; a TRUNCATE waits for every row.
func TestWaiting(t *testing.T) {
	t.Parallel()
	none, other := wal.Tuple{}, *note
	other.OID, other.Name, other.Table = 9, "other", "other"
	a, b, c := row("t", "a", "1", "x"), row("t", "b", "1", "x"), row("t", "c", "1", "x")
	truncate := wal.Change{Kind: wal.Truncate, Relation: note}
	for name, test := range map[string]struct {
		waiting []wal.Change
		change  wal.Change
		want    bool
	}{
		"nothing waits":                        {nil, inserted(a), false},
		"nothing waits for a TRUNCATE":         {nil, truncate, false},
		"the same row":                         {[]wal.Change{inserted(a)}, updated(none, row("t", "a", "2", "y")), true},
		"the same row, deleted":                {[]wal.Change{updated(none, a)}, deleted(row("t", "a", "-", "-")), true},
		"the same row, inserted again":         {[]wal.Change{deleted(row("t", "a", "-", "-"))}, inserted(a), true},
		"another row":                          {[]wal.Change{inserted(a)}, inserted(b), false},
		"the same key in another table":        {[]wal.Change{inserted(a)}, of(&other, inserted(a)), false},
		"from the key of a waiting row":        {[]wal.Change{inserted(a)}, updated(a, b), true},
		"to the key of a waiting row":          {[]wal.Change{inserted(a)}, updated(b, a), true},
		"between the keys of other rows":       {[]wal.Change{inserted(a)}, updated(b, c), false},
		"a TRUNCATE of the table":              {[]wal.Change{inserted(a)}, truncate, true},
		"a TRUNCATE of another table":          {[]wal.Change{inserted(a)}, of(&other, truncate), false},
		"a row behind a TRUNCATE":              {[]wal.Change{truncate}, inserted(a), true},
		"a key change behind a TRUNCATE":       {[]wal.Change{truncate}, updated(a, b), true},
		"another table's row after a TRUNCATE": {[]wal.Change{truncate}, of(&other, inserted(a)), false},
		"a second TRUNCATE":                    {[]wal.Change{truncate}, truncate, true},
		"the second of two":                    {[]wal.Change{inserted(a), inserted(b)}, deleted(b), true},
	} {
		var w Waiting
		for i := range test.waiting {
			w.Add(&test.waiting[i])
		}
		if len(w.Changes) != len(test.waiting) {
			t.Errorf("%s: %d changes wait", name, len(w.Changes))
		}
		if got := w.Concern([]wal.Change{of(&other, inserted(c)), test.change}); got != test.want {
			t.Errorf("%s: the changes have to wait: %v", name, got)
		}
		waits := false
		for _, part := range SplitKeyChange(&test.change) {
			waits = waits || w.Waits(&part)
		}
		if waits != test.want {
			t.Errorf("%s: the change has to wait: %v", name, waits)
		}
	}
}

// An update of the key is a delete of the old row and an upsert of the new row; all else is one change.
func TestSplitKeyChange(t *testing.T) {
	t.Parallel()
	old, new := row("t", "a", "1", "x"), row("t", "b", "2", "y")
	for name, c := range map[string]wal.Change{"an insert": inserted(new), "a delete": deleted(old), "an update without an old row": updated(wal.Tuple{}, new),
		"an update with the same key": updated(old, row("t", "a", "2", "y")), "a TRUNCATE": {Kind: wal.Truncate, Relation: note}} {
		parts := SplitKeyChange(&c)
		if len(parts) != 1 || parts[0].Kind != c.Kind || parts[0].Old.IsZero() != c.Old.IsZero() || parts[0].New.IsZero() != c.New.IsZero() {
			t.Errorf("%s becomes %+v", name, parts)
		}
	}
	c := updated(old, new)
	parts := SplitKeyChange(&c)
	if len(parts) != 2 {
		t.Fatalf("an update of the key becomes %d changes", len(parts))
	}
	if gone := parts[0]; gone.Kind != wal.Delete || show(gone.Old) != "t a 1 x" || !gone.New.IsZero() || show(RowOf(&gone)) != "t a 1 x" {
		t.Errorf("first comes %+v", gone)
	}
	if came := parts[1]; came.Kind != wal.Update || show(came.New) != "t b 2 y" || !came.Old.IsZero() || show(RowOf(&came)) != "t b 2 y" {
		t.Errorf("then comes %+v", came)
	}
	if RowName(&parts[0]) == RowName(&parts[1]) || c.Kind != wal.Update || c.Old.IsZero() || c.New.IsZero() {
		t.Errorf("the change was altered: %+v", c)
	}
}
