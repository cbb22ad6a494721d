package replication

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Snapshot tells which transactions a read of the primary saw. The zero value saw none.
type Snapshot struct {
	xmax       uint64
	inProgress []uint32 // low halves
}

// ParseSnapshot reads the text form of pg_current_snapshot: xmin:xmax:xip,xip,... (the Postgres manual, "Transaction ID
// and Snapshot Information Functions").
func ParseSnapshot(s string) (Snapshot, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return Snapshot{}, fmt.Errorf("%q is not a snapshot", s)
	}
	xmax, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return Snapshot{}, fmt.Errorf("%q is not a snapshot: %w", s, err)
	}
	snapshot := Snapshot{xmax: xmax}
	for x := range strings.SplitSeq(parts[2], ",") {
		if x == "" {
			continue
		}
		n, err := strconv.ParseUint(x, 10, 64)
		if err != nil {
			return Snapshot{}, fmt.Errorf("%q is not a snapshot: %w", s, err)
		}
		snapshot.inProgress = append(snapshot.inProgress, uint32(n))
	}
	return snapshot, nil
}

// Sees reports whether the transaction with those low 32 bits had become visible. Begin messages carry no more; a
// transaction is never 2^31 away from the snapshot, so the low halves compare in a circle, as in Postgres itself
// (TransactionIdPrecedes).
func (s Snapshot) Sees(xid uint32) bool {
	return int32(xid-uint32(s.xmax)) < 0 && !slices.Contains(s.inProgress, xid)
}

// InProgress are the low 32 bits of the transactions that had an id and were not visible yet. A transaction among them may
// have committed, and may have been decoded, already: it becomes visible a moment later, or with synchronous replication
// perhaps much later.
func (s Snapshot) InProgress() []uint32 { return s.inProgress }

// End is where the snapshot ends: it sees no transaction with this id or a later one. It is behind the newest transaction
// that was visible, so transactions that run may have later ids, and those are not among InProgress.
func (s Snapshot) End() uint32 { return uint32(s.xmax) }

// Chunk is a piece of a table as one snapshot saw it.
type Chunk struct {
	Rows     []Tuple // in key order, all columns of the relation
	Snapshot Snapshot
	Horizon  LSN  // everything that the snapshot saw committed before this position
	Last     bool // no row follows
}

// Range says which rows of a table are read: those of one tenant behind a key.
type Range struct {
	Relation *Relation
	Tenant   int // index of the tenant's column
	Value    string
	After    []string // the key columns of the last row read, less the tenant's column; nil begins
	Limit    int      // rows at the most
}

// Copier reads pieces of tables on a connection of its own, each in a short read-only transaction. It belongs to one
// goroutine at a time.
type Copier struct {
	Primary *Primary
	conn    *pgx.Conn
}

// KeyColumns are the indexes of the key's columns less the tenant's: what Range.After holds.
func (r Range) KeyColumns() []int {
	return slices.DeleteFunc(slices.Clone(r.Relation.Key), func(i int) bool { return i == r.Tenant })
}

// Next is the position behind a row of the range.
func (r Range) Next(row Tuple) []string {
	after := []string{}
	for _, i := range r.KeyColumns() {
		after = append(after, string(row.Value(i).Text))
	}
	return after
}

// chunkBytes is the size at which a chunk ends, whatever its limit in rows: rows may be megabytes wide. They are fetched a few
// at first, then as many as make about an eighth of it.
const chunkBytes = 8 << 20

// Read reads the next chunk of a range.
func (c *Copier) Read(ctx context.Context, r Range) (Chunk, error) {
	var chunk Chunk
	sql, args := r.sql()
	full := false
	err := c.snapshot(ctx, &chunk, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DECLARE outflow_chunk NO SCROLL CURSOR FOR "+sql, args...); err != nil {
			return err
		}
		for n, bytes := 10, 0; ; {
			fetched, size, err := fetch(ctx, tx, n)
			if err != nil {
				return err
			}
			chunk.Rows = append(chunk.Rows, fetched...)
			bytes += size
			if full = bytes > chunkBytes; full || len(fetched) < n {
				return nil
			}
			n = max(1, min(chunkBytes/8*len(chunk.Rows)/(bytes+1), 2000))
		}
	})
	if err != nil {
		return Chunk{}, fmt.Errorf("reading rows of %s: %w", r.Relation, err)
	}
	chunk.Last = !full && len(chunk.Rows) < r.Limit || len(r.KeyColumns()) == 0
	return chunk, nil
}

func fetch(ctx context.Context, tx pgx.Tx, n int) (fetched []Tuple, size int, err error) {
	rows, err := tx.Query(ctx, fmt.Sprintf("FETCH %d FROM outflow_chunk", n), pgx.QueryResultFormats{pgx.TextFormatCode})
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		t := textTuple(rows.RawValues())
		size += t.Bytes()
		fetched = append(fetched, t)
	}
	return fetched, size, rows.Err()
}

