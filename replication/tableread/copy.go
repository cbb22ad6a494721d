package tableread

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgerror"
	"outflow/internal/pgorder"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// Chunk is a piece of a table at a single moment.
type Chunk struct {
	Rows     []wal.Tuple   // in key order, all columns of Relation
	Relation *wal.Relation // the table in the moment of the read: the existing columns of the request, and the key's
	Tenant   int           // index of the tenant's column
	Snapshot wal.Snapshot  // transactions outside the snapshot count as not seen; the rows may be newer
	Horizon  wal.LSN       // everything shown by the rows committed before the horizon
	Last     bool          // no row follows
	Next     Place         // behind the last row
}

// KeyOf is a row's key less the tenant's column: the value of Place.After.
func (c Chunk) KeyOf(row wal.Tuple) []string {
	var key []string
	for _, i := range c.Relation.Key {
		if i != c.Tenant {
			key = append(key, string(row.Value(i).Text))
		}
	}
	return key
}

// Place is where a reading of a table goes on. The zero Place is the beginning.
type Place struct {
	After []string // the key's columns of the last row, less the tenant's; nil is the beginning
	Order string   // the order of the place; in another order the table begins again
}

// Range says which rows of a part are read.
type Range struct {
	Part
	Place
	Limit int   // rows at most
	Bytes int64 // of the rows at most: rows may be megabytes wide, and a chunk ends before the row that does not fit
}

// Copier reads pieces of tables on a connection of its own, each in a short read-only transaction, describing and reading the table in the
// same moment. A Copier belongs to a single goroutine at a time.
type Copier struct {
	Tables *Tables
	conn   *pgx.Conn
}

// keyColumns are the names of the key's columns less the tenant's: the columns of Place.After.
func (p Part) keyColumns() []string {
	var names []string
	for _, i := range p.Relation.Key {
		if i != p.Tenant {
			names = append(names, p.Relation.Columns[i].Name)
		}
	}
	return names
}

// Read reads the next chunk of a range. Where the first row alone is larger than r.Bytes, the error is a [*Large].
func (c *Copier) Read(ctx context.Context, r Range) (Chunk, error) {
	var chunk Chunk
	err := c.moment(ctx, r.Part, &chunk, func(conn *pgx.Conn, s *shape) error {
		order := pgorder.Signature(s.order)
		if order != r.Order {
			r.After = nil
		}
		sql, args := s.rangeSQL(r)
		if err := openPiece(ctx, conn, sql, args...); err != nil {
			return s.explain(r.Value, err)
		}
		if err := horizon(ctx, conn, &chunk); err != nil {
			return err
		}
		p, err := readPiece(ctx, conn, r.Bytes)
		if err != nil {
			return err
		}
		if p.large > 0 {
			return &Large{p.large}
		}
		chunk.Rows = p.rows
		chunk.Last = !p.more && len(chunk.Rows) < r.Limit || len(s.key) == 0
		chunk.Next = Place{After: r.After, Order: order}
		if n := len(chunk.Rows); n > 0 {
			chunk.Next.After = chunk.KeyOf(chunk.Rows[n-1])
		}
		return nil
	})
	if err != nil {
		return Chunk{}, fmt.Errorf("reading rows of %s: %w", r.Relation, err)
	}
	return chunk, nil
}

// Large tells of a row larger than the bytes of a read. The row was not read.
type Large struct{ Bytes int64 }

func (e *Large) Error() string { return fmt.Sprintf("a row has %d bytes", e.Bytes) }

// Now returns an empty chunk: the snapshot and the horizon of the moment.
func (c *Copier) Now(ctx context.Context) (Chunk, error) {
	var chunk Chunk
	var snapshot string
	err := c.connect(ctx)
	if err == nil {
		err = c.conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&snapshot)
	}
	if err == nil {
		chunk.Snapshot, err = wal.ParseSnapshot(snapshot)
	}
	if err == nil {
		err = horizon(ctx, c.conn, &chunk)
	}
	return chunk, err
}

// countCost is the planner's cost up to which rows are counted: some 100 ms of a server's time.
const countCost = 20_000

// Estimate is the number of the tenant's rows in a table: counted where the planner finds counting cheap, which holds for small tables with
// and without statistics, or else as the planner guesses.
func (c *Copier) Estimate(ctx context.Context, part Part) (rows int64, err error) {
	err = c.moment(ctx, part, &Chunk{}, func(conn *pgx.Conn, s *shape) error {
		from := "FROM " + s.from()
		if o := s.tenantAs; o.Equal != "" {
			from += " WHERE " + pgorder.Same([]pgorder.Column{o}, []string{o.Value(primary.QuoteLiteral(part.Value))})
		}
		var plan []byte
		if err := conn.QueryRow(ctx, `EXPLAIN (FORMAT JSON) SELECT `+from).Scan(&plan); err != nil {
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
			return conn.QueryRow(ctx, `SELECT count(*) `+from).Scan(&rows)
		}
		rows = int64(explained[0].Plan.Rows)
		return nil
	})
	return rows, err
}

