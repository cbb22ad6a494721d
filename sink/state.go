package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/replication/wal"
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

// mark names a checkpoint that the primary has noted. External databases carry the newest mark in the metadata. If the primary no longer
// knows the mark, the primary was restored from a backup, and its ids are given a second time.
type mark struct{ reading, checkpoint int64 }

// String is the form of the mark in the metadata; the zero mark is "".
func (m mark) String() string {
	if m == (mark{}) {
		return ""
	}
	return fmt.Sprintf("%d/%d", m.reading, m.checkpoint)
}

// knows reports whether the primary has noted the checkpoint of a mark; the mark "" counts as noted.
func (s *StateStore) knows(ctx context.Context, text string) (known bool, err error) {
	if text == "" {
		return true, nil
	}
	var m mark
	if _, err := fmt.Sscanf(text, "%d/%d", &m.reading, &m.checkpoint); err != nil {
		return false, fmt.Errorf("%q is no mark of a checkpoint: %w", text, err)
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outflow.reading WHERE slot = $1 AND reading = $2 AND checkpoints >= $3)`,
			s.Slot, m.reading, m.checkpoint).Scan(&known)
	})
	if err != nil {
		return false, fmt.Errorf("reading outflow.reading: %w", err)
	}
	return known, nil
}

// destinationState is a row of the table.
type destinationState struct {
	tenant, name string
	epoch        int64
	note         int64 // the external database is at or above note
	fingerprint  string
	state        State
	reason       string
	class        string    // of the last error, for the tenant: see [Error.Class]
	detached     bool      // the stream goes on without the destination
	copied       int64     // rows of the backfill in progress, or else of the last backfill
	copyTotal    int64     // about how many there will be, 0 where none is in progress or the number is unknown
	since        time.Time // of the state, on the primary's clock; only in a read row
	mappings     string    // JSON of how far each is; "" is not known
	taken        int64     // the epoch that the reading process works with
	retried      int64     // how many of the requests for a try are carried out
}

// sinceSQL keeps the time of an unchanged state.
const sinceSQL = `CASE WHEN s.state = excluded.state THEN s.since ELSE now() END`

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

// finiteSince is the time of a state, or 1970 where a person wrote infinity, which no program can read.
const finiteSince = `CASE WHEN isfinite(since) THEN since ELSE 'epoch' END`

const (
	stateColumns = `tenant_id, name, epoch, last_sequence_id, fingerprint, state, reason`
	readColumns  = stateColumns + `, coalesce(error_class, ''), detached, coalesce(copied_rows, 0), ` + finiteSince + `, mappings, taken_epoch, retried`
)

func scanStates(rows pgx.Rows) ([]destinationState, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (destinationState, error) {
		var d destinationState
		err := row.Scan(d.columns()...)
		return d, err
	})
}

// columns are where readColumns go.
func (d *destinationState) columns() []any {
	return []any{&d.tenant, &d.name, &d.epoch, &d.note, &d.fingerprint, &d.state, &d.reason, &d.class, &d.detached, &d.copied, &d.since, &d.mappings, &d.taken, &d.retried}
}

// load reads all notes.
func (s *StateStore) load(ctx context.Context) (states []destinationState, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT `+readColumns+` FROM outflow.destination_state WHERE slot = $1`, s.Slot)
		if err != nil {
			return err
		}
		states, err = scanStates(rows)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return states, nil
}