// Present returns which of the keys exist: Rows are the rows found. Keys need only their key columns filled.
func (c *Copier) Present(ctx context.Context, rel *Relation, keys []Tuple) (Chunk, error) {
	var chunk Chunk
	err := c.snapshot(ctx, &chunk, func(tx pgx.Tx) error {
		var err error
		chunk.Rows, err = lookupRows(ctx, tx, rel, keys)
		return err
	})
	if err != nil {
		return Chunk{}, fmt.Errorf("looking for rows of %s: %w", rel, err)
	}
	return chunk, nil
}

// Now returns an empty chunk: the snapshot and the horizon of this moment.
func (c *Copier) Now(ctx context.Context) (Chunk, error) {
	var chunk Chunk
	err := c.snapshot(ctx, &chunk, func(pgx.Tx) error { return nil })
	return chunk, err
}

// countCost is the planner's cost up to which rows are counted: some 100 ms of a server's time.
const countCost = 20_000

// Estimate is how many rows the tenant has in a table: counted where the planner finds that cheap, which holds for small tables with and
// without statistics, or else as the planner guesses.
func (c *Copier) Estimate(ctx context.Context, rel *Relation, tenant int, value string) (rows int64, err error) {
	err = c.snapshot(ctx, &Chunk{}, func(tx pgx.Tx) error {
		var plan []byte
		from := fmt.Sprintf(`FROM %s WHERE %s = %s::%s`,
			pgx.Identifier{rel.Schema, rel.Name}.Sanitize(), quoteIdentifier(rel.Columns[tenant].Name), quoteLiteral(value),
			rel.Columns[tenant].Source)
		if err := tx.QueryRow(ctx, `EXPLAIN (FORMAT JSON) SELECT `+from).Scan(&plan); err != nil {
			return err
		}
		var explained []struct {
			Plan struct {
				Rows float64 `json:"Plan Rows"`
				Cost float64 `json:"Total Cost"`
			}
		}
		if err := json.Unmarshal(plan, &explained); err != nil || len(explained) != 1 {
			return fmt.Errorf("reading the plan: %w", err)
		}
		if explained[0].Plan.Cost <= countCost {
			return tx.QueryRow(ctx, `SELECT count(*) `+from).Scan(&rows)
		}
		rows = int64(explained[0].Plan.Rows)
		return nil
	})
	return rows, err
}

// Once returns the snapshot and the horizon of this moment and closes the connection.
func (c *Copier) Once(ctx context.Context) (Chunk, error) {
	defer c.Close()
	return c.Now(ctx)
}

// snapshot runs f in a REPEATABLE READ transaction and notes its snapshot, and after it the horizon. The snapshot is taken
// by the transaction's first statement.
func (c *Copier) snapshot(ctx context.Context, chunk *Chunk, f func(pgx.Tx) error) error {
	if c.conn == nil || c.conn.IsClosed() {
		conn, err := c.Primary.Connect(ctx)
		if err != nil {
			return ExplainConnect(c.Primary, err)
		}
		c.conn = conn
	}
	tx, err := c.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var snapshot, horizon string
	if err := tx.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&snapshot); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&horizon); err != nil {
		return err
	}
	if chunk.Snapshot, err = ParseSnapshot(snapshot); err != nil {
		return err
	}
	if chunk.Horizon, err = ParseLSN(horizon); err != nil {
		return err
	}
	return f(tx)
}

// Close ends the connection.
func (c *Copier) Close() {
	if c.conn != nil {
		_ = c.conn.Close(context.Background())
	}
}

// sql is the query of a range. Values are compared as their own types, so collations and numbers order as the index does.
func (r Range) sql() (string, []any) {
	rel := r.Relation
	columns := make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		columns[i] = quoteIdentifier(c.Name)
	}
	typed := func(n, column int) string { return fmt.Sprintf("$%d::text::%s", n, rel.Columns[column].Source) }
	args := []any{r.Value}
	where := quoteIdentifier(rel.Columns[r.Tenant].Name) + " = " + typed(1, r.Tenant)
	var key, after []string
	for n, i := range r.KeyColumns() {
		key = append(key, quoteIdentifier(rel.Columns[i].Name))
		if len(r.After) == len(r.KeyColumns()) { // else the key was another one: the table begins anew
			args = append(args, r.After[n])
			after = append(after, typed(len(args), i))
		}
	}
	sql := fmt.Sprintf("SELECT %s FROM %s WHERE %s", strings.Join(columns, ", "),
		pgx.Identifier{rel.Schema, rel.Name}.Sanitize(), where)
	if len(after) > 0 {
		sql += fmt.Sprintf(" AND (%s) > (%s)", strings.Join(key, ", "), strings.Join(after, ", "))
	}
	if len(key) > 0 {
		sql += fmt.Sprintf(" ORDER BY %s LIMIT %d", strings.Join(key, ", "), r.Limit)
	}
	return sql, args
}
