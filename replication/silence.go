package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// errSilent ends a session in which the server has said nothing for too long, though asked to: see [Reader.silence].
var errSilent = errors.New("the primary has gone silent")

// askAfter is the silence of the server after which every status update asks for a sign of life.
const askAfter = 10 * time.Second

// patience is the value of Reader.Patience for 0.
const patience = 30 * time.Second

// silence is the longest allowed silence of the server in a session; 0 is any. A walsender in the middle of a large transaction with nothing
// to send, on unpublished tables for example, looks at the connection and sends a keepalive only when half of wal_sender_timeout has
// passed (WalSndUpdateProgress in the server's walsender.c), and never where the timeout is 0. The limit is therefore the server's own. Where
// the server stays silent for longer all the same, ending the session would begin the same transaction again, forever: each session
// ended by silence doubles the limit of the next, until a transaction comes.
//
// The limit finds a hanging server process, or a middlebox keeping a dead connection. A connection without the other end is found by
// the kernel: see keepAlive in package primary.
func (r *Reader) silence(senderTimeout time.Duration) time.Duration {
	if senderTimeout == 0 {
		return 0
	}
	return max(r.Patience, senderTimeout) << min(r.silent, 6)
}

// senderTimeout reads wal_sender_timeout of a walsender session; 0 is no timeout.
func senderTimeout(ctx context.Context, conn *pgconn.PgConn) (time.Duration, error) {
	results, err := conn.Exec(ctx, `SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'`).ReadAll()
	if err == nil && (len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1) {
		err = errors.New("the server returns no such row")
	}
	var ms int64
	if err == nil {
		ms, err = strconv.ParseInt(string(results[0].Rows[0][0]), 10, 32) // the setting is an integer of 32 bits, in milliseconds
	}
	if err != nil {
		return 0, fmt.Errorf("reading wal_sender_timeout: %w", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}
