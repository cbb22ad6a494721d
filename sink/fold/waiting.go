package fold

import (
	"slices"

	"outflow/replication/wal"
)

// Waiting are the changes of a transaction that the external database refuses for now, in the order of the source. The zero Waiting has none. A
// Waiting belongs to one goroutine at a time.
type Waiting struct {
	Changes []wal.Change
	rows    map[string]bool // their tables and keys; of a TRUNCATE the table alone
}

// Add has a change wait.
func (w *Waiting) Add(c *wal.Change) {
	if w.rows == nil {
		w.rows = map[string]bool{}
	}
	w.rows[RowName(c)] = true
	w.Changes = append(w.Changes, *c)
}

// Concern reports whether one of the changes has to wait.
func (w *Waiting) Concern(changes []wal.Change) bool {
	return len(w.rows) > 0 && slices.ContainsFunc(changes, func(c wal.Change) bool {
		return slices.ContainsFunc(SplitKeyChange(&c), func(c wal.Change) bool { return w.Waits(&c) })
	})
}

// Waits reports whether a change has to wait because an earlier change of the same row, or of the whole table, waits. A TRUNCATE has to
// wait for every row of the table.
func (w *Waiting) Waits(c *wal.Change) bool {
	if c.Kind == wal.Truncate {
		return slices.ContainsFunc(w.Changes, func(o wal.Change) bool { return o.Relation.OID == c.Relation.OID })
	}
	return w.rows[RowName(c)] || w.rows[c.Relation.String()]
}

// RowName names a change's row: table and key.
func RowName(c *wal.Change) string {
	if c.Kind == wal.Truncate {
		return c.Relation.String()
	}
	var keys Keyer
	return c.Relation.String() + "\x00" + keys.Key(c.Relation, RowOf(c))
}

// SplitKeyChange splits a change into changes of one row each: an update of the key is a delete of the old row and an upsert of the new
// row.
func SplitKeyChange(c *wal.Change) []wal.Change {
	if c.Kind != wal.Update || c.Old.IsZero() {
		return []wal.Change{*c}
	}
	gone, came := *c, *c
	gone.Kind, gone.New = wal.Delete, wal.Tuple{}
	came.Old = wal.Tuple{}
	if RowName(&gone) == RowName(&came) {
		return []wal.Change{*c}
	}
	return []wal.Change{gone, came}
}

// RowOf is the row of a change.
func RowOf(c *wal.Change) wal.Tuple {
	if c.New.IsZero() {
		return c.Old
	}
	return c.New
}
