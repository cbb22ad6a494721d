package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/replication/primary"
)

// A process frozen or cut off for a time does not know of another process reading the slot by now, and would write over the notes of the
// other process. Every write of a reading process therefore has a fence: the statement locks the slot's row of outflow.source, and finds
// no row where another reading has begun since. A locked row is judged again after the wait for the lock (the Postgres manual, "Read
// Committed Isolation Level"), so nothing is written after the next reading has begun.
//
// Statements of persons have no fence: requests, switches, init, and the reset of a slot.
//
// In an external database a batch or a chunk of such a process fails where the other process has moved an id, an epoch, a cursor or a
// mapping's fingerprint. Filling a mapping compares nothing, and so asks the primary first.

// fenceSQL is the fence of a statement with the slot as $1 and the reading as $2.
const fenceSQL = `fence AS MATERIALIZED (SELECT FROM outflow.source WHERE slot = $1 AND reading = $2 FOR NO KEY UPDATE)`

// BeginReading notes the start of a reading of the slot and the reading process, and returns the id of the reading's checkpoint 0. Every other
// process is fenced from then on. The number of a reading is a time in microseconds, so that a primary restored from a backup does not give the same
// number again.
func (s *Store) BeginReading(ctx context.Context) (id string, err error) {
	host, _ := os.Hostname() // "" is not known
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var reading int64 // a reading that cannot be noted leaves the reading before in effect
		err := conn.QueryRow(ctx, `WITH newest AS (
				UPDATE outflow.source SET reading = greatest(reading + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
					(SELECT max(r.reading) + 1 FROM outflow.reading r WHERE r.slot = $1))
				WHERE slot = $1 RETURNING reading)
			INSERT INTO outflow.reading (slot, reading, host, process, walsender)
			SELECT $1, reading, $2, $3, (SELECT active_pid FROM pg_replication_slots WHERE slot_name::text = $1) FROM newest
			RETURNING reading`, s.Slot, host, os.Getpid()).Scan(&reading)
		if err == nil {
			s.newest = checkpointID{reading: reading}
			s.own.Store(reading)
			id = s.newest.String()
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("writing outflow.reading: %w", err)
	}
	return id, nil
}

// OwnReading is the number of this process' newest reading of the slot; 0 before the first. Safe for concurrent use.
func (s *Store) OwnReading() int64 { return s.own.Load() }

// Fenced reports whether a note of this process was refused because another process reads the slot. Safe for concurrent use.
func (s *Store) Fenced() bool { return s.fenced.Load() }

// CheckReading fails with [primary.ErrFenced] where another process has begun to read the slot.
func (s *Store) CheckReading(ctx context.Context) error {
	return s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return s.fencedBy(conn.QueryRow(ctx, `SELECT 1 FROM outflow.source WHERE slot = $1 AND reading = $2`, s.Slot, s.newest.reading).Scan(new(int)))
	})
}

// fencedBy turns the lack of a row, of a statement that returns a row unless another process reads the slot, into ErrFenced.
func (s *Store) fencedBy(err error) error {
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	s.fenced.Store(true)
	return primary.ErrFenced
}

// Attended reports whether a process reads the slot.
func (s *Store) Attended(ctx context.Context) (attended bool, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = $1), false)`, s.Slot).Scan(&attended)
	})
	if err != nil {
		return false, fmt.Errorf("looking for replication slot %q: %w", s.Slot, err)
	}
	return attended, nil
}

// Reader is the reader of the slot, as far as the primary knows and this role may see.
type Reader struct {
	Walsender   int       // process on the primary that serves the slot
	Application string    // application_name; "" is not known
	Address     string    // of the client; "" is a socket of the primary's machine, or not known
	Host        string    // machine of Outflow's reading process, as the process noted; "" is not known
	Process     int       // the process's id there; 0 is not known
	Since       time.Time // when the reading began; zero is not known
}

// Reader finds the reader of the slot; nil is no reader. Host and Process are not known where another program than Outflow has the slot.
func (s *Store) Reader(ctx context.Context) (*Reader, error) {
	var r Reader
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT s.active_pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''),
				coalesce(r.host, ''), coalesce(r.process, 0), coalesce(r.begun_at, a.backend_start, 'epoch')
			FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
			LEFT JOIN LATERAL (SELECT * FROM outflow.reading WHERE slot = $1 ORDER BY reading DESC LIMIT 1) r ON r.walsender = s.active_pid
			WHERE s.slot_name::text = $1 AND s.active_pid IS NOT NULL`, s.Slot).
			Scan(&r.Walsender, &r.Application, &r.Address, &r.Host, &r.Process, &r.Since)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the reader of slot %q: %w", s.Slot, err)
	}
	if r.Since.Unix() == 0 {
		r.Since = time.Time{}
	}
	return &r, nil
}
