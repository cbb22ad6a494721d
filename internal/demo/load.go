package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	firstUsers = 10_000 // written before the stream is read
	seedUsers  = 1000   // in one of the transactions for firstUsers
	bulkUsers  = 20     // in one of the load's larger transactions
	writers    = 2      // so that transactions overlap
)

// load writes to the primary as an application would.
type load struct {
	source  string
	rate    int // row changes a second, all writers together
	writers []*writer

	changes, transactions atomic.Int64 // committed by run
}

// writer is one of the application's connections. Each has users of its own, so that no connection waits for another's locks.
type writer struct {
	load  *load
	rand  *rand.Rand
	users []tenantUsers
}

type tenantUsers struct {
	tenant string
	ids    []string
}

// newLoad writes the first users, and deals the users out to the writers.
func newLoad(ctx context.Context, source string, tenants []tenant, rate int) (*load, error) {
	conn, err := pgx.Connect(ctx, source)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ids := make([]string, len(tenants))
	for i, t := range tenants {
		ids[i] = t.id
	}
	for first := 1; first <= firstUsers; first += seedUsers {
		if _, err := conn.Exec(ctx, seedSQL, ids, first, first+seedUsers-1); err != nil {
			return nil, fmt.Errorf("writing the first users: %w", err)
		}
	}
	l := &load{source: source, rate: rate}
	for range writers {
		w := &writer{load: l, rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
		for _, id := range ids {
			w.users = append(w.users, tenantUsers{tenant: id})
		}
		l.writers = append(l.writers, w)
	}
	return l, l.deal(ctx, conn)
}

func (l *load) deal(ctx context.Context, conn *pgx.Conn) error {
	for t := range l.writers[0].users {
		rows, err := conn.Query(ctx, `SELECT "projectUserId"::text FROM "ProjectUser" WHERE "tenancyId" = $1`, l.writers[0].users[t].tenant)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for i, id := range ids {
			users := &l.writers[i%writers].users[t]
			users.ids = append(users.ids, id)
		}
	}
	return nil
}

// run writes until ctx is done, which is not an error. A transaction begun before then is committed, so that nothing is
// written after run has returned.
func (l *load) run(ctx context.Context) error {
	var g errgroup.Group
	failing, stop := context.WithCancel(ctx)
	defer stop()
	for _, w := range l.writers {
		g.Go(func() error {
			defer stop()
			return w.run(failing)
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("the load: %w", err)
	}
	return nil
}

func (w *writer) run(ctx context.Context) error {
	working := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(working, w.load.source)
	if err != nil {
		return err
	}
	defer conn.Close(working)
	perSecond := float64(w.load.rate) / writers
	started, done := time.Now(), int64(0)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		due := started.Add(time.Duration(float64(done) / perSecond * float64(time.Second)))
		pause.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		n, err := w.transaction(working, conn)
		if err != nil {
			return err
		}
		done += n
		w.load.changes.Add(n)
		w.load.transactions.Add(1)
	}
}

// transaction runs a transaction and returns the number of changed rows. All statements of a batch are one transaction.
func (w *writer) transaction(ctx context.Context, conn *pgx.Conn) (int64, error) {
	statements, committed := w.choose()
	batch := &pgx.Batch{}
	for _, s := range statements {
		batch.Queue(s.sql, s.args...)
	}
	results := conn.SendBatch(ctx, batch)
	var n int64
	for _, s := range statements {
		tag, err := results.Exec()
		if err != nil {
			_ = results.Close()
			return 0, err
		}
		n += tag.RowsAffected() * max(s.weight, 1)
	}
	if err := results.Close(); err != nil {
		return 0, err
	}
	if committed != nil {
		committed()
	}
	return n, nil
}

// statement is a statement of the load.
type statement struct {
	sql    string
	args   []any
	weight int64 // changes for each row in the command tag, where not 1: cascades are not counted in the tag
}

// choose makes up a transaction. committed, unless nil, is to be called after the commit. As many users come as go.
func (w *writer) choose() (statements []statement, committed func()) {
	u := &w.users[w.rand.IntN(len(w.users))]
	if len(u.ids) < bulkUsers {
		return w.signUps(u, bulkUsers)
	}
	i := w.rand.IntN(len(u.ids))
	user := u.ids[i]
	switch n := w.rand.IntN(100); {
	case n < 35:
		return []statement{{sql: updateSQL, args: []any{u.tenant, user, w.text()}}}, nil
	case n < 55:
		return w.signUps(u, 1)
	case n < 75:
		return w.switchEmail(u.tenant, user), nil
	case n < 80:
		return []statement{{sql: removeChannelSQL, args: []any{u.tenant, user}, weight: 2}}, nil
	case n < 96:
		return w.remove(u, i)
	case n < 98:
		return w.signUps(u, bulkUsers/4)
	}
	from := w.rand.IntN(len(u.ids) - bulkUsers + 1)
	return []statement{{sql: bulkSQL, args: []any{u.tenant, u.ids[from : from+bulkUsers], w.text()}}}, nil
}

func (w *writer) signUps(u *tenantUsers, n int) ([]statement, func()) {
	var statements []statement
	var ids []string
	for range n {
		id := w.uuid()
		ids = append(ids, id)
		statements = append(statements, statement{sql: signUpSQL, args: []any{u.tenant, id, w.text()}},
			statement{sql: firstEmailSQL, args: []any{u.tenant, id}})
	}
	return statements, func() { u.ids = append(u.ids, ids...) }
}

// switchEmail gives the user another address and makes a different address the primary one.
func (w *writer) switchEmail(tenant, user string) []statement {
	args := []any{tenant, user}
	return []statement{{sql: moreEmailSQL, args: args}, {sql: demoteSQL, args: args}, {sql: promoteSQL, args: args}}
}

// remove deletes a user, and his channels by cascade; every second time with tombstones, as some applications do.
func (w *writer) remove(u *tenantUsers, i int) ([]statement, func()) {
	args := []any{u.tenant, u.ids[i]}
	statements := []statement{{sql: removeSQL, args: args, weight: 2}}
	if w.rand.IntN(2) == 0 {
		statements = append([]statement{{sql: channelTombstonesSQL, args: args}, {sql: userTombstoneSQL, args: args}}, statements...)
	}
	return statements, func() {
		last := len(u.ids) - 1
		u.ids[i] = u.ids[last]
		u.ids = u.ids[:last]
	}
}

// text is a name with characters breaking careless quoting.
func (w *writer) text() string {
	names := []string{"Ada", "Blaise", "Çelik", "Дмитрий", "Émilie", "林", "O'Neill", `Back\slash`, "New\nLine", "Smile 🙂", ""}
	return fmt.Sprintf("%s %d", names[w.rand.IntN(len(names))], w.rand.IntN(1000))
}

func (w *writer) uuid() string {
	a, b := w.rand.Uint64(), w.rand.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48&0xfff, b&0xffffffffffff)
}
