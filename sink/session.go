package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication"
)

// session is a connection to an external database together with the knowledge of the database: the progress of each mapping, the types,
// the prepared statements. A session belongs to one goroutine at a time.
type session struct {
	d          *Destination
	conn       *pgconn.PgConn
	held       []int64           // by mapping: last_synced_sequence_id as we last saw or set the id
	written    []time.Time       // by mapping: time of the write of held, as of open
	expected   []int64           // held after the commit of the work in flight
	types      map[string]string // by the primary's name of a type: the external database's name, "" where there is none
	statements map[statementKey]*mapping.Statement
	prepared   map[string]bool
	order      order
	keys       map[keysID]*keysQuery
	backfill   *backfill       // nil: every mapping is complete
	epoch      int64           // the destination's when the session was opened, and so the metadata's
	least      int64           // the id that the database had at the opening
	followed   map[string]bool // see [Destination.followed]
	plan       string          // plan_cache_mode of the open transaction
	keepOpen   bool            // an error does not end the transaction: a savepoint is set
}

type statementKey struct {
	mapping, step int
	relation      *replication.Relation
}

// dialConfig reads an operator's connection string: any host and any sslmode, but nothing that could override our settings. The process
// has no PG* variables any more when dialConfig is called.
func dialConfig(dsn string, o Options) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("the connection string cannot be read: %w", err)
	}
	// pgbouncer refuses other start-up parameters; the rest is set in each transaction.
	config.RuntimeParams = map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}
	config.ConnectTimeout = o.ConnectTimeout
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	return config, nil
}

// connect opens the destination's session and makes the metadata and the tables ready.
func (d *Destination) connect(ctx context.Context) error {
	if d.fault != nil {
		return d.fault
	}
	if err := d.renote(ctx); err != nil {
		return err
	}
	c := d.router.connections
	d.mu.Lock()
	d.queued = true
	doubtful := d.status.Attempts > 0
	d.mu.Unlock()
	admitted, err := c.acquireFor(ctx, doubtful)
	d.mu.Lock()
	d.queued = false
	d.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := d.dial(ctx)
	admitted()
	if err != nil {
		c.release()
		return explainConnect(err)
	}
	if err := s.open(ctx); err != nil {
		s.close()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session = s
	d.attach(s)
	d.met, d.visiting = true, false
	d.status.SequenceID = s.lowest()
	d.noteSynced(s, s.written)
	d.caughtUp = s.backfill == nil
	if s.backfill != nil {
		d.due, d.status.Copied = true, s.backfill.cursor.Rows
	}
	return nil
}

func (d *Destination) dial(ctx context.Context) (*session, error) {
	c := d.router.connections
	if err := c.dials.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.dials.Release(1)
	if err := failpoint.Fail(failpoint.BeforeConnect); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.router.Options.ConnectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, d.config)
	if err != nil {
		return nil, err
	}
	return &session{d: d, conn: conn, types: map[string]string{}, statements: map[statementKey]*mapping.Statement{},
		prepared: map[string]bool{}, keys: map[keysID]*keysQuery{}, order: newOrder(d.mappings, d.router.tableNames(), nil)}, nil
}

func explainConnect(err error) error {
	e := newError(fmt.Errorf("connecting: %w", err))
	var known interface{ Remedy() string }
	if errors.As(err, &known) {
		e.Remedy = known.Remedy()
	}
	switch e.SQLState {
	case "28P01", "28000":
		e.Remedy = "check user and password of the destination's dsn, and pg_hba.conf there"
	case databaseMissing:
		e.Remedy = "create the database, or correct the destination's dsn"
	}
	return e
}

// close ends the connection and gives the place of the connection back.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.d.router.connections.release()
}

// usable reports whether the connection can take another transaction.
func (s *session) usable() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'I' }

// lowest is the id up to which every mapping is synced.
func (s *session) lowest() int64 {
	if len(s.held) == 0 {
		return -1
	}
	return slices.Min(s.held)
}

// behind tells, by mapping, which have not applied the transaction with the id.
func (s *session) behind(id int64) []bool {
	b := make([]bool, len(s.held))
	for i, held := range s.held {
		b[i] = held < id
	}
	return b
}

// exec runs one statement with the extended protocol and returns its rows in text form.
func (s *session) exec(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.d.router.Options.StatementTimeout+s.d.router.Options.LockTimeout)
	defer cancel()
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	r := s.conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	if r.Err == nil {
		s.d.lastRound.Store(time.Now().UnixNano())
	}
	return r.Rows, r.Err
}

// isTrue reports whether the answer is one row with one true column.
func isTrue(rows [][][]byte) bool {
	return len(rows) == 1 && len(rows[0]) == 1 && string(rows[0][0]) == "t"
}

// begin opens a transaction with the settings that the work depends on.
func (s *session) begin(ctx context.Context) error {
	if _, err := s.exec(ctx, beginSQL); err != nil {
		return fmt.Errorf("BEGIN: %w", err)
	}
	s.plan = "auto"
	if _, err := s.exec(ctx, s.d.router.settings, "on", s.plan); err != nil {
		return fmt.Errorf("setting up the transaction: %w", err)
	}
	return nil
}

// rollback ends a failed transaction; a failed rollback closes the connection.
func (s *session) rollback() {
	if s.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.conn.TxStatus() != 'I' {
		_, _ = s.exec(ctx, "ROLLBACK")
	}
}
