package torture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// stalledFor is how long a destination may say "streaming" while nothing comes and something is missing.
const stalledFor = 30 * time.Second

// watch looks at an external database all the time.
type watch struct {
	w       *world
	d       *destination
	db      *pgx.Conn // nil while the database is away
	primary *pgx.Conn // nil while the primary is away

	moved    time.Time // when the clocks last moved, or were last explained
	previous string
}

// sight is the content of a snapshot of an external database.
type sight struct {
	ready   bool  // all mappings are there
	copying bool  // a copy of a mapping is in progress
	epoch   int64 // the lowest of all mappings
	clocks  map[int]int64
	faults  []string
}

// run looks until the context ends.
func (v *watch) run(ctx context.Context) {
	defer v.close()
	v.moved = time.Now()
	for pause(ctx, 200*time.Millisecond) {
		looked, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		err := v.once(looked)
		cancel()
		if err == nil {
			continue
		}
		v.w.tally.count("watch: away")
		v.close()
	}
}

func (v *watch) close() {
	for _, conn := range []**pgx.Conn{&v.db, &v.primary} {
		if *conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = (*conn).Close(ctx)
			cancel()
			*conn = nil
		}
	}
}

// reach connects where there is no connection.
func reach(ctx context.Context, conn **pgx.Conn, dsn string) (err error) {
	if *conn == nil || (*conn).IsClosed() {
		*conn, err = pgx.Connect(ctx, dsn)
	}
	return err
}

// once is a look. The order matters: the place of the slot is asked first, the primary's notes next, and the external
// database last. So a transaction forgotten by the slot is either there, or noted to be copied.
func (v *watch) once(ctx context.Context) error {
	if err := reach(ctx, &v.db, v.d.direct()); err != nil {
		return err
	}
	forgotten, err := v.slotAndNote(ctx)
	if err != nil {
		forgotten = nil // the primary is away; the external database can be looked at all the same
	}
	s, err := v.look(ctx)
	if err != nil || !s.ready {
		return err
	}
	for _, fault := range s.faults {
		v.w.fail("%s shows what must not be: %s", v.d, fault)
	}
	if forgotten != nil {
		v.durable(forgotten, s)
	}
	v.progress(ctx, s)
	v.w.tally.count("watch: looks")
	return nil
}

// look reads the database in a snapshot.
func (v *watch) look(ctx context.Context) (s sight, err error) {
	tx, err := v.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return s, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var mappings int
	err = tx.QueryRow(ctx, `SELECT count(*), coalesce(bool_or(backfill IS NOT NULL), false), coalesce(min(epoch), 0) FROM public._stack_sync_metadata`).
		Scan(&mappings, &s.copying, &s.epoch)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && strings.HasPrefix(pgErr.Code, "42"): // no such table yet
		return s, nil
	case err != nil || mappings < len(mappingNames()):
		return s, err
	}
	s.ready = true
	if s.clocks, err = clocksOf(ctx, tx); err != nil {
		return s, err
	}
	if s.faults, err = lines(ctx, tx, `SELECT what FROM broken ORDER BY at LIMIT 3`); err != nil || len(s.faults) > 0 {
		return s, err
	}
	if s.copying || v.d.excuses.of(s.epoch) != "" {
		v.w.tally.count("watch: not at a moment")
		return s, nil
	}
	s.faults, err = lines(ctx, tx, momentSQL)
	return s, err
}

// momentSQL finds contradictions to a moment of the tenant: a moment has whole transactions only, without gaps.
var momentSQL = fmt.Sprintf(`
SELECT 'the balances add up to ' || sum(balance) FROM accounts HAVING sum(balance) IS DISTINCT FROM %d
UNION ALL
SELECT format('writer %%s has %%s transactions, the last one is %%s, and the clock shows %%s', writer, count, max, c.number)
	FROM (SELECT writer, count(*), max(number) FROM ledger GROUP BY writer) l FULL JOIN clock c USING (writer)
	WHERE c.number IS DISTINCT FROM max OR count IS DISTINCT FROM max
UNION ALL
SELECT format('user %%s counts %%s channels and has %%s; it notes %%s as primary address, and has %%s', u.id, u.server_metadata->>'channels', c.n,
		u.server_metadata->>'email', u.primary_email)
	FROM users u, LATERAL (SELECT count(*) AS n, max(value) FILTER (WHERE is_primary) AS email FROM contact_channels c WHERE c.user_id = u.id) c
	WHERE (u.server_metadata->>'channels')::bigint IS DISTINCT FROM c.n OR u.server_metadata->>'email' IS DISTINCT FROM c.email OR u.primary_email IS DISTINCT FROM c.email
UNION ALL
SELECT format('channel %%s has no user', c.id) FROM contact_channels c WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = c.user_id)
LIMIT 3`, accounts*openingBalance)

