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

// Lookup reads current rows of the primary by key. Lookup keeps a single connection, so lookups of many destinations queue up: lookups must
// not become a load on the primary. Safe for concurrent use.
type Lookup struct {
	Primary *Primary

	mu   sync.Mutex
	conn *pgx.Conn
}

// ErrNotVisible tells of a transaction sent in the stream already and not shown by the primary yet: a commit is decoded once in the WAL,
// and visible a moment later, or with an absent synchronous standby much later.
var ErrNotVisible = errors.New("the primary does not show the transaction yet")

// ErrAnotherKey tells of a table whose key is no longer the key of the look-up.
var ErrAnotherKey = errors.New("the key of the table has changed")

// Keys names rows of a part: of each tuple only the key's columns count.
type Keys struct {
	Part
	Tuples []Tuple
}

// Rows returns the current rows with the keys, a row for each key, the zero Tuple where the tenant has no row: the row was deleted, or is
// another tenant's now. The columns are the columns of the returned relation, the table as of now. The rows are at least as new as the
// transactions with the ids of after leave the rows; while any such transaction is not visible the error is ErrNotVisible, and the caller
// asks again.
func (l *Lookup) Rows(ctx context.Context, keys Keys, after []uint32) (rows []Tuple, rel *Relation, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if l.conn == nil || l.conn.IsClosed() {
		conn, err := l.Primary.Connect(ctx)
		if err != nil {
			return nil, nil, ExplainConnect(l.Primary, err)
		}
		l.conn = conn
	}
	err = inMoment(ctx, l.Primary, l.conn, keys.Part, func(s *shape, snapshot Snapshot) error {
		for _, xid := range after {
			if !snapshot.Sees(xid) {
				return ErrNotVisible
			}
		}
		rel = s.Table
		rows, err = s.lookUp(ctx, l.conn, keys, s.columns()) // the snapshot is later, and sees everything of the first snapshot
		return err
	})
	return rows, rel, err
}

// lookUp gives the wanted columns of the rows with the keys, a tuple for each key; zero where the tenant has no such row.
func (s *shape) lookUp(ctx context.Context, conn *pgx.Conn, keys Keys, wanted string) ([]Tuple, error) {
	arrays, values, err := s.keyArrays(keys)
	if err != nil {
		return nil, err
	}
	args := append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}, keys.Value}, arrays...)
	sql := fmt.Sprintf("SELECT k.n, %s FROM %s JOIN %s ON %s WHERE %s", wanted, unnested("k", len(arrays), 2), s.from(),
		Same(s.order, values), s.isTenant("$1"))
	if len(arrays) == 0 { // the tenant is the whole key
		sql = fmt.Sprintf("SELECT 1, %s FROM %s WHERE %s", wanted, s.from(), s.isTenant("$1"))
	}
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := make([]Tuple, len(keys.Tuples))
	for rows.Next() {
		raw, n := rows.RawValues(), 0
		if _, err := fmt.Sscan(string(raw[0]), &n); err != nil || n < 1 || n > len(found) {
			return nil, fmt.Errorf("%q is no place among %d keys", raw[0], len(found))
		}
		found[n-1] = textTuple(raw[1:])
	}
	return found, rows.Err()
}

// keyArrays are the keys as parameters, an array for each column, and the SQL of their values in the relation k.
func (s *shape) keyArrays(keys Keys) (arrays []any, values []string, err error) {
	names := s.keyNames()
	if strings.Join(names, "\x00") != strings.Join(keys.KeyColumns(), "\x00") {
		return nil, nil, ErrAnotherKey
	}
	for n, name := range names {
		i, texts := keys.Relation.Column(name), make([]string, len(keys.Tuples))
		for k, t := range keys.Tuples {
			texts[k] = string(t.Value(i).Text)
		}
		arrays = append(arrays, texts)
		values = append(values, s.order[n].Value(fmt.Sprintf("k.c%d", n)))
	}
	return arrays, values, nil
}

// unnested is a relation of arrays: columns c0, c1, ... and n, which counts from 1.
func unnested(name string, arrays, first int) string {
	var parameters, columns []string
	for n := range arrays {
		parameters = append(parameters, fmt.Sprintf("$%d::text[]", first+n))
		columns = append(columns, fmt.Sprintf("c%d", n))
	}
	return fmt.Sprintf("unnest(%s) WITH ORDINALITY AS %s (%s, n)", strings.Join(parameters, ", "), name, strings.Join(columns, ", "))
}

