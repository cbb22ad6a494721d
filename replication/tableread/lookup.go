package tableread

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"outflow/internal/pgerror"
	"outflow/internal/pgorder"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// Lookup reads current rows of the primary by key, for many destinations: over [primary.LookupConnections] connections at most, so that look-ups are
// no load on the primary, and a long look-up does not keep the others waiting. A connection without work for a minute is closed. Safe for
// concurrent use.
type Lookup struct {
	Tables *Tables

	once  sync.Once
	pool  *semaphore.Weighted // of LookupConnections
	mu    sync.Mutex
	idle  []*pgx.Conn // least recently used first
	reap  *time.Timer // closes the idle connections
	ended bool
}

// ErrNotVisible tells of a transaction sent in the stream already and not shown by the primary yet: a commit is decoded once in the WAL,
// and visible a moment later, or with an absent synchronous standby much later.
var ErrNotVisible = errors.New("the transaction is not visible on the primary yet")

// ErrAnotherKey tells of a table whose key is no longer the key of the look-up.
var ErrAnotherKey = errors.New("the key of the table has changed")

// Keys names rows of a part: of each tuple only the key's columns count.
type Keys struct {
	Part
	Tuples []wal.Tuple
}

// Look is a question for rows by key.
type Look struct {
	Keys
	Columns []string // the wanted columns, as far as the table still has them; nil asks only whether the rows exist
	After   []uint32 // transactions: the rows are at least as new as the transactions leave the rows
	Bytes   int64    // of all rows at most; see Found
}

// Found is the answer to a [Look].
type Found struct {
	// Rows has a row for each key, the zero Tuple where the tenant has no row: the row was deleted, or is another tenant's now. Where not
	// all rows fit in the bytes of the look, Rows has the first rows only, and ends behind the last row that fits.
	Rows []wal.Tuple
	// Relation is the table as of now. The rows have its columns; the columns not asked for are Unchanged.
	Relation *wal.Relation
	// Large is the size of the first row where the row alone does not fit: no row was read, and a look of Large bytes may read the row.
	Large int64
}

// Rows looks for rows. While one of the transactions of look.After is not visible the error is [ErrNotVisible], and the caller asks again.
func (l *Lookup) Rows(ctx context.Context, look Look) (found Found, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := l.take(ctx)
	if err != nil {
		return Found{}, err
	}
	defer l.giveBack(conn)
	err = inMoment(ctx, l.Tables, conn, look.Part, func(s *shape, snapshot wal.Snapshot) error {
		for _, xid := range look.After {
			if !snapshot.Sees(xid) {
				return ErrNotVisible
			}
		}
		found.Relation = s.Table
		found.Rows, found.Large, err = s.lookUp(ctx, conn, look.Keys, s.indexes(look.Columns), look.Bytes) // its snapshot sees all of the first snapshot
		return err
	})
	return found, err
}

// take waits for the right to a connection.
func (l *Lookup) take(ctx context.Context) (*pgx.Conn, error) {
	l.once.Do(func() { l.pool = semaphore.NewWeighted(primary.LookupConnections) })
	if err := l.pool.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	l.mu.Lock()
	var conn *pgx.Conn
	if n := len(l.idle); n > 0 {
		conn, l.idle = l.idle[n-1], l.idle[:n-1]
	}
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	conn, err := l.Tables.Connect(ctx)
	if err != nil {
		l.pool.Release(1)
		return nil, primary.ExplainConnect(l.Tables.Server, err)
	}
	return conn, nil
}

const lookupIdle = time.Minute

func (l *Lookup) giveBack(conn *pgx.Conn) {
	l.mu.Lock()
	keep := !l.ended && !conn.IsClosed()
	if keep {
		l.idle = append(l.idle, conn)
		if l.reap == nil {
			l.reap = time.AfterFunc(lookupIdle, l.closeIdle)
		} else {
			l.reap.Reset(lookupIdle)
		}
	}
	l.mu.Unlock()
	if !keep {
		closeSoon(conn)
	}
	l.pool.Release(1)
}

func (l *Lookup) closeIdle() {
	l.mu.Lock()
	idle := l.idle
	l.idle = nil
	l.mu.Unlock()
	for _, conn := range idle {
		closeSoon(conn)
	}
}

