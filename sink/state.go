package sink

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/replication"
)

// StateStore keeps outflow.destination_state on the primary. Safe for concurrent use; calls queue up on one connection.
type StateStore struct {
	Slot    string
	Connect func(ctx context.Context) (*pgx.Conn, error)

	mu     sync.Mutex
	conn   *pgx.Conn
	polled time.Time               // of the newest request seen
	seen   map[[2]string]time.Time // the newest request seen for each destination
	mark   mark                    // the newest
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

// begin notes the start of a reading of the slot and the reading process, and returns the reading's first mark. The number of a reading is
// a time in microseconds, so that a primary restored from a backup does not give the same number again.
func (s *StateStore) begin(ctx context.Context) (text string, err error) {
	host, _ := os.Hostname() // "" is not known
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var reading int64 // a reading that cannot be noted leaves the mark of the one before as it is
		err := conn.QueryRow(ctx, `INSERT INTO outflow.reading (slot, reading, host, process, walsender)
			SELECT $1, greatest(coalesce(max(reading), 0) + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), $2, $3,
				(SELECT active_pid FROM pg_replication_slots WHERE slot_name::text = $1)
			FROM outflow.reading WHERE slot = $1 RETURNING reading`, s.Slot, host, os.Getpid()).Scan(&reading)
		if err == nil {
			s.mark = mark{reading: reading}
			text = s.mark.String()
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("writing outflow.reading: %w", err)
	}
	return text, nil
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
	return f(ctx, s.conn)
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

const (
	stateColumns = `tenant_id, name, epoch, last_sequence_id, fingerprint, state, reason`
	readColumns  = stateColumns + `, coalesce(error_class, ''), detached, coalesce(copied_rows, 0), since, mappings`
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
	return []any{&d.tenant, &d.name, &d.epoch, &d.note, &d.fingerprint, &d.state, &d.reason, &d.class, &d.detached, &d.copied, &d.since, &d.mappings}
}

// load reads all notes, and the time from which on requests are new.
func (s *StateStore) load(ctx context.Context) (states []destinationState, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := s.skipRequests(ctx, conn); err != nil {
			return err
		}
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

// checkpoint notes the flush LSN before the report of the LSN, and the destinations that moved, in one statement. checkpoint returns the
// checkpoint's mark.
func (s *StateStore) checkpoint(ctx context.Context, flush replication.LSN, moved []destinationState) (text string, err error) {
	tenants, names := make([]string, len(moved)), make([]string, len(moved))
	fingerprints, states := make([]string, len(moved)), make([]string, len(moved))
	reasons, classes := make([]string, len(moved)), make([]string, len(moved))
	epochs, notes := make([]int64, len(moved)), make([]int64, len(moved))
	copied, totals, detached := make([]int64, len(moved)), make([]int64, len(moved)), make([]bool, len(moved))
	mappings := make([]string, len(moved))
	for i, d := range moved {
		tenants[i], names[i], epochs[i], notes[i] = d.tenant, d.name, d.epoch, d.note
		fingerprints[i], states[i], reasons[i], classes[i] = d.fingerprint, string(d.state), d.reason, d.class
		copied[i], totals[i], detached[i], mappings[i] = d.copied, d.copyTotal, d.detached, d.mappings
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `WITH flush AS (UPDATE outflow.source SET flush_lsn = greatest(flush_lsn, $2::text::pg_lsn) WHERE slot = $1),
				mark AS (UPDATE outflow.reading SET checkpoints = $13 WHERE slot = $1 AND reading = $12)
			INSERT INTO outflow.destination_state AS s (slot, `+stateColumns+`, error_class, copied_rows, copy_total, detached, mappings)
			SELECT $1, m.tenant, m.name, m.epoch, m.note, m.fingerprint, m.state, m.reason, nullif(m.class, ''), nullif(m.copied, 0), nullif(m.total, 0), m.detached, m.mappings
			FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $14::text[], $15::bool[], $16::text[])
				AS m (tenant, name, epoch, note, fingerprint, state, reason, copied, total, class, detached, mappings)
			ON CONFLICT (slot, tenant_id, name) DO UPDATE SET last_sequence_id = greatest(s.last_sequence_id, excluded.last_sequence_id),
				fingerprint = excluded.fingerprint, state = excluded.state, reason = excluded.reason, error_class = excluded.error_class, updated_at = now(),
				copied_rows = excluded.copied_rows, copy_total = excluded.copy_total, detached = excluded.detached, mappings = excluded.mappings, since = `+sinceSQL+`
			WHERE s.epoch = excluded.epoch`,
			s.Slot, flush.String(), tenants, names, epochs, notes, fingerprints, states, reasons, copied, totals,
			s.mark.reading, s.mark.checkpoint+1, classes, detached, mappings)
		if err == nil {
			s.mark.checkpoint++
			text = s.mark.String()
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return text, nil
}

// raise gives a destination its next epoch, which is durable when raise returns: the external database is copied again. An epoch is a time
// in microseconds, so that a primary restored from a backup does not give the same epoch again.
func (s *StateStore) raise(ctx context.Context, d destinationState) (epoch int64, err error) {
	if err := failpoint.Fail(failpoint.BeforeRaise); err != nil {
		return 0, err
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `INSERT INTO outflow.destination_state AS s (slot, tenant_id, name, epoch, state, reason, detached)
			VALUES ($1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $4, $5, $6)
			ON CONFLICT (slot, tenant_id, name) DO UPDATE SET epoch = greatest(s.epoch + 1, excluded.epoch), state = excluded.state, reason = excluded.reason,
				detached = excluded.detached, since = `+sinceSQL+`, updated_at = now()
			RETURNING epoch`, s.Slot, d.tenant, d.name, d.state, d.reason, d.detached).Scan(&epoch)
	})
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return epoch, failpoint.Fail(failpoint.Raised)
}

// walEnd is where the primary's WAL ends now.
func (s *StateStore) walEnd(ctx context.Context) (end int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`).Scan(&end)
	})
	return end, err
}
