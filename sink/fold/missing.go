package fold

import (
	"slices"

	"outflow/mapping"
	"outflow/replication/wal"
)

// Missing is what a table's rows lack in a batch.
type Missing struct {
	Rows    *mapping.Rows
	named   []int // the columns that a step names
	Columns []string
	Keys    []wal.Tuple    // of the incomplete rows, in the order of the rows
	From    map[int64]bool // sequence ids of their transactions
}

// FindMissing finds the rows that lack a value which a step of the mappings names, and their number.
func FindMissing(rows map[string]*mapping.Rows, mappings []*mapping.Mapping) (all []Missing, keys int) {
	for table, r := range rows {
		m, lacks := Missing{Rows: r, From: map[int64]bool{}}, map[int]bool{}
		for i := range r.Upserts {
			t := r.Upserts[i].Tuple
			if !t.HasUnchanged() {
				continue
			}
			if m.named == nil {
				m.named = namedColumns(mappings, table, r.Relation)
			}
			if n := len(lacks); m.lacks(t, lacks) || len(lacks) > n {
				m.Keys = append(m.Keys, t)
				m.From[r.Upserts[i].SequenceID] = true
			}
		}
		if len(m.Keys) == 0 {
			continue
		}
		for i := range lacks {
			m.Columns = append(m.Columns, r.Relation.Columns[i].Name)
		}
		slices.Sort(m.Columns)
		all, keys = append(all, m), keys+len(m.Keys)
	}
	return all, keys
}

// lacks reports whether the row lacks a named column, and adds the columns to which, which may be nil.
func (m *Missing) lacks(t wal.Tuple, which map[int]bool) (any bool) {
	for _, i := range m.named {
		if t.Value(i).Presence == wal.Unchanged {
			if any = true; which != nil {
				which[i] = true
			}
		}
	}
	return any
}

// Fill takes the missing values from the found rows: a found row for each incomplete row, zero where the row is gone. now is the table as the found
// rows describe the table: where a column has another type by now all rows of the batch get the new type. gone is a column that the table no longer
// has, "" where there is none: the rows are as before then.
func (m *Missing) Fill(found []wal.Tuple, now *wal.Relation) (gone string) {
	r := m.Rows
	at, typed := Places(r.Relation, now)
	kept := make([]mapping.Row, 0, len(r.Upserts))
	for _, row := range r.Upserts {
		if row.Tuple.HasUnchanged() && m.lacks(row.Tuple, nil) {
			current := found[0]
			found = found[1:]
			if current.IsZero() {
				continue
			}
			for _, i := range m.named {
				if at[i] < 0 && row.Tuple.Value(i).Presence == wal.Unchanged {
					return r.Relation.Columns[i].Name
				}
			}
			row.Tuple = row.Tuple.Complete(Arrange(current, at))
		}
		kept = append(kept, row)
	}
	r.Upserts, r.Relation = kept, typed
	return ""
}

// namedColumns are the indexes of the relation's columns that a step names.
func namedColumns(mappings []*mapping.Mapping, table string, rel *wal.Relation) []int {
	named := []int{}
	for _, m := range mappings {
		names, _ := m.Columns(table, rel.Names())
		for _, name := range names {
			if i := rel.Column(name); !slices.Contains(named, i) {
				named = append(named, i)
			}
		}
	}
	return named
}
