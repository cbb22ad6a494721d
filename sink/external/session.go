package external

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
	Place *Place // among the connections

	Epoch    int64       // of the metadata as the session's user expects the metadata; 0 before the user has said so
	Held     []int64     // by mapping: last_synced_sequence_id as the session last saw or set the id
	Written  []time.Time // by mapping: time of the write of Held, as of the opening
	expected []int64     // Held after the commit of the work in flight

	types      map[string]string // by the primary's name of a type: the external database's name, "" where there is none
	statements map[statementKey]*mapping.Statement
	prepared   map[string]bool
	keys       map[keysID]*KeysQuery
	Order      Order

	settings       string // the statement that sets up a transaction
	plan           string // plan_cache_mode of the open transaction
	TellsPositions bool   // the server tells how far its WAL is written and flushed
	KeepOpen       bool   // an error does not end the transaction: a savepoint is set
}

type statementKey struct {
	mapping, step int
	relation      *wal.Relation
}

func newSession(db *Database, conn *pgconn.PgConn, p *Place) *Session {
	return &Session{db: db, conn: conn, Place: p, types: map[string]string{}, statements: map[statementKey]*mapping.Statement{},
		prepared: map[string]bool{}, keys: map[keysID]*KeysQuery{}, Order: newOrder(db.Mappings, db.Tables.Names(), nil)}
}

func explainConnect(err error) error {
	e := AsError(fmt.Errorf("connecting: %w", err))
	var known interface{ Remedy() string }
	if errors.As(err, &known) {
		e.Remedy = known.Remedy()
	}
	remedy := pgerror.TLSRemedy(err, "as PEM in the column ca of destinations.query, or as sslrootcert in the dsn of destinations.static")
	switch {
	case remedy != "":
		e.Remedy = remedy
	case e.SQLState == "28P01" || e.SQLState == "28000":
		e.Remedy = "check user and password of the destination's dsn, and pg_hba.conf of that server (a hostssl line counts only with TLS: sslmode)"
	case e.SQLState == pgerror.UnknownDatabase:
		e.Remedy = "create the database, or correct the destination's dsn"
	}
	return e
}

// Close ends the connection and gives the place of the connection back.
func (s *Session) Close() {
	s.abandon()
	s.Place.release()
}

// abandon ends the connection; Close gives the place back too.
func (s *Session) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// Usable reports whether the connection can take another transaction.
func (s *Session) Usable() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'I' }

// InTransaction reports whether a transaction is open, and has not failed.
func (s *Session) InTransaction() bool { return s.conn.TxStatus() == 'T' }

// Refused reports whether a statement has failed in the open transaction: a rollback to a savepoint lets the transaction go on.
func (s *Session) Refused() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'E' }

// Heavy reports whether the server has said so much that the connection should not rest: see [tenantdsn.Heavy].
func (s *Session) Heavy() bool { return tenantdsn.Heavy(s.conn) }

// Lowest is the id up to which every mapping is synced, -1 where there is no mapping.
func (s *Session) Lowest() int64 {
	if len(s.Held) == 0 {
		return -1
	}
	return slices.Min(s.Held)
}

// Expect notes the id that the chosen mappings have when the work in flight is committed; other work may be in flight already.
func (s *Session) Expect(chosen []bool, id int64) {
	for i := range chosen {
		if chosen[i] {
			s.expected[i] = max(s.expected[i], id)
		}
	}
}

// Applied notes that the chosen mappings have an id: a batch is committed.
func (s *Session) Applied(chosen []bool, id int64) {
	for i := range chosen {
		if chosen[i] {
			s.Held[i] = id
		}
	}
	s.Expect(chosen, id)
}

// Reached notes that the chosen mappings have everything up to an id, and may have more.
func (s *Session) Reached(chosen []bool, id int64) {
	for i := range chosen {
		if chosen[i] {
			s.Held[i] = max(s.Held[i], id)
			s.expected[i] = max(s.expected[i], s.Held[i])
		}
	}
}

// Exec runs one statement with the extended protocol. Rows in the answer are ignored.
func (s *Session) Exec(ctx context.Context, sql string, args ...string) error {
	_, _, err := s.read(ctx, 0, sql, args)
	return err
}

// Ask runs one statement and returns the rows of the answer in text form, each with exactly the given number of columns: a server may answer
// anything, and callers read columns by their numbers.
func (s *Session) Ask(ctx context.Context, columns int, sql string, args ...string) ([][][]byte, error) {
	return s.AskWhole(ctx, answerBytes, columns, sql, args...)
}

// AskRow is Ask for a statement that always gives one row.
func (s *Session) AskRow(ctx context.Context, columns int, sql string, args ...string) ([][]byte, error) {
	rows, err := s.Ask(ctx, columns, sql, args...)
	if err == nil && len(rows) != 1 {
		err = &wrongAnswer{host: s.db.host(), what: fmt.Sprintf("%d rows instead of one", len(rows))}
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// named adds the server's address to an error of the network, and the time that a silent server was given; nil stays nil.
func (s *Session) named(err error, began time.Time) error {
	switch {
	case err == nil || serverError(err) != nil || strings.Contains(err.Error(), s.db.host()): // the server's own word, or named already
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s has not answered within %s: %w", s.db.host(), time.Since(began).Round(100*time.Millisecond), err)
	}
	return fmt.Errorf("%s: %w", s.db.host(), err)
}

// wrongAnswer is an answer that no Postgres gives to the statement.
type wrongAnswer struct{ host, what string }

func (e *wrongAnswer) Error() string {
	return fmt.Sprintf("%s answers with %s: the server is not Postgres, or is hostile", e.host, e.what)
}

// Class is the class that a tenant may read.
func (e *wrongAnswer) Class() string { return ClassProtocol }

// Begin opens a transaction with the settings that the work depends on.
func (s *Session) Begin(ctx context.Context) error {
	if err := s.Exec(ctx, beginSQL); err != nil {
		return fmt.Errorf("BEGIN: %w", err)
	}
	s.plan = "auto"
	if err := s.Exec(ctx, s.settings, "on", s.plan); err != nil {
		return fmt.Errorf("setting up the transaction: %w", s.unpositioned(err))
	}
	return nil
}

// Commit commits the open transaction, and waits for the disk of the external server.
func (s *Session) Commit(ctx context.Context) error { return s.Exec(ctx, commitSQL) }

// Rollback ends a failed transaction; a failed rollback closes the connection.
func (s *Session) Rollback() {
	if s.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.conn.TxStatus() != 'I' {
		_ = s.Exec(ctx, "ROLLBACK")
	}
}
