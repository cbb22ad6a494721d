package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lookup reads current rows of the primary by key. It keeps one connection, so lookups of many destinations queue up: they
// must not become a load on the primary. Safe for concurrent use.
type Lookup struct {
	Primary *Primary

	mu   sync.Mutex
	conn *pgx.Conn
}

// ErrNotVisible says that the primary does not show yet what it has sent in the stream already: a commit is decoded when it
// is in the WAL, and visible a moment later, or with an absent synchronous standby much later.
var ErrNotVisible = errors.New("the primary does not show the transaction yet")

// Rows returns the current rows with the keys of the given tuples, those that exist, in any order, with all columns of
// the relation in the text form of pgoutput. They are at least as new as the transactions with those ids leave them; while one
// of those is not visible the error is ErrNotVisible, and the caller asks again.
func (l *Lookup) Rows(ctx context.Context, rel *Relation, keys []Tuple, after []uint32) ([]Tuple, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if l.conn == nil || l.conn.IsClosed() {
		conn, err := l.Primary.Connect(ctx)
		if err != nil {
			return nil, ExplainConnect(l.Primary, err)
		}
		l.conn = conn
	}
	var text string
	if err := l.conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&text); err != nil {
		return nil, err
	}
	snapshot, err := ParseSnapshot(text)
	if err != nil {
		return nil, err
	}
	for _, xid := range after {
		if !snapshot.Sees(xid) {
			return nil, ErrNotVisible
		}
	}
	return lookupRows(ctx, l.conn, rel, keys) // its snapshot is a later one, and sees what the first one does
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func lookupRows(ctx context.Context, db querier, rel *Relation, keys []Tuple) ([]Tuple, error) {
	args := []any{pgx.QueryResultFormats{pgx.TextFormatCode}}
	for _, i := range rel.Key {
		texts := make([]string, len(keys))
		for k, t := range keys {
			texts[k] = string(t.Value(i).Text)
		}
		args = append(args, texts)
	}
	rows, err := db.Query(ctx, lookupSQL(rel), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []Tuple
	for rows.Next() {
		found = append(found, textTuple(rows.RawValues()))
	}
	return found, rows.Err()
}

// Close ends the connection.
func (l *Lookup) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.conn.Close(ctx)
	}
}

func lookupSQL(rel *Relation) string {
	columns := make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		columns[i] = "t." + quoteIdentifier(c.Name)
	}
	var arrays, aliases, joins []string
	for n, i := range rel.Key {
		arrays = append(arrays, fmt.Sprintf("$%d::text[]", n+1))
		aliases = append(aliases, fmt.Sprintf("c%d", n))
		joins = append(joins, fmt.Sprintf("t.%s = k.c%d::%s", quoteIdentifier(rel.Columns[i].Name), n, rel.Columns[i].Source))
	}
	return fmt.Sprintf("SELECT %s FROM %s t JOIN unnest(%s) AS k (%s) ON %s", strings.Join(columns, ", "),
		pgx.Identifier{rel.Schema, rel.Name}.Sanitize(), strings.Join(arrays, ", "), strings.Join(aliases, ", "),
		strings.Join(joins, " AND "))
}

func textTuple(row [][]byte) Tuple {
	values := make([]Value, len(row))
	for i, text := range row {
		values[i] = Value{Presence: Null}
		if text != nil {
			values[i] = Value{Presence: Text, Text: text}
		}
	}
	return NewTuple(values)
}
