package destination

import (
	"outflow/replication/wal"
	"outflow/sink/fold"
	"slices"
)

// refused are waiting changes of a transaction.
type refused struct {
	changes []wal.Change
	rows    map[string]bool // their tables and keys; of a TRUNCATE the table alone
}

func (f *refused) add(c *wal.Change) {
	if f.rows == nil {
		f.rows = map[string]bool{}
	}
	f.rows[rowName(c)] = true
	f.changes = append(f.changes, *c)
}

// concern reports whether one of the changes has to wait.
func (f *refused) concern(changes []wal.Change) bool {
	return len(f.rows) > 0 && slices.ContainsFunc(changes, func(c wal.Change) bool {
		return slices.ContainsFunc(splitKeyChange(&c), func(c wal.Change) bool { return f.waits(&c) })
	})
}

// waits reports whether a change has to wait because an earlier change of the same row, or of the whole table, waits. A TRUNCATE has to
// wait for every row of the table.
func (f *refused) waits(c *wal.Change) bool {
	if c.Kind == wal.Truncate {
		return slices.ContainsFunc(f.changes, func(o wal.Change) bool { return o.Relation.OID == c.Relation.OID })
	}
	return f.rows[rowName(c)] || f.rows[c.Relation.String()]
}

// rowName names a change's row: table and key.
func rowName(c *wal.Change) string {
	if c.Kind == wal.Truncate {
		return c.Relation.String()
	}
	var keys fold.Keyer
	return c.Relation.String() + "\x00" + keys.Key(c.Relation, rowOf(c))
}

// splitKeyChange splits a change into changes of one row each: an update of the key is a delete of the old row and an upsert of the new
// row.
func splitKeyChange(c *wal.Change) []wal.Change {
	if c.Kind != wal.Update || c.Old.IsZero() {
		return []wal.Change{*c}
	}
	gone, came := *c, *c
	gone.Kind, gone.New = wal.Delete, wal.Tuple{}
	came.Old = wal.Tuple{}
	if rowName(&gone) == rowName(&came) {
		return []wal.Change{*c}
	}
	return []wal.Change{gone, came}
}

// rowOf is the row of a change.
func rowOf(c *wal.Change) wal.Tuple {
	if c.New.IsZero() {
		return c.Old
	}
	return c.New
}