// find reads the note of one destination; the zero epoch means no note.
func (s *StateStore) find(ctx context.Context, tenant, name string) (destinationState, error) {
	found := destinationState{tenant: tenant, name: name}
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT `+readColumns+` FROM outflow.destination_state WHERE slot = $1 AND tenant_id = $2 AND name = $3`, s.Slot, tenant, name)
		if err != nil {
			return err
		}
		states, err := scanStates(rows)
		if len(states) > 0 {
			found = states[0]
		}
		return err
	})
	if err != nil {
		return found, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return found, nil
}

// note notes the flush LSN before the report of the LSN, and the destinations that moved, in one statement. note returns the checkpoint's
// mark, and for each of moved whether the destination is noted: a row of a later epoch stays as it is. With the flush LSN 0 note writes of
// the destinations alone: that is no checkpoint.
func (s *StateStore) note(ctx context.Context, flush wal.LSN, moved []destinationState) (text string, noted []bool, err error) {
	tenants, names := make([]string, len(moved)), make([]string, len(moved))
	fingerprints, states := make([]string, len(moved)), make([]string, len(moved))
	reasons, classes := make([]string, len(moved)), make([]string, len(moved))
	epochs, notes, retried := make([]int64, len(moved)), make([]int64, len(moved)), make([]int64, len(moved))
	copied, totals, detached := make([]int64, len(moved)), make([]int64, len(moved)), make([]bool, len(moved))
	mappings := make([]string, len(moved))
	for i, d := range moved {
		tenants[i], names[i], epochs[i], notes[i] = d.tenant, d.name, d.epoch, d.note
		fingerprints[i], states[i], classes[i] = d.fingerprint, string(d.state), d.class
		copied[i], totals[i], detached[i], mappings[i], retried[i] = d.copied, d.copyTotal, d.detached, d.mappings, d.retried
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for i, d := range moved {
			reasons[i] = fitted(conn, d.reason, fit.Reason)
		}
		checkpoint := s.mark.checkpoint
		if flush > 0 {
			checkpoint++
		}
		err := s.fencedBy(conn.QueryRow(ctx, checkpointSQL, s.Slot, s.mark.reading, flush.String(), checkpoint, tenants, names, epochs, notes, fingerprints,
			states, reasons, copied, totals, classes, detached, mappings, retried).Scan(&noted))
		if err == nil {
			s.mark.checkpoint = checkpoint
			text = s.mark.String()
		}
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return text, noted, nil
}

// checkpointSQL returns no row where the fence is down.
const checkpointSQL = `WITH fence AS (UPDATE outflow.source SET flush_lsn = greatest(flush_lsn, $3::text::pg_lsn) WHERE slot = $1 AND reading = $2 RETURNING 1),
	mark AS (UPDATE outflow.reading SET checkpoints = $4 FROM fence WHERE slot = $1 AND reading = $2),
	moved AS (SELECT * FROM unnest($5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::text[],
			$15::bool[], $16::text[], $17::bigint[])
		WITH ORDINALITY AS m (tenant, name, epoch, note, fingerprint, state, reason, copied, total, class, detached, mappings, retried, n)),
	noted AS (INSERT INTO outflow.destination_state AS s (slot, ` + stateColumns + `, error_class, copied_rows, copy_total, detached, mappings, taken_epoch, retried)
		SELECT $1, m.tenant, m.name, m.epoch, m.note, m.fingerprint, m.state, m.reason, nullif(m.class, ''), nullif(m.copied, 0), nullif(m.total, 0), m.detached, m.mappings,
			m.epoch, m.retried
		FROM fence CROSS JOIN moved m
		ON CONFLICT (slot, tenant_id, name) DO UPDATE SET last_sequence_id = greatest(s.last_sequence_id, excluded.last_sequence_id),
			fingerprint = excluded.fingerprint, state = excluded.state, reason = excluded.reason, error_class = excluded.error_class, updated_at = now(),
			copied_rows = excluded.copied_rows, copy_total = excluded.copy_total, detached = excluded.detached, mappings = excluded.mappings,
			taken_epoch = excluded.taken_epoch, retried = excluded.retried, since = ` + sinceSQL + `
		WHERE s.epoch = excluded.epoch RETURNING tenant_id, name)
	SELECT coalesce((SELECT array_agg(n.name IS NOT NULL ORDER BY m.n) FROM moved m LEFT JOIN noted n ON n.tenant_id = m.tenant AND n.name = m.name), '{}')
	FROM fence`

// raise gives a destination its next epoch, which is durable when raise returns: the external database is copied again. An epoch is a time
// in microseconds, so that a primary restored from a backup does not give the same epoch again. No text of the destination's keeps raise
// from doing so: see raiseAnyhow.
func (s *StateStore) raise(ctx context.Context, d destinationState) (epoch int64, err error) {
	if err := failpoint.Fail(failpoint.BeforeRaise); err != nil {
		return 0, err
	}
	epoch, err = s.raiseRow(ctx, d)
	if refusesData(err) {
		epoch, err = s.raiseAnyhow(ctx, d, err)
	}
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return epoch, failpoint.Fail(failpoint.Raised)
}

func (s *StateStore) raiseRow(ctx context.Context, d destinationState) (epoch int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return s.fencedBy(conn.QueryRow(ctx, `WITH `+fenceSQL+`
			INSERT INTO outflow.destination_state AS s (slot, tenant_id, name, epoch, taken_epoch, state, reason, detached)
			SELECT $1, $3, $4, now.epoch, now.epoch, $5, $6, $7 FROM fence, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS epoch) AS now
			ON CONFLICT (slot, tenant_id, name) DO UPDATE SET epoch = greatest(s.epoch + 1, excluded.epoch), taken_epoch = greatest(s.epoch + 1, excluded.epoch), state = excluded.state, reason = excluded.reason,
				detached = excluded.detached, since = `+sinceSQL+`, updated_at = now()
			RETURNING epoch`, s.Slot, s.mark.reading, d.tenant, d.name, d.state, fitted(conn, d.reason, fit.Reason), d.detached).Scan(&epoch))
	})
	return epoch, err
}

// walEnd is where the primary's WAL ends now.
func (s *StateStore) walEnd(ctx context.Context) (end int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`).Scan(&end)
	})
	return end, err
}
