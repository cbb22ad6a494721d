package sink

import (
	"encoding/json"
	"fmt"

	"go.uber.org/zap"

	"outflow/replication"
)

// tombstone turns an inserted row of the tombstone table into a delete of the row that it names. A tombstone and a real
// DELETE of the same row fold to one delete; the later one deletes what is gone already, which is nothing.
func (r *Router) tombstone(part *replication.Transaction, c *replication.Change, rt *route) error {
	if c.Kind != replication.Insert {
		return nil // tombstones that are cleaned up bring nobody back
	}
	text := func(column string) []byte {
		if i := c.Relation.Column(column); column != "" && i >= 0 {
			return c.New.Value(i).Text
		}
		return nil
	}
	name := string(text(r.Tombstones.TableName))
	rel := r.relation(name)
	if rel == nil {
		rel = r.relation(replication.JoinTable("", name)) // the configuration quotes some names
	}
	if rel == nil || r.route(rel).table == "" {
		return nil // of a table that is not synced
	}
	old, err := deletedRow(rel, text(r.Tombstones.Key), text(r.Tombstones.Row))
	if err != nil {
		// The row itself cannot be named, so there is nothing to delete; a real DELETE still arrives.
		r.Log.Error("a tombstone does not name a row; it is passed over", zap.Stringer("table", rel),
			zap.Stringer("lsn", part.CommitLSN), zap.Error(err))
		return nil
	}
	gone := replication.Change{Kind: replication.Delete, Ordinal: c.Ordinal, Relation: rel, Old: old}
	r.toTenant(part, string(c.New.Value(rt.tenant).Text), []replication.Change{gone})
	return nil
}

// deletedRow makes the old row from a tombstone's JSON: its key, and its other columns where the row was kept.
func deletedRow(rel *replication.Relation, key, row []byte) (replication.Tuple, error) {
	fields := map[string]json.RawMessage{}
	for _, object := range [][]byte{row, key} { // the key wins
		if len(object) == 0 {
			continue
		}
		if err := json.Unmarshal(object, &fields); err != nil {
			return replication.Tuple{}, fmt.Errorf("it is not a JSON object: %w", err)
		}
	}
	values := make([]replication.Value, len(rel.Columns))
	for i, column := range rel.Columns {
		v, err := jsonText(fields[column.Name])
		if err != nil {
			return replication.Tuple{}, fmt.Errorf("column %q: %w", column.Name, err)
		}
		values[i] = v
	}
	for _, i := range rel.Key {
		if values[i].Presence == replication.Null {
			return replication.Tuple{}, fmt.Errorf("the key column %q is missing", rel.Columns[i].Name)
		}
	}
	return replication.NewTuple(values), nil
}

// jsonText is the text form of a JSON value as to_jsonb made it from a column: a string's content, anything else as it
// stands.
func jsonText(raw json.RawMessage) (replication.Value, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return replication.Value{Presence: replication.Null}, nil
	}
	if raw[0] != '"' {
		return replication.Value{Presence: replication.Text, Text: raw}, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return replication.Value{}, err
	}
	return replication.Value{Presence: replication.Text, Text: []byte(s)}, nil
}
