package sink

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication"
)

// The stream describes a table as published at the time of a change. Changes from before the publication got a column lack the column, and
// a mapping that names the column could not take such changes. The changes are widened: the column is Unchanged, like a value left in
// TOAST, and comes from the primary in the same way.

// learn notes a table as the stream describes the table now; other known columns stay known. It is called with mu held.
func (r *Router) learn(rel *replication.Relation) {
	r.known[rel.Table] = union(rel, r.known[rel.Table])
	clear(r.wide)
}

// widened is the relation with all known columns of the table; often widened is rel itself. The same relation gives the same pointer until
// something is learnt.
func (r *Router) widened(rel *replication.Relation) *replication.Relation {
	r.mu.RLock()
	w := r.wide[rel]
	r.mu.RUnlock()
	if w != nil {
		return w
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w = union(rel, r.known[rel.Table])
	r.wide[rel] = w
	return w
}

// relation is the known relation of a source table, nil where there is no such table.
func (r *Router) relation(table string) *replication.Relation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.known[table]
}

// union is rel with the columns of other (which may be nil) that rel lacks behind its own.
func union(rel, other *replication.Relation) *replication.Relation {
	if other == nil || other == rel {
		return rel
	}
	var more []replication.Column
	for _, c := range other.Columns {
		if rel.Column(c.Name) < 0 {
			more = append(more, c)
		}
	}
	if len(more) == 0 {
		return rel
	}
	wide := *rel
	wide.Columns = append(slices.Clone(rel.Columns), more...)
	return &wide
}

// net are a fold's net changes per table, widened.
func (d *Destination) net(f *fold) map[string]*mapping.Rows {
	all := f.rows()
	for _, rows := range all {
		wide := d.router.widened(rows.Relation)
		if more := len(wide.Columns) - len(rows.Relation.Columns); more > 0 {
			widen(rows.Upserts, more, replication.Unchanged)
			widen(rows.Deletes, more, replication.Null) // the value of a deleted row can no longer be found
			rows.Relation = wide
		}
	}
	return all
}

func widen(rows []mapping.Row, more int, presence replication.Presence) {
	for i := range rows {
		values := rows[i].Tuple.Values(nil)
		for range more {
			values = append(values, replication.Value{Presence: presence})
		}
		rows[i].Tuple = replication.NewTuple(values)
	}
}

// relearn reads from the primary which columns a table has now: the known or configured columns that exist. A column may have been renamed
// or dropped, and may have come back. relearn returns nil where there is no such table.
func (r *Router) relearn(ctx context.Context, table string) (*replication.Relation, error) {
	rel := r.relation(table)
	i := slices.IndexFunc(r.Tables, func(t Table) bool { return t.Relation.Table == table })
	if rel == nil || i < 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	conn, err := r.Primary.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	now, err := replication.LoadTable(ctx, conn, rel.Schema, rel.Name)
	if err != nil || now == nil {
		return nil, err
	}
	now.Relation.Table = table
	now.Relation = now.Relation.Project(append(rel.Names(), r.Tables[i].Relation.Names()...))
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(rel.Names(), now.Relation.Names()) {
		r.Log.Warn("a table has other columns on the primary", zap.Stringer("table", rel), zap.Strings("columns", now.Relation.Names()))
	}
	r.known[table] = now.Relation
	clear(r.wide)
	return now.Relation, nil
}
