package external

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// With on_error: quarantine, a row refused by the external database is set aside in a table there, in the transaction of the other rows.
// The quarantine holds only the columns that the mappings name: nothing else may leave the primary. The external database takes the
// quarantine's row, whatever the reason of the refusal: see plain.
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

// Quarantined is a row set aside.
type Quarantined struct {
	Relation   *wal.Relation
	Op         string
	Row        wal.Tuple
	SequenceID int64
	Err        *Error
}

// Quarantine sets a row aside within the open transaction.
func (s *Session) Quarantine(ctx context.Context, q Quarantined) error {
	if err := failpoint.Fail(failpoint.BeforeQuarantine); err != nil {
		return err
	}
	if err := s.Exec(ctx, addQuarantined, q.parameters(s)...); err != nil {
		return fmt.Errorf("writing _stack_sync_quarantine: %w", err)
	}
	return failpoint.Fail(failpoint.Quarantined)
}

func (q Quarantined) parameters(s *Session) []string {
	row, columns := map[string]any{}, q.Relation.Names()
	var escaped []string
	ascii := s.conn.ParameterStatus("server_encoding") != "UTF8"
	add := func(i int) {
		name, _ := plain(columns[i], ascii)
		v := q.Row.Value(i)
		if v.Presence != wal.Text { // NULL, or not known
			row[name] = nil
			return
		}
		value, changed := plain(string(v.Text), ascii)
		if _, twice := row[name]; changed && !twice {
			escaped = append(escaped, name)
		}
		row[name] = value
	}
	for _, i := range q.Relation.Key {
		add(i)
	}
	for _, m := range s.db.Mappings {
		named, _ := m.Columns(q.Relation.Table, columns)
		for _, column := range named {
			add(q.Relation.Column(column))
		}
	}
	if len(escaped) > 0 {
		row[escapedColumns] = escaped
	}
	object, err := json.Marshal(row)
	if err != nil {
		panic(err) // strings only
	}
	s.db.Log.Warn("a row is set aside in _stack_sync_quarantine", zap.String("mapping", q.Err.Mapping), zap.Stringer("table", q.Relation),
		zap.String("sqlstate", q.Err.SQLState), zap.Int64("sequence_id", q.SequenceID))
	table, _ := plain(q.Relation.Table, ascii)
	message, _ := plain(q.Err.Err.Error(), ascii)
	return []string{table, q.Op, string(object), strconv.FormatInt(q.SequenceID, 10), q.Err.Mapping, q.Err.SQLState, message}
}

// escapedColumns is the field of a quarantined row that lists the columns whose values are escaped.
const escapedColumns = "_escaped"

// plain is a text that any server takes. Text outside UTF-8, or with characters beyond ASCII where the server's encoding may lack such
// characters, is escaped as in the server's literals E'...': a character as \u65e5, a byte as \xff, a backslash as \\ (the Postgres
// manual, 4.1.2.2).
func plain(s string, ascii bool) (text string, escaped bool) {
	if utf8.ValidString(s) && (!ascii || strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0) {
		return s, false
	}
	quoted := strconv.QuoteToASCII(s)
	return quoted[1 : len(quoted)-1], true
}
