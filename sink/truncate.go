package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/mapping"
	"outflow/replication"
)

// truncate deletes, through the mappings' own delete steps, every row of a source table that the external database holds:
// the mappings' keys say which those are. What a mapping without keys holds then is rows that nobody finds. It runs inside the open external transaction, in its place in source order.
func (d *Destination) truncate(ctx context.Context, b *batch, rel *replication.Relation) error {
	table := rel.Table
	if !d.reads[table] {
		return nil
	}
	for mi, m := range d.mappings {
		query, ok := m.Keys[table]
		if !ok || !b.mappings[mi] {
			continue
		}
		if err := d.deleteKeys(ctx, b, rel, m, query); err != nil {
			return err
		}
	}
	for mi, m := range d.mappings {
		if !b.mappings[mi] {
			continue
		}
		holding, err := d.session.holdsRows(ctx, m, table)
		if err != nil {
			return err
		}
		if len(holding) > 0 {
			return unswept(table, holding, "the primary truncated "+table)
		}
	}
	return nil
}

// deleteKeys walks one keys query with a cursor, which sees the rows as they were when it was declared.
func (d *Destination) deleteKeys(ctx context.Context, b *batch, rel *replication.Relation, m *mapping.Mapping, query string) error {
	s := d.session
	if _, err := s.exec(ctx, "DECLARE outflow_keys NO SCROLL CURSOR FOR "+query); err != nil {
		return &Error{Mapping: m.Name, Table: rel.Table, verdict: needsHuman, SQLState: sqlstate(err), Err: fmt.Errorf("keys: %w", err)}
	}
	for {
		result := s.conn.ExecParams(ctx, fmt.Sprintf("FETCH %d FROM outflow_keys", d.limit), nil, nil, nil, nil).Read()
		if result.Err != nil {
			return fmt.Errorf("keys of mapping %s: %w", m.Name, result.Err)
		}
		if len(result.Rows) == 0 {
			break
		}
		rows, err := d.keyRows(rel, m, result, b)
		if err != nil {
			return err
		}
		b.changes += len(rows.Deletes)
		if err := d.applyRows(ctx, b, map[string]*mapping.Rows{rel.Table: rows}); err != nil {
			return err
		}
	}
	_, err := s.exec(ctx, "CLOSE outflow_keys")
	return err
}

// keyRows makes deletes of what a keys query returned. The tenant column need not be in it: it is known.
func (d *Destination) keyRows(rel *replication.Relation, m *mapping.Mapping, result *pgconn.Result, b *batch) (*mapping.Rows, error) {
	places := make([]int, len(result.FieldDescriptions))
	for i, f := range result.FieldDescriptions {
		if places[i] = rel.Column(f.Name); places[i] < 0 {
			return nil, &Error{Mapping: m.Name, Table: rel.Table, verdict: needsHuman,
				Err: fmt.Errorf("keys: %s has no column %q", rel.Table, f.Name)}
		}
	}
	rows := &mapping.Rows{Relation: rel}
	tenant := d.router.tenantColumn(rel)
	for _, r := range result.Rows {
		values := make([]replication.Value, len(rel.Columns))
		for i := range values {
			values[i].Presence = replication.Null
		}
		if tenant >= 0 {
			values[tenant] = replication.Value{Presence: replication.Text, Text: []byte(d.Tenant)}
		}
		for i, text := range r {
			if text != nil {
				values[places[i]] = replication.Value{Presence: replication.Text, Text: text}
			}
		}
		rows.Deletes = append(rows.Deletes, mapping.Row{Tuple: replication.NewTuple(values), SequenceID: b.last, CommittedAt: committedAt(b)})
	}
	return rows, nil
}

func committedAt(b *batch) time.Time { return b.transactions[len(b.transactions)-1].committed }

// tenantColumn is the index of the tenant's column, -1 where it is not known.
func (r *Router) tenantColumn(rel *replication.Relation) int {
	for _, t := range r.Tables {
		if t.Relation.OID == rel.OID {
			return rel.Column(t.Tenant)
		}
	}
	return -1
}
