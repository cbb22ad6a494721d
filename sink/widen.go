package sink

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

// The stream describes a table as published at the time of a change. Changes from before the publication got a column lack the column, and
// a mapping that names the column could not take such changes. The changes are widened: the column is Unchanged, like a value left in
// TOAST, and comes from the primary in the same way.

// net are a fold's net changes per table, widened.
func (d *Destination) net(f *fold.Fold) map[string]*mapping.Rows {
	all := f.Rows()
	for _, rows := range all {
		wide := d.router.schemas.widened(rows.Relation)
		if more := len(wide.Columns) - len(rows.Relation.Columns); more > 0 {
			widen(rows.Upserts, more, wal.Unchanged)
			widen(rows.Deletes, more, wal.Null) // the value of a deleted row can no longer be found
			rows.Relation = wide
		}
	}
	return all
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

// relearn reads from the primary which columns a table has now: the known or configured columns that exist. A column may have been renamed
// or dropped, and may have come back. relearn returns nil where there is no such table.
func (r *Router) relearn(ctx context.Context, table string) (*wal.Relation, error) {
	rel := r.schemas.Relation(table)
	i := slices.IndexFunc(r.Tables, func(t external.SourceTable) bool { return t.Relation.Table == table })
	if rel == nil || i < 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	conn, err := r.Primary.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	now, err := primary.LoadTable(ctx, conn, rel.Schema, rel.Name)
	if err != nil || now == nil {
		return nil, err
	}
	now.Relation.Table = table
	now.Relation = now.Relation.Project(append(rel.Names(), r.Tables[i].Relation.Names()...))
	if !slices.Equal(rel.Names(), now.Relation.Names()) {
		r.Log.Warn("a table has different columns on the primary", zap.Stringer("table", rel), zap.Strings("columns", now.Relation.Names()))
	}
	r.schemas.replace(now.Relation)
	return now.Relation, nil
}
