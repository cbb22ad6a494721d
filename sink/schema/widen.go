package schema

import (
	"outflow/mapping"
	"outflow/replication/wal"
)

// The stream describes a table as published at the time of a change. Changes from before the publication got a column lack the column, and
// a mapping that names the column could not take such changes. The changes are widened: the column is Unchanged, like a value left in
// TOAST, and comes from the primary in the same way.

// Widen widens the rows of each table.
func (s *Schemas) Widen(all map[string]*mapping.Rows) {
	for _, rows := range all {
		wide := s.widened(rows.Relation)
		if more := len(wide.Columns) - len(rows.Relation.Columns); more > 0 {
			widen(rows.Upserts, more, wal.Unchanged)
			widen(rows.Deletes, more, wal.Null) // the value of a deleted row can no longer be found
			rows.Relation = wide
		}
	}
}

func widen(rows []mapping.Row, more int, presence wal.Presence) {
	for i := range rows {
		values := rows[i].Tuple.Values(nil)
		for range more {
			values = append(values, wal.Value{Presence: presence})
		}
		rows[i].Tuple = wal.NewTuple(values)
	}
}
