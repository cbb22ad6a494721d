package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// resetCommand heals a slot whose stream cannot be proved continuous.
const resetCommand = "outflow run --slot-reset"

// baseMargin is left between the ids of two histories whose places in the WAL cannot be compared, for ids given after
// the last surviving note: a tebibyte of WAL.
const baseMargin = 1 << 40

// idReach is how far above the primary's own notes an external database's id counts: 64 tebibytes of WAL, far more than lies between a
// backup and the moment of its restore. A database belongs to a tenant, who can write any number there. A number beyond the reach was not
// given by this installation, moves nothing, and is put right when its database is copied: see the sink's fillMapping. A number within the
// reach raises the base, and costs the others nothing but numbers: there is room for a hundred thousand such resets.
const idReach = 1 << 46

// A sequence base and a place in the WAL are both bounded, so that their sum is an int64 whatever an external database or a note says.
const (
	maxBase = 1 << 62
	maxLSN  = 1<<62 - 1 // 4 exbibytes of WAL; a server that writes a gigabyte a second comes there after 146 years
)

// Healthy reports whether the slot exists, fits, and goes on where it was left: a reset of such a slot would be a resync for nothing.
func (s Setup) Healthy(ctx context.Context, conn *pgx.Conn) (bool, error) {
	_, found, err := s.findSlot(ctx, conn)
	if problem := (*Problem)(nil); errors.As(err, &problem) {
		return false, nil
	} else if err != nil || !found {
		return false, err
	}
	source, known, err := s.loadSource(ctx, conn)
	if err != nil || !known || source.resetting {
		return false, err
	}
	now, err := identify(ctx, s.Primary)
	return err == nil && now.SystemID == source.SystemID && now.Timeline == source.Timeline, err
}

// Reset drops the slot, creates the slot again, settles the sequence base so ids never go back, and raises every
// destination's epoch: all destinations are copied again. ids are the highest ids of the external databases, as far as known: see idReach.
// Reset may be killed at any step and run again: outflow.source tells of a reset begun earlier.
func (s Setup) Reset(ctx context.Context, conn *pgx.Conn, ids []int64) error {
	now, err := identify(ctx, s.Primary)
	if err != nil {
		return err
	}
	var active bool
	err = conn.QueryRow(ctx, `SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1`, s.Slot).Scan(&active)
	if err != nil {
		return fmt.Errorf("looking for replication slot %q: %w", s.Slot, err)
	}
	if active {
		return s.inUse(nil)
	}
	if err := s.beginReset(ctx, conn, now); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ResetBegun); err != nil {
		return err
	}
	// Before the slot: the slot decodes commits after its creation, our own notes first, and fails where there was no publication then.
	if _, err := s.ensureRelied(ctx, conn); err != nil {
		return err
	}
	if err := s.dropSlot(ctx, conn); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ResetSlotDropped); err != nil {
		return err
	}
	at, err := s.createSlot(ctx, conn)
	if err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ResetSlotCreated); err != nil {
		return err
	}
	if err := s.endReset(ctx, conn, now, at, ids); err != nil {
		return err
	}
	return failpoint.Fail(failpoint.ResetEnded)
}

