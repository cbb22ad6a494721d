package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// writers is the number of writers. Each has keys of its own: the versions of a key are in the order of commits;
// accounts are shared.
const writers = 4

// writer plays transactions on the primary, never two at a time, past the proxy.
type writer struct {
	w  *world
	id int
	r  *rand.Rand
	db *pgx.Conn // nil while the primary is away
}

func newWriter(w *world, id int) *writer {
	return &writer{w: w, id: id, r: rand.New(rand.NewPCG(w.seed, uint64(id)))}
}

// transactionTime bounds a transaction. A commit can wait long for a synchronous standby.
const transactionTime = 30 * time.Second

// run writes until the context ends, and finishes the present transaction.
func (wr *writer) run(ctx context.Context) {
	defer wr.close()
	for pause(ctx, time.Duration(5+wr.r.IntN(50))*time.Millisecond) {
		if err := wr.once(context.WithoutCancel(ctx)); err != nil {
			wr.failed(err)
			pause(ctx, 50*time.Millisecond)
		}
	}
	wr.finish()
}

// finish leaves no prepared transaction behind.
func (wr *writer) finish() {
	deadline := time.Now().Add(transactionTime)
	for time.Now().Before(deadline) {
		err := wr.connect(context.Background())
		if err == nil {
			err = wr.settle(context.Background())
		}
		if err == nil {
			return
		}
		wr.close()
		pause(context.Background(), 200*time.Millisecond)
	}
	wr.w.fail("writer %d cannot finish its prepared transaction", wr.id)
}

func (wr *writer) close() {
	if wr.db != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = wr.db.Close(ctx)
		wr.db = nil
	}
}

// expected are the classes of errors of writers: connections, locks, deadlocks, a stopping server, and constraints
// against the same change by two writers.
var expected = []string{"08", "57", "40", "55P03", "53300", "23"}

// failed judges an error of the application. Outflow must not cause any, neither by the publication nor by locks.
func (wr *writer) failed(err error) {
	var pgErr *pgconn.PgError
	if wr.db != nil && wr.db.IsClosed() {
		wr.db = nil
	}
	if !errors.As(err, &pgErr) {
		wr.w.tally.count("writer: no connection")
		wr.close()
		return
	}
	wr.w.tally.count("writer: " + pgErr.Code)
	if !slices.Contains(expected, pgErr.Code[:2]) && !slices.Contains(expected, pgErr.Code) {
		wr.w.fail("the application's transaction fails: %v (%s)", err, pgErr.Code)
	}
}

func (wr *writer) connect(ctx context.Context) error {
	if wr.db != nil && !wr.db.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	db, err := pgx.Connect(ctx, wr.w.source()+"&lock_timeout=3s&application_name=writer")
	if err != nil {
		return err
	}
	wr.db = db
	return wr.settle(ctx)
}

func (wr *writer) gid() string { return fmt.Sprintf("writer-%d", wr.id) }

