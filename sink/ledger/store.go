package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Store reads and writes the ledger of one slot. Safe for concurrent use; calls wait for one another, on one connection.
type Store struct {
	Slot    string
	Connect func(ctx context.Context) (*pgx.Conn, error) // to the primary; is called at the first statement, and after the loss of the connection

	own    atomic.Int64 // see OwnReading
	fenced atomic.Bool  // see Fenced

	mu     sync.Mutex
	conn   *pgx.Conn
	newest checkpointID // of this process; the zero value before the first reading
}

// timeout bounds one statement on the primary.
const timeout = 10 * time.Second

func (s *Store) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if s.conn == nil || s.conn.IsClosed() {
		conn, err := s.Connect(ctx)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	err := f(ctx, s.conn)
	if errors.Is(err, context.DeadlineExceeded) {
		at := s.conn.Config()
		err = fmt.Errorf("the primary at %s:%d has not answered within %s: %w", at.Host, at.Port, timeout, err)
	}
	return err
}

// Close closes the connection. A later call of another method connects again.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.conn.Close(ctx)
	}
}

// WALEnd is the LSN at which the primary's WAL ends now.
func (s *Store) WALEnd(ctx context.Context) (end int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`).Scan(&end)
	})
	return end, err
}

// FlushWAL has the primary write its WAL to disk up to here within a moment, by a transaction that has an id and nothing else. Unflushed
// WAL is not sent, and reading leaves records there (pruning) that an idle primary flushes only after many seconds.
func (s *Store) FlushWAL(ctx context.Context) error {
	return s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_current_xact_id()`)
		return err
	})
}
