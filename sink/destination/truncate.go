package destination

import (
	"context"

	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/external"
)

// truncate deletes, through the mappings' own delete steps, every row of a source table that the external database holds: the mappings'
// keys name those rows. No query finds the rows of a mapping without keys. truncate runs inside the open external transaction, in the
// place of the TRUNCATE in source order.
func (d *Destination) truncate(ctx context.Context, b *batch, rel *wal.Relation) error {
	table := rel.Table
	if !d.reads[table] {
		return nil
	}
	for mi, m := range d.db.Mappings {
		if m.Keys[table] == "" || !b.mappings[mi] {
			continue
		}
		if err := d.deleteKeys(ctx, b, rel, m); err != nil {
			return err
		}
	}
	for mi, m := range d.db.Mappings {
		if !b.mappings[mi] {
			continue
		}
		holding, err := d.session.HoldsRows(ctx, m, table)
		if err != nil {
			return err
		}
		if len(holding) > 0 {
			return external.Unswept(table, holding, "the primary truncated "+table)
		}
	}
	return nil
}

// fetchedKeys is how many keys are fetched at a time: keys of the greatest size in an index, some 2700 bytes, fit in a page.
const fetchedKeys = 1000

// deleteKeys walks one keys query with a cursor. The cursor sees the rows as of its declaration.
func (d *Destination) deleteKeys(ctx context.Context, b *batch, rel *wal.Relation, m *mapping.Mapping) error {
	s := d.session
	q, err := s.KeysOf(ctx, m, rel)
	if err != nil {
		return err
	}
	if err := s.DeclareKeys(ctx, q); err != nil {
		return err
	}
	for {
		keys, err := s.FetchKeys(ctx, q, min(d.queue.Limit(), fetchedKeys))
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			return s.CloseKeys(ctx)
		}
		rows, last := &mapping.Rows{Relation: rel}, b.transactions[len(b.transactions)-1]
		for _, k := range keys {
			rows.Deletes = append(rows.Deletes, mapping.Row{Tuple: k.Tuple, SequenceID: b.last, CommittedAt: last.Committed})
		}
		b.changes += len(rows.Deletes)
		if err := d.applyRows(ctx, b, map[string]*mapping.Rows{rel.Table: rows}); err != nil {
			return err
		}
	}
}