// settle commits a transaction left prepared by a lost connection.
func (wr *writer) settle(ctx context.Context) error {
	var left bool
	if err := wr.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)`, wr.gid()).Scan(&left); err != nil || !left {
		return err
	}
	_, err := wr.db.Exec(ctx, "COMMIT PREPARED '"+wr.gid()+"'")
	return err
}

// once plays a transaction of a tenant, or of two.
func (wr *writer) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	if err := wr.connect(ctx); err != nil {
		return err
	}
	x := &transaction{writer: wr, ctx: ctx, tenant: pick(wr.r, tenants), numbers: map[string]int64{}}
	x.other = x.tenant
	if wr.r.IntN(4) == 0 {
		x.other = pick(wr.r, tenants)
	}
	if err := x.play(); err != nil {
		if wr.db != nil && !wr.db.IsClosed() {
			_, _ = wr.db.Exec(ctx, "ROLLBACK")
		}
		return err
	}
	return nil
}

// transaction is a transaction of a writer.
type transaction struct {
	*writer
	ctx           context.Context
	tenant, other string // often the same
	numbers       map[string]int64
	rows          int64
}

// play is the whole transaction.
func (x *transaction) play() error {
	if err := x.exec("BEGIN"); err != nil {
		return err
	}
	if err := x.sign(); err != nil {
		return err
	}
	for range 1 + x.r.IntN(3) {
		c := pickChange(x.r)
		if err := x.change(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return x.end()
}

// change makes a change; now and then another change, rolled back to a savepoint, comes before.
func (x *transaction) change(c change) error {
	if x.r.IntN(12) == 0 {
		undone := pickChange(x.r)
		x.w.tally.count("change: savepoint")
		if err := x.all("SAVEPOINT before", undone.sql(x)); err != nil {
			return err
		}
		if err := x.exec("ROLLBACK TO before"); err != nil {
			return err
		}
	}
	x.w.tally.count("change: " + c.name)
	return x.all(c.sql(x))
}

// sign writes the number of the transaction to the ledger of each tenant, in the same order everywhere because of locks.
func (x *transaction) sign() error {
	both := []string{x.tenant, x.other}
	slices.Sort(both)
	for _, tenant := range slices.Compact(both) {
		var number int64
		err := x.db.QueryRow(x.ctx, fmt.Sprintf(`INSERT INTO "Ledger" SELECT '%[1]s', %[2]d, coalesce(max(number), 0) + 1 FROM "Ledger"
			WHERE tenant = '%[1]s' AND writer = %[2]d RETURNING number`, tenant, x.id)).Scan(&number)
		if err != nil {
			return err
		}
		if err := x.exec(fmt.Sprintf(`INSERT INTO "Clock" VALUES ('%s', %d, %d) ON CONFLICT (tenant, writer) DO UPDATE SET number = excluded.number`,
			tenant, x.id, number)); err != nil {
			return err
		}
		x.numbers[tenant] = number
	}
	return nil
}

// end commits in some way, or rolls back.
func (x *transaction) end() error {
	switch n := x.r.IntN(100); {
	case n < 6:
		x.w.tally.count("end: rollback")
		return x.exec("ROLLBACK")
	case n < 12: // the answer does not promise durability
		x.w.tally.count("end: asynchronous")
		return x.all("SET LOCAL synchronous_commit = off", "COMMIT")
	case n < 22:
		x.w.tally.count("end: prepared")
		if err := x.exec("PREPARE TRANSACTION '" + x.gid() + "'"); err != nil {
			return err
		}
		pause(x.ctx, time.Duration(x.r.IntN(200))*time.Millisecond)
		if x.r.IntN(4) == 0 {
			return x.exec("ROLLBACK PREPARED '" + x.gid() + "'")
		}
		if err := x.exec("COMMIT PREPARED '" + x.gid() + "'"); err != nil {
			return err
		}
	default:
		x.w.tally.count("end: commit")
		if err := x.exec("COMMIT"); err != nil {
			return err
		}
	}
	x.committed()
	return nil
}

// committed tells the harness of a transaction confirmed by the primary.
func (x *transaction) committed() {
	var end string
	if x.db.QueryRow(x.ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&end) != nil {
		return
	}
	lsn, err := parseLSN(end)
	if err != nil {
		x.w.fail("%v", err)
		return
	}
	for tenant, number := range x.numbers {
		x.w.commits.add(commit{account{tenant, x.id}, number, lsn, time.Now()})
	}
	x.w.tally.transaction(x.rows)
}

// exec runs a statement. The rows of a COPY follow in the lines behind the first.
func (x *transaction) exec(sql string) (err error) {
	var tag pgconn.CommandTag
	if command, rows, _ := strings.Cut(sql, "\n"); strings.HasPrefix(command, "COPY ") {
		tag, err = x.db.PgConn().CopyFrom(x.ctx, strings.NewReader(rows), command)
	} else {
		tag, err = x.db.Exec(x.ctx, sql)
	}
	if err != nil {
		return fmt.Errorf("%.120s: %w", sql, err)
	}
	x.rows += tag.RowsAffected()
	return nil
}

// all runs statements, given singly or as lists.
func (x *transaction) all(statements ...any) error {
	for _, s := range statements {
		list, many := s.([]string)
		if !many {
			list = []string{s.(string)}
		}
		for _, sql := range list {
			if err := x.exec(sql); err != nil {
				return err
			}
		}
	}
	return nil
}

// parseLSN reads an LSN such as 1/2F0.
func parseLSN(text string) (uint64, error) {
	var high, low uint64
	if _, err := fmt.Sscanf(text, "%X/%X", &high, &low); err != nil {
		return 0, fmt.Errorf("%s is no LSN: %w", strconv.Quote(text), err)
	}
	return high<<32 | low, nil
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }
