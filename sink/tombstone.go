package sink

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"outflow/replication/wal"
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
	name := string(text(r.config.Tombstones.TableName))
	rel := r.shared.Schemas.Relation(name)
	if rel == nil {
		rel = r.shared.Schemas.Relation(wal.JoinTable("", name)) // the configuration quotes some names
	}
	if rel == nil || r.route(rel).table == "" {
		rt.count.skip()
		return nil // of a table that is not synced
	}
	tenant := c.New.Value(rt.tenant)
	old, err := deletedRow(rel, r.shared.Schemas.TenantColumn(rel), tenant, text(r.config.Tombstones.Key), text(r.config.Tombstones.Row))
	if err != nil {
		// The row itself cannot be named, so there is nothing to delete; the real DELETE is in the stream too.
		rt.count.skip()
		r.config.Log.Error("a tombstone does not name a row; the tombstone is counted as skipped", zap.Stringer("table", rel),
			zap.Stringer("lsn", part.CommitLSN), zap.Error(err))
		return nil
	}
	gone := wal.Change{Kind: wal.Delete, Tombstone: true, Ordinal: c.Ordinal, Relation: rel, Old: old}
	r.toTenant(part, string(tenant.Text), []wal.Change{gone})
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
