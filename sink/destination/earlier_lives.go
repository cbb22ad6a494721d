package destination

import (
	"context"
	"slices"

	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/fold"
	"outflow/sink/limits"
	"outflow/sink/queue"
)

// withoutEarlierLives leaves out changes of the earlier life of rows that the primary has: of a transaction applied in rounds, or change
// by change, the fold does not see whether the transaction wrote the row again. Tombstones are concerned, and deletes that would take rows
// of other tables along, because no change writes the taken rows again.
func (d *Destination) withoutEarlierLives(ctx context.Context, t *queue.Transaction, changes []wal.Change) ([]wal.Change, error) {
	acts, deleted := map[string]bool{}, map[string]bool{}
	for table := range d.reads {
		acts[table] = d.session.Order.Acts(d.db.Mappings, table)
	}
	if !slices.ContainsFunc(changes, func(c wal.Change) bool { return c.Tombstone || acts[c.Relation.Table] }) {
		return changes, nil
	}
	for i := range changes {
		if c := &changes[i]; c.Kind == wal.Delete && !c.Tombstone {
			deleted[fold.RowName(c)] = true
		}
	}
	asked := map[*wal.Relation][]wal.Tuple{}
	for i := range changes {
		gone := &fold.SplitKeyChange(&changes[i])[0]
		if table := gone.Relation.Table; gone.Kind == wal.Delete && d.reads[table] && (acts[table] || gone.Tombstone && !deleted[fold.RowName(gone)]) {
			asked[gone.Relation] = append(asked[gone.Relation], gone.Old)
		}
	}
	if len(asked) == 0 {
		return changes, nil
	}
	live := map[string]bool{}
	for rel, keys := range asked {
		if err := d.findLive(ctx, t, rel, keys, live); err != nil {
			return nil, err
		}
	}
	var left []wal.Change
	for i := range changes {
		parts := fold.SplitKeyChange(&changes[i])
		if live[fold.RowName(&parts[0])] && parts[0].Kind == wal.Delete && (parts[0].Tombstone || acts[parts[0].Relation.Table]) {
			left = append(left, parts[1:]...)
		} else {
			left = append(left, changes[i])
		}
	}
	return left, nil
}

// findLive adds to live the keys whose rows the primary has, for this tenant. A key may be written in another way in a tombstone's JSON
// than in the row: the primary tells whether the two are equal.
func (d *Destination) findLive(ctx context.Context, t *queue.Transaction, rel *wal.Relation, keys []wal.Tuple, live map[string]bool) error {
	found, err := d.current(ctx, rel, tableread.Look{Keys: tableread.Keys{Tuples: keys}, After: []uint32{t.XID}, Bytes: limits.PieceMin})
	if err != nil {
		return err
	}
	for i, key := range keys {
		if !found.Rows[i].IsZero() { // of no column, and so of no bytes: the answer is whole
			live[fold.RowName(&wal.Change{Relation: rel, Old: key})] = true
		}
	}
	return nil
}
