package sink

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"go.uber.org/zap"

	"outflow/replication"
)

// With on_error: quarantine, a row that the external database refuses is set aside in a table there, in the transaction that
// brings the rest. What it holds of the row is what the mappings name: nothing else may leave the primary.
const (
	createQuarantine = `CREATE TABLE IF NOT EXISTS "_stack_sync_quarantine" (
		"id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		"quarantined_at" timestamptz NOT NULL DEFAULT now(),
		"source_table" text NOT NULL,
		"operation" text NOT NULL,
		"row" jsonb NOT NULL,
		"sequence_id" bigint NOT NULL,
		"mapping_name" text NOT NULL,
		"sqlstate" text NOT NULL,
		"message" text NOT NULL)`
	addQuarantined = `INSERT INTO "_stack_sync_quarantine"
		("source_table", "operation", "row", "sequence_id", "mapping_name", "sqlstate", "message") VALUES ($1, $2, $3::jsonb, $4::bigint, $5, $6, $7)`
)

// quarantined is a row that is set aside.
type quarantined struct {
	relation   *replication.Relation
	op         string
	row        replication.Tuple
	sequenceID int64
	err        *Error
}

// quarantine sets a row aside within the open transaction.
func (s *session) quarantine(ctx context.Context, q quarantined) error {
	result := s.conn.ExecParams(ctx, addQuarantined, q.parameters(s.d), nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("writing _stack_sync_quarantine: %w", result.Err)
	}
	return nil
}

func (q quarantined) parameters(d *Destination) [][]byte {
	row := map[string]*string{}
	for _, i := range q.relation.Key {
		row[q.relation.Columns[i].Name] = text(q.row.Value(i))
	}
	for _, m := range d.mappings {
		named, _ := m.Columns(q.relation.Table, q.relation.Names())
		for _, column := range named {
			row[column] = text(q.row.Value(q.relation.Column(column)))
		}
	}
	object, err := json.Marshal(row)
	if err != nil {
		panic(err) // strings only
	}
	d.log.Warn("a row is set aside in _stack_sync_quarantine", zap.String("mapping", q.err.Mapping), zap.Stringer("table", q.relation),
		zap.String("sqlstate", q.err.SQLState), zap.Int64("sequence_id", q.sequenceID))
	return texts(q.relation.Table, q.op, string(object), strconv.FormatInt(q.sequenceID, 10), q.err.Mapping, q.err.SQLState, q.err.Err.Error())
}

// text is a value for JSON: nil is NULL, or not known.
func text(v replication.Value) *string {
	if v.Presence != replication.Text {
		return nil
	}
	s := string(v.Text)
	return &s
}
