package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgerror"
	"outflow/internal/tenantdsn"
	"outflow/mapping"
	"outflow/replication/wal"
)

// Session is a connection to an external database together with the knowledge of the database: the progress of each mapping, the types,
// the prepared statements. A session belongs to one goroutine at a time.
type Session struct {
	db    *Database
	conn  *pgconn.PgConn
	place *place // among the connections

	epoch    int64       // of the metadata as the session's user expects the metadata; 0 before the user has said so
	held     []int64     // by mapping: last_synced_sequence_id as we last saw or set the id
	written  []time.Time // by mapping: time of the write of held, as of the opening
	expected []int64     // held after the commit of the work in flight

	types      map[string]string // by the primary's name of a type: the external database's name, "" where there is none
	statements map[statementKey]*mapping.Statement
	prepared   map[string]bool
	keys       map[keysID]*keysQuery
	order      order

	settings  string // the statement that sets up a transaction
	plan      string // plan_cache_mode of the open transaction
	positions bool   // the server tells how far its WAL is written and flushed
	keepOpen  bool   // an error does not end the transaction: a savepoint is set
}

type statementKey struct {
	mapping, step int
	relation      *wal.Relation
}

func newSession(db *Database, conn *pgconn.PgConn, p *place) *Session {
	return &Session{db: db, conn: conn, place: p, types: map[string]string{}, statements: map[statementKey]*mapping.Statement{},
		prepared: map[string]bool{}, keys: map[keysID]*keysQuery{}, order: newOrder(db.Mappings, db.Tables.Names(), nil)}
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
func (s *Session) close() {
	s.abandon()
	s.place.release()
}

// abandon ends the connection; close gives the place back.
func (s *Session) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// usable reports whether the connection can take another transaction.
func (s *Session) usable() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'I' }

// inTransaction reports whether a transaction is open, and has not failed.
func (s *Session) inTransaction() bool { return s.conn.TxStatus() == 'T' }

// refused reports whether a statement has failed in the open transaction: a rollback to a savepoint lets the transaction go on.
func (s *Session) refused() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'E' }

// heavy reports whether the server has said so much that the connection should not rest: see [tenantdsn.Heavy].
func (s *Session) heavy() bool { return tenantdsn.Heavy(s.conn) }

// lowest is the id up to which every mapping is synced, -1 where there is no mapping.
func (s *Session) lowest() int64 {
	if len(s.held) == 0 {
		return -1
	}
	return slices.Min(s.held)
}

// expect notes the id that the chosen mappings have when the work in flight is committed; other work may be in flight already.
func (s *Session) expect(chosen []bool, id int64) {
	for i := range chosen {
		if chosen[i] {
			s.expected[i] = max(s.expected[i], id)
		}
	}
}

// applied notes that the chosen mappings have an id: a batch is committed.
func (s *Session) applied(chosen []bool, id int64) {
	for i := range chosen {
		if chosen[i] {
			s.held[i] = id
		}
	}
	s.expect(chosen, id)
}

// reached notes that the chosen mappings have everything up to an id, and may have more.
func (s *Session) reached(chosen []bool, id int64) {
	for i := range chosen {
		if chosen[i] {
			s.held[i] = max(s.held[i], id)
			s.expected[i] = max(s.expected[i], s.held[i])
		}
	}
}

// exec runs one statement with the extended protocol. Rows in the answer are ignored.
func (s *Session) exec(ctx context.Context, sql string, args ...string) error {
	_, _, err := s.read(ctx, 0, sql, args)
	return err
}

// ask runs one statement and returns the rows of the answer in text form, each with exactly the given number of columns: a server may answer
// anything, and callers read columns by their numbers.
func (s *Session) ask(ctx context.Context, columns int, sql string, args ...string) ([][][]byte, error) {
	return s.whole(ctx, answerBytes, columns, sql, args...)
}

// askRow is ask for a statement that always gives one row.
func (s *Session) askRow(ctx context.Context, columns int, sql string, args ...string) ([][]byte, error) {
	rows, err := s.ask(ctx, columns, sql, args...)
	if err == nil && len(rows) != 1 {
		err = &wrongAnswer{host: s.db.host(), what: fmt.Sprintf("%d rows in the place of one", len(rows))}
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// named adds the server's address to an error of the network, and the time that a silent server was given; nil stays nil.
func (s *Session) named(err error, began time.Time) error {
	switch {
	case err == nil || asPgError(err) != nil || strings.Contains(err.Error(), s.db.host()): // the server's own word, or named already
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s has not answered within %s: %w", s.db.host(), time.Since(began).Round(100*time.Millisecond), err)
	}
	return fmt.Errorf("%s: %w", s.db.host(), err)
}

// wrongAnswer is an answer that no Postgres gives to the statement.
type wrongAnswer struct{ host, what string }

func (e *wrongAnswer) Error() string {
	return fmt.Sprintf("%s answers with %s: it is no Postgres, or a hostile one", e.host, e.what)
}

// Class is the class that a tenant may read.
func (e *wrongAnswer) Class() string { return ClassProtocol }

// begin opens a transaction with the settings that the work depends on.
func (s *Session) begin(ctx context.Context) error {
	if err := s.exec(ctx, beginSQL); err != nil {
		return fmt.Errorf("BEGIN: %w", err)
	}
	s.plan = "auto"
	if err := s.exec(ctx, s.settings, "on", s.plan); err != nil {
		return fmt.Errorf("setting up the transaction: %w", s.unpositioned(err))
	}
	return nil
}

// commit commits the open transaction, and waits for the disk of the external server.
func (s *Session) commit(ctx context.Context) error { return s.exec(ctx, commitSQL) }

// rollback ends a failed transaction; a failed rollback closes the connection.
func (s *Session) rollback() {
	if s.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.conn.TxStatus() != 'I' {
		_ = s.exec(ctx, "ROLLBACK")
	}
}