// beginReset also fences a frozen process that read the slot before: see [ErrFenced].
func (s Setup) beginReset(ctx context.Context, conn *pgx.Conn, now Source) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO outflow.source (slot, system_identifier, timeline, resetting) VALUES ($1, $2, $3, true)
			ON CONFLICT (slot) DO UPDATE SET resetting = true, reading = outflow.source.reading + 1`, s.Slot, now.SystemID, now.Timeline)
		if err != nil {
			return fmt.Errorf("writing outflow.source: %w", err)
		}
		return raiseAll(ctx, tx, s.Slot, "the slot was reset")
	})
}

// execer is a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// raiseAll has every destination copied again: by the running process, or by the next process.
func raiseAll(ctx context.Context, db execer, slot, reason string) error {
	return raise(ctx, db, slot, reason, "true")
}

// raiseReaders is raiseAll for the destinations with mappings other than apart, each a name and fingerprint as in
// outflow.destination_state. A destination without a noted mapping is included.
func raiseReaders(ctx context.Context, db execer, slot, reason string, apart []string) error {
	return raise(ctx, db, slot, reason, `(fingerprint = '' OR NOT string_to_array(fingerprint, ' ') <@ coalesce($4::text[], '{}'))`, apart)
}

func raise(ctx context.Context, db execer, slot, reason, which string, args ...any) error {
	// An epoch is a time: a primary restored from a backup must not give an epoch of an external database a second time.
	_, err := db.Exec(ctx, `UPDATE outflow.destination_state SET epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
		state = 'backfilling', reason = $2, resync_at = clock_timestamp(), asked_by = '', asked_why = '', updated_at = now() WHERE slot = $1 AND reason <> $3 AND `+which,
		append([]any{slot, reason, NotConfigured}, args...)...)
	if err != nil {
		return fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return nil
}

func (s Setup) inUse(err error) *Problem {
	return &Problem{What: fmt.Sprintf("replication slot %q is in use, so it cannot be reset", s.Slot),
		Remedy: "stop the other outflow process first", Err: err}
}

func (s Setup) dropSlot(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, s.Slot)
	if isSlotInUse(err) {
		return s.inUse(err)
	} else if err != nil {
		return fmt.Errorf("dropping replication slot %q: %w", s.Slot, err)
	}
	return nil
}

// endReset settles the base. On the same history the new slot is ahead of every id by itself. Notes beyond all ids that can have been given
// are forgotten: every destination is copied again.
func (s Setup) endReset(ctx context.Context, conn *pgx.Conn, now Source, at wal.LSN, ids []int64) error {
	source, _, err := s.loadSource(ctx, conn)
	if err != nil {
		return err
	}
	if !source.baseFits() {
		source.SequenceBase = 0
	}
	limit := max(source.SequenceID(source.noted), source.SequenceID(at)) + idReach
	_, err = conn.Exec(ctx, `UPDATE outflow.destination_state SET last_sequence_id = -1 WHERE slot = $1 AND last_sequence_id > $2`, s.Slot, limit)
	if err != nil {
		return fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	var noted int64
	err = conn.QueryRow(ctx, `SELECT coalesce(max(last_sequence_id), -1) FROM outflow.destination_state WHERE slot = $1`, s.Slot).Scan(&noted)
	if err != nil {
		return fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	highest := noted
	if source.noted != 0 {
		highest = max(highest, source.SequenceID(source.noted))
	}
	for _, id := range ids {
		if id <= limit {
			highest = max(highest, id)
		}
	}
	base := settleBase(source, now, at, highest)
	if next := (Source{SequenceBase: base}); !next.baseFits() {
		return fmt.Errorf("the sequence base %d leaves no room for ids", base)
	}
	_, err = conn.Exec(ctx, `UPDATE outflow.source SET system_identifier = $2, timeline = $3, sequence_base = $4, flush_lsn = $5::text::pg_lsn,
		resetting = false WHERE slot = $1`, s.Slot, now.SystemID, now.Timeline, base, at.String())
	if err != nil {
		return fmt.Errorf("writing outflow.source: %w", err)
	}
	return nil
}

// settleBase finds the sequence base for a slot starting at the LSN at, so ids never go back. On the history of the given ids, where the
// WAL went on, the base stays. On another history, or where the WAL went back (a restored backup), the base is put beyond the highest id
// known, with a margin for ids without a note.
func settleBase(source, now Source, at wal.LSN, highest int64) int64 {
	same := source.SystemID == now.SystemID && source.Timeline == now.Timeline
	if same && source.SequenceID(at) > highest {
		return source.SequenceBase
	}
	if highest < 0 {
		return source.SequenceBase // no id was ever given
	}
	return highest + baseMargin - int64(min(at, maxLSN))
}

// closeGap handles a slot ahead of the position noted before each confirmation: another process moved the slot, and the
// changes between are lost to the stream. Every destination is copied again.
func (s Setup) closeGap(ctx context.Context, conn *pgx.Conn, confirmed wal.LSN) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := raiseAll(ctx, tx, s.Slot, "somebody moved the slot"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE outflow.source SET flush_lsn = $2::text::pg_lsn WHERE slot = $1`, s.Slot, confirmed.String())
		return err
	})
}