// Once returns the snapshot and the horizon of the moment and closes the connection.
func (c *Copier) Once(ctx context.Context) (Chunk, error) {
	defer c.Close()
	return c.Now(ctx)
}

func (c *Copier) connect(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() {
		return nil
	}
	conn, err := c.Tables.Connect(ctx)
	if err != nil {
		return primary.ExplainConnect(c.Tables.Server, err)
	}
	c.conn = conn
	return nil
}

// moment runs f in a transaction in which the table cannot be altered, and notes the table's shape and a snapshot from before f. f reads
// with a single statement, which has a snapshot of its own, and notes the horizon after the statement.
func (c *Copier) moment(ctx context.Context, part Part, chunk *Chunk, f func(*pgx.Conn, *shape) error) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	return inMoment(ctx, c.Tables, c.conn, part, func(s *shape, snapshot wal.Snapshot) error {
		chunk.Snapshot, chunk.Relation, chunk.Tenant = snapshot, s.Table, s.tenant
		return f(c.conn, s)
	})
}

// inMoment finds the table by OID: under the earlier name, else under the present name.
func inMoment(ctx context.Context, t *Tables, conn *pgx.Conn, part Part, f func(*shape, wal.Snapshot) error) error {
	rel := part.Relation
	err := lockedAs(ctx, t, conn, part, tableName{rel.Schema, rel.Name}, f)
	if !errors.Is(err, errRenamed) && pgerror.SQLState(err) != pgerror.UndefinedTable {
		return err
	}
	var name tableName
	found := conn.QueryRow(ctx, `SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = $1`, rel.OID).Scan(&name.schema, &name.name)
	if found != nil || name == (tableName{rel.Schema, rel.Name}) {
		return err
	}
	return lockedAs(ctx, t, conn, part, name, f)
}

// rollbackPatience bounds the end of a transaction: the primary may have gone silent since its last answer.
const rollbackPatience = 3 * time.Second

func lockedAs(ctx context.Context, t *Tables, conn *pgx.Conn, part Part, name tableName, f func(*shape, wal.Snapshot) error) error {
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackPatience)
		defer cancel()
		_, _ = conn.Exec(ending, "ROLLBACK") // or the connection is closed
	}()
	if _, err := conn.PgConn().Exec(ctx, fmt.Sprintf(lockSQL, name)).ReadAll(); err != nil {
		return err
	}
	s, text, err := t.shapes.find(ctx, conn, part, name)
	if err != nil {
		return err
	}
	snapshot, err := wal.ParseSnapshot(text)
	if err != nil {
		return err
	}
	return pgerror.WithoutValues(f(s, snapshot))
}

func horizon(ctx context.Context, conn *pgx.Conn, chunk *Chunk) error {
	var text string
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
		return err
	}
	var err error
	chunk.Horizon, err = wal.ParseLSN(text)
	return err
}

// Close ends the connection.
func (c *Copier) Close() {
	if c.conn != nil {
		_ = c.conn.Close(context.Background())
	}
}

// rangeSQL is the query of a range.
func (s *shape) rangeSQL(r Range) (string, []any) {
	args := []any{r.Value}
	rest := fmt.Sprintf("%s WHERE %s", s.from(), s.isTenant("$1"))
	if len(s.key) > 0 {
		if len(r.After) == len(s.key) {
			values := make([]string, len(s.key))
			for n, text := range r.After {
				args = append(args, text)
				values[n] = s.order[n].Value(fmt.Sprintf("$%d", len(args)))
			}
			rest += " AND " + pgorder.Behind(s.order, values)
		}
		rest += fmt.Sprintf(" ORDER BY %s LIMIT %d", pgorder.OrderBy(s.order), r.Limit)
	}
	return s.measured("0", s.all(), rest, r.Bytes), args
}

// explain names the tenant where the type of the tenant's column refuses the tenant's name.
func (s *shape) explain(tenant string, err error) error {
	if state := pgerror.SQLState(err); strings.HasPrefix(state, "22") {
		return &primary.Problem{What: fmt.Sprintf("%q is not a tenant of %s, whose column %s is %s", tenant, s.Table, s.tenantAs.Name[2:], s.tenantAs.Type),
			Remedy: "correct the tenant's name, or remove the table from its mappings", Err: pgerror.WithoutValues(err)}
	}
	return err
}