func closeSoon(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// Close ends the idle connections, and others as soon as their look-up has ended.
func (l *Lookup) Close() {
	l.mu.Lock()
	l.ended = true
	if l.reap != nil {
		l.reap.Stop()
	}
	l.mu.Unlock()
	l.closeIdle()
}

// indexes are the places of the columns with the names, as far as the table has the columns.
func (s *shape) indexes(names []string) []int {
	indexes := []int{}
	for _, name := range names {
		if i := s.Table.Column(name); i >= 0 {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// lookUp gives the columns (indexes of s.Table) of the rows with the keys: see [Found]. Other columns are Unchanged.
func (s *shape) lookUp(ctx context.Context, conn *pgx.Conn, keys Keys, columns []int, bound int64) (found []wal.Tuple, large int64, err error) {
	arrays, values, err := s.keyArrays(keys)
	if err != nil {
		return nil, 0, err
	}
	args := append([]any{keys.Value}, arrays...)
	place, rest := "1", fmt.Sprintf("%s WHERE %s", s.from(), s.isTenant("$1")) // the tenant is the whole key
	if len(arrays) > 0 {
		place, rest = "k.n", fmt.Sprintf("%s JOIN %s ON %s WHERE %s ORDER BY k.n", unnested("k", len(arrays), 2), s.from(),
			pgorder.Same(s.order, values), s.isTenant("$1"))
	}
	if err := openPiece(ctx, conn, s.measured(place, columns, rest, bound), args...); err != nil {
		return nil, 0, err
	}
	p, err := readPiece(ctx, conn, bound)
	if err != nil {
		return nil, 0, err
	}
	found = make([]wal.Tuple, len(keys.Tuples))
	last := 0
	for i, n := range p.places {
		if n <= last || n > len(found) {
			return nil, 0, fmt.Errorf("position %d follows position %d among %d keys", n, last, len(found))
		}
		found[n-1], last = s.spread(p.rows[i], columns), n
	}
	if p.more {
		found = found[:last]
	}
	return found, p.large, nil
}

// spread puts the values of columns into a row of the table, whose other columns are Unchanged.
func (s *shape) spread(t wal.Tuple, columns []int) wal.Tuple {
	if len(columns) == len(s.Table.Columns) {
		return t
	}
	values := make([]wal.Value, len(s.Table.Columns))
	for i := range values {
		values[i].Presence = wal.Unchanged
	}
	for k, v := range t.Values(nil) {
		values[columns[k]] = v
	}
	return wal.NewTuple(values)
}

// keyArrays are the keys as parameters, an array for each column, and the SQL of their values in the relation k.
func (s *shape) keyArrays(keys Keys) (arrays []any, values []string, err error) {
	names := s.keyNames()
	if strings.Join(names, "\x00") != strings.Join(keys.keyColumns(), "\x00") {
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
func (c *Copier) Present(ctx context.Context, keys Keys) (present []wal.Tuple, chunk Chunk, err error) {
	err = c.find(ctx, keys, &chunk, func(conn *pgx.Conn, s *shape) error {
		present, _, err = s.lookUp(ctx, conn, keys, s.key, math.MaxInt64) // a key fits in a page of an index
		for i := range present {
			present[i] = s.keyOf(present[i])
		}
		return err
	})
	return present, chunk, err
}

// keyOf are the key's columns less the tenant's.
func (s *shape) keyOf(t wal.Tuple) wal.Tuple {
	if t.IsZero() {
		return t
	}
	values := make([]wal.Value, len(s.key))
	for n, i := range s.key {
		values[n] = t.Value(i)
	}
	return wal.NewTuple(values)
}

// Find returns the tenant's rows with the keys in the chunk, a row for each key, zero where there is no row: see [Copier.Present]. Where the
// rows have more than bound bytes, chunk.Rows has the rows of the first keys only, and at least one row.
func (c *Copier) Find(ctx context.Context, keys Keys, bound int64) (chunk Chunk, err error) {
	for {
		var large int64
		err = c.find(ctx, keys, &chunk, func(conn *pgx.Conn, s *shape) error {
			var err error
			chunk.Rows, large, err = s.lookUp(ctx, conn, keys, s.all(), bound)
			return err
		})
		if err != nil || large == 0 {
			return chunk, err
		}
		bound = Enough(large)
	}
}

// Enough is a bound for a row of the size: the row may grow a little meanwhile.
func Enough(size int64) int64 { return size + size/8 + 1<<16 }

func (c *Copier) find(ctx context.Context, keys Keys, chunk *Chunk, f func(*pgx.Conn, *shape) error) error {
	err := c.moment(ctx, keys.Part, chunk, func(conn *pgx.Conn, s *shape) error {
		if err := f(conn, s); err != nil {
			return err
		}
		return horizon(ctx, conn, chunk)
	})
	if strings.HasPrefix(pgerror.SQLState(err), "22") {
		err = c.findBadKey(ctx, keys, err)
	}
	if err != nil {
		return fmt.Errorf("looking for rows of %s: %w", keys.Relation, err)
	}
	return nil
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
		if !strings.HasPrefix(pgerror.SQLState(err), "22") {
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
func (c *Copier) Equal(ctx context.Context, keys Keys, others []wal.Tuple) (equal []bool, err error) {
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
		list := make([]pgorder.Column, len(s.order))
		for n, o := range s.order {
			list[n] = o
			list[n].Name, list[n].Domain = fmt.Sprintf("o.c%d::text::%s", n, o.Type), false
		}
		rows, _ := conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT k.n FROM %s JOIN %s ON %s", unnested("k", len(arrays), 1),
			unnested("o", len(arrays), len(arrays)+1), pgorder.Same(list, values)), append(arrays, more...)...)
		var n int64
		_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
			if n < 1 || n > int64(len(equal)) {
				return fmt.Errorf("the server names key %d of %d", n, len(equal))
			}
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

func textTuple(row [][]byte) wal.Tuple {
	values := make([]wal.Value, len(row))
	for i, text := range row {
		values[i] = wal.Value{Presence: wal.Null}
		if text != nil {
			values[i] = wal.Value{Presence: wal.Text, Text: text}
		}
	}
	return wal.NewTuple(values)
}