func clocksOf(ctx context.Context, tx pgx.Tx) (map[int]int64, error) {
	clocks := map[int]int64{}
	rows, _ := tx.Query(ctx, `SELECT writer, number FROM clock`)
	var writer int
	var number int64
	_, err := pgx.ForEachRow(rows, []any{&writer, &number}, func() error {
		clocks[writer] = number
		return nil
	})
	return clocks, err
}

func lines(ctx context.Context, tx pgx.Tx, sql string) ([]string, error) {
	rows, _ := tx.Query(ctx, sql)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// forgotten is the primary's knowledge of a destination at a moment.
type forgotten struct {
	lsn      uint64 // the slot has forgotten all before
	epoch    int64  // noted of the destination
	state    string
	detached bool
	reset    bool // a --slot-reset has begun and has not ended
}

// slotAndNote asks first the slot and then the note; nil where there is no slot or no note.
func (v *watch) slotAndNote(ctx context.Context) (*forgotten, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := reach(ctx, &v.primary, v.w.source()); err != nil {
		return nil, err
	}
	var lsn string
	if err := v.primary.QueryRow(ctx, `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&lsn); err != nil {
		return nil, err
	}
	at, err := parseLSN(lsn)
	if err != nil {
		return nil, err
	}
	f := &forgotten{lsn: at}
	err = v.primary.QueryRow(ctx, `SELECT d.epoch, d.state, d.detached, s.resetting FROM outflow.destination_state d JOIN outflow.source s USING (slot)
		WHERE slot = $1 AND tenant_id = $2 AND name = $3`, slot, v.d.tenant, v.d.name).Scan(&f.epoch, &f.state, &f.detached, &f.reset)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// durable checks that each transaction forgotten by the slot is there, or noted to be copied.
func (v *watch) durable(f *forgotten, s sight) {
	if f.reset || f.detached || f.state == "parked" || s.copying || s.epoch != f.epoch || s.epoch <= v.d.restored.Load() || v.d.excuses.of(s.epoch) != "" {
		return
	}
	for _, c := range v.w.commits.upTo(v.d.tenant, func(c commit) bool { return c.lsn <= f.lsn }) {
		if s.clocks[c.writer] < c.number {
			v.w.fail("the slot has forgotten all up to %X, and %s has %d of writer %d, not %d at %X; the note says %+v", f.lsn, v.d, s.clocks[c.writer],
				c.writer, c.number, c.lsn, *f)
		}
	}
	v.w.tally.count("watch: flush checked")
}

// progress checks that a destination in the state streaming gets new transactions.
func (v *watch) progress(ctx context.Context, s sight) {
	now := fmt.Sprint(s.epoch, s.copying, s.clocks)
	if now != v.previous {
		v.previous, v.moved = now, time.Now()
	}
	if time.Since(v.moved) < stalledFor {
		return
	}
	missing := v.w.commits.upTo(v.d.tenant, func(c commit) bool { return time.Since(c.at) > stalledFor && c.number > s.clocks[c.writer] })
	state := v.w.fleet.states(ctx)[v.d.database]
	if len(missing) == 0 || state.State != "streaming" {
		v.moved = time.Now()
		return
	}
	v.w.fail("%s says %q and has got nothing for %s, while it lacks transaction %d of writer %d, committed %s ago", v.d, state.State,
		time.Since(v.moved), missing[0].number, missing[0].writer, time.Since(missing[0].at))
}
