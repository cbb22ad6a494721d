package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/internal/fit"
	"outflow/replication/wal"
)

// checkpointID is the id of a checkpoint. External databases carry the id of the newest checkpoint in the metadata. If the primary does not
// have the checkpoint any more, the primary was restored from a backup, and gives sequence ids a second time.
type checkpointID struct{ reading, checkpoint int64 }

// String is the form of the id in the metadata; the zero value is "".
func (id checkpointID) String() string {
	if id == (checkpointID{}) {
		return ""
	}
	return fmt.Sprintf("%d/%d", id.reading, id.checkpoint)
}

// HasCheckpoint reports whether the primary has the checkpoint with the id in an external database's metadata, or a later checkpoint of the
// same reading. The primary has the checkpoint "".
func (s *Store) HasCheckpoint(ctx context.Context, text string) (has bool, err error) {
	if text == "" {
		return true, nil
	}
	var id checkpointID
	if _, err := fmt.Sscanf(text, "%d/%d", &id.reading, &id.checkpoint); err != nil {
		return false, fmt.Errorf("%q is not the id of a checkpoint: %w", text, err)
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outflow.reading WHERE slot = $1 AND reading = $2 AND checkpoints >= $3)`,
			s.Slot, id.reading, id.checkpoint).Scan(&has)
	})
	if err != nil {
		return false, fmt.Errorf("reading outflow.reading: %w", err)
	}
	return has, nil
}

// write writes the flush LSN and the notes in one statement. write returns the checkpoint's id, and for each note whether the note is written: a
// note of a later epoch stays as it is. With the flush LSN 0 write makes no checkpoint: the notes alone are written.
func (s *Store) write(ctx context.Context, flush wal.LSN, moved []Note) (id string, written []bool, err error) {
	tenants, names := make([]string, len(moved)), make([]string, len(moved))
	fingerprints, states := make([]string, len(moved)), make([]string, len(moved))
	reasons, classes := make([]string, len(moved)), make([]string, len(moved))
	epochs, ids, retried := make([]int64, len(moved)), make([]int64, len(moved)), make([]int64, len(moved))
	copied, totals, detached := make([]int64, len(moved)), make([]int64, len(moved)), make([]bool, len(moved))
	mappings := make([]string, len(moved))
	for i, d := range moved {
		tenants[i], names[i], epochs[i], ids[i] = d.Tenant, d.Name, d.Epoch, d.RecordedID
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
		err := s.fencedBy(conn.QueryRow(ctx, checkpointSQL, s.Slot, s.newest.reading, flush.String(), checkpoint, tenants, names, epochs, ids, fingerprints,
			states, reasons, copied, totals, classes, detached, mappings, retried).Scan(&written))
		if err == nil {
			s.newest.checkpoint = checkpoint
			id = s.newest.String()
		}
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return id, written, nil
}

// checkpointSQL returns no row where another process reads the slot.
const checkpointSQL = `WITH fence AS (UPDATE outflow.source SET flush_lsn = greatest(flush_lsn, $3::text::pg_lsn) WHERE slot = $1 AND reading = $2 RETURNING 1),
	counted AS (UPDATE outflow.reading SET checkpoints = $4 FROM fence WHERE slot = $1 AND reading = $2),
	moved AS (SELECT * FROM unnest($5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::text[],
			$15::bool[], $16::text[], $17::bigint[])
		WITH ORDINALITY AS m (tenant, name, epoch, id, fingerprint, state, reason, copied, total, class, detached, mappings, retried, n)),
	written AS (INSERT INTO outflow.destination_state AS s (slot, ` + noteColumns + `, error_class, copied_rows, copy_total, detached, mappings, taken_epoch, retried)
		SELECT $1, m.tenant, m.name, m.epoch, m.id, m.fingerprint, m.state, m.reason, nullif(m.class, ''), nullif(m.copied, 0), nullif(m.total, 0), m.detached, m.mappings,
			m.epoch, m.retried
		FROM fence CROSS JOIN moved m
		ON CONFLICT (slot, tenant_id, name) DO UPDATE SET last_sequence_id = greatest(s.last_sequence_id, excluded.last_sequence_id),
			fingerprint = excluded.fingerprint, state = excluded.state, reason = excluded.reason, error_class = excluded.error_class, updated_at = now(),
			copied_rows = excluded.copied_rows, copy_total = excluded.copy_total, detached = excluded.detached, mappings = excluded.mappings,
			taken_epoch = excluded.taken_epoch, retried = excluded.retried, since = ` + sinceSQL + `
		WHERE s.epoch = excluded.epoch RETURNING tenant_id, name)
	SELECT coalesce((SELECT array_agg(w.name IS NOT NULL ORDER BY m.n) FROM moved m LEFT JOIN written w ON w.tenant_id = m.tenant AND w.name = m.name), '{}')
	FROM fence`

// A checkpoint is a single statement over all destinations, and the primary may refuse a statement for the data of one note: a character
// without a form in the encoding, a name too long for the index, a constraint or a trigger that a person has put on the table. The notes are
// then written in halves until each refused note stands alone. The caller parks the destinations of refused notes, so that the slot does
// not wait for the destinations: a raised epoch says that the stream alone does not bring the destination up to date. Only then
// is the flush LSN noted: see CheckpointFlush.

// maxRefused is how many refused notes one checkpoint looks for. The next checkpoint goes on with the others.
const maxRefused = 16

// Outcome is the outcome of a checkpoint.
type Outcome struct {
	CheckpointID string        // "": there is no checkpoint, and the flush LSN is not noted
	Written      []bool        // by index of the notes: false where a note of a later epoch stays unchanged, and where the note is refused
	Refused      map[int]error // by index of the notes: why the primary does not take the note
}

// Checkpoint writes the flush LSN and the notes of the destinations that moved, in one statement. Where the primary refuses notes, all other
// notes are written, without a checkpoint. Checkpoint fails with [primary.ErrFenced] where another process reads the slot.
func (s *Store) Checkpoint(ctx context.Context, flush wal.LSN, moved []Note) (done Outcome, err error) {
	done.CheckpointID, done.Written, err = s.write(ctx, flush, moved)
	if !refusesData(err) || len(moved) == 0 {
		return done, err
	}
	done = Outcome{Written: make([]bool, len(moved)), Refused: map[int]error{}}
	return done, s.writeHalves(ctx, moved, 0, &done)
}

// CheckpointFlush is a checkpoint of the flush LSN alone.
func (s *Store) CheckpointFlush(ctx context.Context, flush wal.LSN) (id string, err error) {
	id, _, err = s.write(ctx, flush, nil)
	return id, err
}

// writeHalves writes notes without the refused notes. first is the index of the first note among all.
func (s *Store) writeHalves(ctx context.Context, notes []Note, first int, done *Outcome) error {
	if len(notes) == 0 {
		return nil
	}
	if len(done.Refused) == maxRefused {
		return fmt.Errorf("writing outflow.destination_state: the primary refuses more than %d notes", maxRefused)
	}
	_, written, err := s.write(ctx, 0, notes)
	if !refusesData(err) {
		copy(done.Written[first:], written)
		return err
	}
	if len(notes) == 1 {
		done.Refused[first] = err
		return nil
	}
	half := len(notes) / 2
	if err := s.writeHalves(ctx, notes[:half], first, done); err != nil {
		return err
	}
	return s.writeHalves(ctx, notes[half:], first+half, done)
}
