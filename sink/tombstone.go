package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/limits"
	"outflow/sink/queue"
)

// tombstone turns an inserted row of the tombstone table into a delete of the named row. A tombstone and a real DELETE of the same row
// fold to one delete; a later second delete finds the row gone and deletes nothing.
func (r *Router) tombstone(part *wal.Transaction, c *wal.Change, rt *route) error {
	if c.Kind != wal.Insert {
		return nil // the clean-up of tombstones brings no row back
	}
	text := func(column string) []byte {
		if i := c.Relation.Column(column); column != "" && i >= 0 {
			return c.New.Value(i).Text
		}
		return nil
	}
	name := string(text(r.Tombstones.TableName))
	rel := r.schemas.Relation(name)
	if rel == nil {
		rel = r.schemas.Relation(wal.JoinTable("", name)) // the configuration quotes some names
	}
	if rel == nil || r.route(rel).table == "" {
		rt.count.skip()
		return nil // of a table that is not synced
	}
	tenant := c.New.Value(rt.tenant)
	old, err := deletedRow(rel, r.schemas.TenantColumn(rel), tenant, text(r.Tombstones.Key), text(r.Tombstones.Row))
	if err != nil {
		// The row itself cannot be named, so there is nothing to delete; the real DELETE is in the stream too.
		rt.count.skip()
		r.Log.Error("a tombstone does not name a row; the tombstone is counted as skipped", zap.Stringer("table", rel),
			zap.Stringer("lsn", part.CommitLSN), zap.Error(err))
		return nil
	}
	gone := wal.Change{Kind: wal.Delete, Tombstone: true, Ordinal: c.Ordinal, Relation: rel, Old: old}
	r.toTenant(part, string(tenant.Text), []wal.Change{gone})
	return nil
}

// withoutEarlierLives leaves out changes of the earlier life of rows that the primary has: of a transaction applied in rounds, or change
// by change, the fold does not see whether the transaction wrote the row again. Tombstones are concerned, and deletes that would take rows
// of other tables along, because no change writes the taken rows again.
func (d *Destination) withoutEarlierLives(ctx context.Context, t *queue.Transaction, changes []wal.Change) ([]wal.Change, error) {
	acts, deleted := map[string]bool{}, map[string]bool{}
	for table := range d.reads {
		acts[table] = d.session.Order.Acts(d.mappings, table)
	}
	if !slices.ContainsFunc(changes, func(c wal.Change) bool { return c.Tombstone || acts[c.Relation.Table] }) {
		return changes, nil
	}
	for i := range changes {
		if c := &changes[i]; c.Kind == wal.Delete && !c.Tombstone {
			deleted[rowName(c)] = true
		}
	}
	asked := map[*wal.Relation][]wal.Tuple{}
	for i := range changes {
		gone := &splitKeyChange(&changes[i])[0]
		if table := gone.Relation.Table; gone.Kind == wal.Delete && d.reads[table] && (acts[table] || gone.Tombstone && !deleted[rowName(gone)]) {
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
		parts := splitKeyChange(&changes[i])
		if live[rowName(&parts[0])] && parts[0].Kind == wal.Delete && (parts[0].Tombstone || acts[parts[0].Relation.Table]) {
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
			live[rowName(&wal.Change{Relation: rel, Old: key})] = true
		}
	}
	return nil
}

// deletedRow makes the old row from a tombstone's JSON: the key, and the other columns where the row was kept. The tenant is the tenant of
// the tombstone itself, and the JSON may leave the tenant out.
func deletedRow(rel *wal.Relation, tenantColumn int, tenant wal.Value, key, row []byte) (wal.Tuple, error) {
	fields := map[string]json.RawMessage{}
	for _, object := range [][]byte{row, key} { // the key wins
		if len(object) == 0 {
			continue
		}
		if err := json.Unmarshal(object, &fields); err != nil {
			return wal.Tuple{}, fmt.Errorf("the key is not a JSON object: %w", err)
		}
	}
	values := make([]wal.Value, len(rel.Columns))
	for i, column := range rel.Columns {
		v, err := jsonText(fields[column.Name])
		if err != nil {
			return wal.Tuple{}, fmt.Errorf("column %q: %w", column.Name, err)
		}
		values[i] = v
	}
	if v := values[tenantColumn]; v.Presence == wal.Text && string(v.Text) != string(tenant.Text) {
		return wal.Tuple{}, errors.New("the key names another tenant than the tombstone")
	}
	values[tenantColumn] = tenant
	for _, i := range rel.Key {
		if values[i].Presence == wal.Null {
			return wal.Tuple{}, fmt.Errorf("the key column %q is missing", rel.Columns[i].Name)
		}
	}
	return wal.NewTuple(values), nil
}

// jsonText is the text form of a JSON value as to_jsonb made the value from a column: a string's content, any other value unchanged.
func jsonText(raw json.RawMessage) (wal.Value, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return wal.Value{Presence: wal.Null}, nil
	}
	if raw[0] != '"' {
		return wal.Value{Presence: wal.Text, Text: raw}, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return wal.Value{}, err
	}
	return wal.Value{Presence: wal.Text, Text: []byte(s)}, nil
}
