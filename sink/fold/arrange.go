package fold

import (
	"slices"

	"outflow/replication/wal"
)

// Places are the places of a relation's columns in another relation, -1 where the other relation lacks the column; typed is the relation
// with the column types of the other.
func Places(rel, in *wal.Relation) (places []int, typed *wal.Relation) {
	typed = rel
	for i, c := range rel.Columns {
		place := in.Column(c.Name)
		places = append(places, place)
		if place >= 0 && in.Columns[place].TypeOID != c.TypeOID {
			if typed == rel {
				clone := *rel
				clone.Columns = slices.Clone(rel.Columns)
				typed = &clone
			}
			typed.Columns[i] = in.Columns[place]
		}
	}
	return places, typed
}

// Arrange is a row of another relation with the columns at the [Places]; a column that the other relation lacks is NULL.
func Arrange(t wal.Tuple, places []int) wal.Tuple {
	all, values := t.Values(nil), make([]wal.Value, len(places))
	for i, place := range places {
		values[i].Presence = wal.Null
		if place >= 0 {
			values[i] = all[place]
		}
	}
	return wal.NewTuple(values)
}
