package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/internal/fit"
	"outflow/replication/wal"
)

// checkpointID names a checkpoint that the primary has noted. External databases carry the newest mark in the metadata. If the primary no longer
// knows the mark, the primary was restored from a backup, and its ids are given a second time.
type checkpointID struct{ reading, checkpoint int64 }

// String is the form of the mark in the metadata; the zero mark is "".
func (m checkpointID) String() string {
	if m == (checkpointID{}) {
		return ""
	}
	return fmt.Sprintf("%d/%d", m.reading, m.checkpoint)
}

// HasCheckpoint reports whether the primary has noted the checkpoint of a mark; the mark "" counts as noted.
func (s *Store) HasCheckpoint(ctx context.Context, text string) (known bool, err error) {
	if text == "" {
		return true, nil
	}
	var m checkpointID
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

// write notes the flush LSN before the report of the LSN, and the destinations that moved, in one statement. note returns the checkpoint's
// mark, and for each of moved whether the destination is noted: a row of a later epoch stays as it is. With the flush LSN 0 note writes of
// the destinations alone: that is no checkpoint.
func (s *Store) write(ctx context.Context, flush wal.LSN, moved []Note) (text string, noted []bool, err error) {
	tenants, names := make([]string, len(moved)), make([]string, len(moved))
	fingerprints, states := make([]string, len(moved)), make([]string, len(moved))
	reasons, classes := make([]string, len(moved)), make([]string, len(moved))
	epochs, notes, retried := make([]int64, len(moved)), make([]int64, len(moved)), make([]int64, len(moved))
	copied, totals, detached := make([]int64, len(moved)), make([]int64, len(moved)), make([]bool, len(moved))
	mappings := make([]string, len(moved))
	for i, d := range moved {
		tenants[i], names[i], epochs[i], notes[i] = d.Tenant, d.Name, d.Epoch, d.RecordedID
		fingerprints[i], states[i], classes[i] = d.Fingerprint, string(d.State), d.Class
		copied[i], totals[i], detached[i], mappings[i], retried[i] = d.Copied, d.CopyTotal, d.Detached, d.Mappings, d.Retried
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for i, d := range moved {
			reasons[i] = fitted(conn, d.Reason, fit.Reason)
		}
		checkpoint := s.newest.checkpoint
		if flush > 0 {
			checkpoint++
		}
		err := s.fencedBy(conn.QueryRow(ctx, checkpointSQL, s.Slot, s.newest.reading, flush.String(), checkpoint, tenants, names, epochs, notes, fingerprints,
			states, reasons, copied, totals, classes, detached, mappings, retried).Scan(&noted))
		if err == nil {
			s.newest.checkpoint = checkpoint
			text = s.newest.String()
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

// A checkpoint is a single statement over all destinations, and the primary may refuse a statement for the data of one row: a character
// without a form in the encoding, a name too long for the index, a constraint or a trigger that a person has put on Outflow's table. The rows are
// then written in halves until each refused row stands alone. A destination whose row is refused is halted and let go of like a parked
// destination, which makes the slot free of the destination: a raised epoch says that the stream alone does not bring the destination up
// to date. Only then is the flush LSN noted, together with the checkpoint's mark.

// maxRefused is how many refused rows one checkpoint looks for. The next checkpoint goes on with the others.
const maxRefused = 16

// Outcome is the outcome of a checkpoint.
type Outcome struct {
	CheckpointID string        // "": neither the flush LSN nor the checkpoint is noted
	Written      []bool        // by place among the moved: false where a row of a later epoch stays unchanged, and where the row is refused
	Refused      map[int]error // by place: why the primary does not take the row
}

// Checkpoint notes the flush LSN and the destinations that moved: see note. Where the primary refuses rows, all others are noted, without
// the flush LSN and without a mark.
func (s *Store) Checkpoint(ctx context.Context, flush wal.LSN, moved []Note) (done Outcome, err error) {
	done.CheckpointID, done.Written, err = s.write(ctx, flush, moved)
	if !refusesData(err) || len(moved) == 0 {
		return done, err
	}
	done = Outcome{Written: make([]bool, len(moved)), Refused: map[int]error{}}
	return done, s.writeHalves(ctx, moved, 0, &done)
}

// CheckpointFlush notes the flush LSN alone, as a checkpoint of no destination.
func (s *Store) CheckpointFlush(ctx context.Context, flush wal.LSN) (text string, err error) {
	text, _, err = s.write(ctx, flush, nil)
	return text, err
}

// writeHalves notes destinations and leaves out the refused ones. first is the place of the first among all.
func (s *Store) writeHalves(ctx context.Context, rows []Note, first int, done *Outcome) error {
	if len(rows) == 0 {
		return nil
	}
	if len(done.Refused) == maxRefused {
		return fmt.Errorf("writing outflow.destination_state: the primary refuses more than %d rows", maxRefused)
	}
	_, noted, err := s.write(ctx, 0, rows)
	if !refusesData(err) {
		copy(done.Written[first:], noted)
		return err
	}
	if len(rows) == 1 {
		done.Refused[first] = err
		return nil
	}
	half := len(rows) / 2
	if err := s.writeHalves(ctx, rows[:half], first, done); err != nil {
		return err
	}
	return s.writeHalves(ctx, rows[half:], first+half, done)
}