// KeyError tells of a text which is no key of the table.
type KeyError struct {
	Key int // index of the key
	Err error
}

func (e *KeyError) Error() string { return e.Err.Error() }

func (e *KeyError) Unwrap() error { return e.Err }

// Present returns the keys as stored on the primary, less the tenant's column: a tuple for each key, the zero Tuple where the tenant has no
// such row. Whether two keys are equal is for the primary to say, by the equality of the key's own index: texts may differ, as of numeric
// and citext. The chunk has no rows. For a text which is no key the error is a [*KeyError].
func (c *Copier) Present(ctx context.Context, keys Keys) (present []Tuple, chunk Chunk, err error) {
	return c.find(ctx, keys, func(s *shape) string {
		if len(s.key) == 0 {
			return "''"
		}
		list := make([]string, len(s.order))
		for n, o := range s.order {
			list[n] = o.Name
		}
		return strings.Join(list, ", ")
	})
}

// Find returns the tenant's rows with the keys in the chunk, a row for each key, zero where there is no row. See [Copier.Present].
func (c *Copier) Find(ctx context.Context, keys Keys) (Chunk, error) {
	found, chunk, err := c.find(ctx, keys, (*shape).columns)
	chunk.Rows = found
	return chunk, err
}

func (c *Copier) find(ctx context.Context, keys Keys, columns func(*shape) string) (found []Tuple, chunk Chunk, err error) {
	err = c.moment(ctx, keys.Part, &chunk, func(conn *pgx.Conn, s *shape) error {
		var err error
		if found, err = s.lookUp(ctx, conn, keys, columns(s)); err != nil {
			return err
		}
		return horizon(ctx, conn, &chunk)
	})
	if strings.HasPrefix(sqlstate(err), "22") {
		err = c.findBadKey(ctx, keys, err)
	}
	if err != nil {
		return nil, chunk, fmt.Errorf("looking for rows of %s: %w", keys.Relation, err)
	}
	return found, chunk, nil
}

// findBadKey names the first key unreadable for the primary. cause is the failure of a look for all keys; findBadKey returns cause where
// every key can be read.
func (c *Copier) findBadKey(ctx context.Context, keys Keys, cause error) error {
	readable := func(n int) error {
		return c.moment(ctx, keys.Part, &Chunk{}, func(conn *pgx.Conn, s *shape) error {
			arrays, values, err := s.keyArrays(Keys{keys.Part, keys.Tuples[:n]})
			if err != nil || len(arrays) == 0 {
				return err
			}
			_, err = conn.Exec(ctx, fmt.Sprintf("SELECT count(%s) FROM %s", strings.Join(values, "), count("), unnested("k", len(arrays), 1)), arrays...)
			return err
		})
	}
	err := readable(len(keys.Tuples))
	if err == nil {
		return cause
	}
	for low, high := 0, len(keys.Tuples); ; {
		if !strings.HasPrefix(sqlstate(err), "22") {
			return err
		}
		if high-low == 1 {
			return &KeyError{Key: low, Err: err}
		}
		middle := (low + high) / 2
		if now := readable(middle); now == nil {
			low = middle
		} else {
			high, err = middle, now
		}
	}
}

// Equal returns which of the keys are among the others, by the equality of the key's own index.
func (c *Copier) Equal(ctx context.Context, keys Keys, others []Tuple) (equal []bool, err error) {
	equal = make([]bool, len(keys.Tuples))
	err = c.moment(ctx, keys.Part, &Chunk{}, func(conn *pgx.Conn, s *shape) error {
		arrays, values, err := s.keyArrays(keys)
		if err != nil {
			return err
		}
		if len(arrays) == 0 {
			for i := range equal {
				equal[i] = len(others) > 0
			}
			return nil
		}
		more, _, err := s.keyArrays(Keys{keys.Part, others})
		if err != nil {
			return err
		}
		list := make([]Ordered, len(s.order))
		for n, o := range s.order {
			list[n] = o
			list[n].Name, list[n].Domain = fmt.Sprintf("o.c%d::text::%s", n, o.Type), false
		}
		rows, _ := conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT k.n FROM %s JOIN %s ON %s", unnested("k", len(arrays), 1),
			unnested("o", len(arrays), len(arrays)+1), Same(list, values)), append(arrays, more...)...)
		var n int64
		_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
			equal[n-1] = true
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("comparing keys of %s: %w", keys.Relation, err)
	}
	return equal, nil
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
