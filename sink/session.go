package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgerror"
	"outflow/internal/tenantdsn"
	"outflow/mapping"
	"outflow/replication/wal"
)

// session is a connection to an external database together with the knowledge of the database: the progress of each mapping, the types,
// the prepared statements. A session belongs to one goroutine at a time.
type session struct {
	d          *Destination
	conn       *pgconn.PgConn
	place      *place            // among the connections
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
	given      int64           // at the opening: no higher id was given
	least      int64           // the id that the database had at the opening
	followed   map[string]bool // see [Destination.followed]
	plan       string          // plan_cache_mode of the open transaction
	positions  bool            // the server tells how far its WAL is written and flushed: see durable.go
	keepOpen   bool            // an error does not end the transaction: a savepoint is set
}

type statementKey struct {
	mapping, step int
	relation      *wal.Relation
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
	tenantdsn.Bound(config)
	return config, nil
}

// opened makes a session ready. Without success the connection is closed, and its place is free, after a panic too.
func (s *session) opened(ctx context.Context) error {
	ready := false
	defer func() {
		if !ready {
			s.close()
		}
	}()
	err := s.open(ctx)
	ready = err == nil
	return err
}

func explainConnect(err error) error {
	e := newError(fmt.Errorf("connecting: %w", err))
	var known interface{ Remedy() string }
	if errors.As(err, &known) {
		e.Remedy = known.Remedy()
	}
	remedy := pgerror.TLSRemedy(err, "as PEM in the column ca of destinations.query, or as sslrootcert in the dsn of destinations.static")
	switch {
	case remedy != "":
		e.Remedy = remedy
	case e.SQLState == "28P01" || e.SQLState == "28000":
		e.Remedy = "check user and password of the destination's dsn, and pg_hba.conf there (a line with hostssl counts only with TLS: sslmode)"
	case e.SQLState == databaseMissing:
		e.Remedy = "create the database, or correct the destination's dsn"
	}
	return e
}

// close ends the connection and gives the place of the connection back.
func (s *session) close() {
	if s.backfill != nil {
		s.backfill.end()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.place.release()
}

// usable reports whether the connection can take another transaction.
func (s *session) usable() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'I' }

// lowest is the id up to which every mapping is synced.
func (s *session) lowest() int64 { return progress(s.held).lowest() }

// exec runs one statement with the extended protocol. Rows in the answer are ignored.
func (s *session) exec(ctx context.Context, sql string, args ...string) error {
	_, _, err := s.read(ctx, 0, sql, args)
	return err
}

// ask runs one statement and returns the rows of the answer in text form, each with exactly the given number of columns: a server may answer
// anything, and callers read columns by their numbers.
func (s *session) ask(ctx context.Context, columns int, sql string, args ...string) ([][][]byte, error) {
	return s.whole(ctx, answerBytes, columns, sql, args...)
}

// askRow is ask for a statement that always gives one row.
func (s *session) askRow(ctx context.Context, columns int, sql string, args ...string) ([][]byte, error) {
	rows, err := s.ask(ctx, columns, sql, args...)
	if err == nil && len(rows) != 1 {
		err = &wrongAnswer{host: s.host(), what: fmt.Sprintf("%d rows in the place of one", len(rows))}
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// named adds the server's address to an error of the network, and the time that a silent server was given; nil stays nil.
func (s *session) named(err error, began time.Time) error {
	switch {
	case err == nil || asPgError(err) != nil || strings.Contains(err.Error(), s.host()): // the server's own word, or named already
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s has not answered within %s: %w", s.host(), time.Since(began).Round(100*time.Millisecond), err)
	}
	return fmt.Errorf("%s: %w", s.host(), err)
}

// host is the server's address for messages.
func (s *session) host() string {
	return fmt.Sprintf("%s:%d", s.d.config.Host, s.d.config.Port)
}

// wrongAnswer is an answer that no Postgres gives to the statement.
type wrongAnswer struct{ host, what string }

func (e *wrongAnswer) Error() string {
	return fmt.Sprintf("%s answers with %s: it is no Postgres, or a hostile one", e.host, e.what)
}

// Class is the class that a tenant may read.
func (e *wrongAnswer) Class() string { return ClassProtocol }

// begin opens a transaction with the settings that the work depends on.
func (s *session) begin(ctx context.Context) error {
	if err := s.exec(ctx, beginSQL); err != nil {
		return fmt.Errorf("BEGIN: %w", err)
	}
	s.plan = "auto"
	if err := s.exec(ctx, s.settings(), "on", s.plan); err != nil {
		return fmt.Errorf("setting up the transaction: %w", s.unpositioned(err))
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
		_ = s.exec(ctx, "ROLLBACK")
	}
}
