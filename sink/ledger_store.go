package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// StateStore keeps outflow.destination_state on the primary. Safe for concurrent use; calls queue up on one connection.
type StateStore struct {
	Slot    string
	Connect func(ctx context.Context) (*pgx.Conn, error)

	reading atomic.Int64 // see OwnReading
	fenced  atomic.Bool  // another process reads the slot: see fenceSQL

	mu   sync.Mutex
	conn *pgx.Conn
	mark mark // the newest
}

// stateTimeout bounds one statement on the primary.
const stateTimeout = 10 * time.Second

func (s *StateStore) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
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
		err = fmt.Errorf("the primary at %s:%d has not answered within %s: %w", at.Host, at.Port, stateTimeout, err)
	}
	return err
}

// Close ends the connection.
func (s *StateStore) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.conn.Close(ctx)
	}
}

// walEnd is where the primary's WAL ends now.
func (s *StateStore) walEnd(ctx context.Context) (end int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`).Scan(&end)
	})
	return end, err
}

// flushWAL has the primary write its WAL to disk up to here within a moment, by a transaction that has an id and nothing else. Unflushed
// WAL is not sent, and reading leaves records there (pruning) that an idle primary flushes only after many seconds.
func (s *StateStore) flushWAL(ctx context.Context) error {
	return s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_current_xact_id()`)
		return err
	})
}
