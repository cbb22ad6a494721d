package primary

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// ResetCommand heals a slot whose stream cannot be proved continuous.
const ResetCommand = "outflow run --slot-reset"

// baseMargin is left between the ids of two histories whose places in the WAL cannot be compared, for ids given after
// the last surviving note: a tebibyte of WAL.
const baseMargin = 1 << 40

// idReach is how far above the primary's own notes an external database's id counts: 64 tebibytes of WAL, far more than lies between a
// backup and the moment of its restore. A database belongs to a tenant, who can write any number there. A number beyond the reach was not
// given by this installation, moves nothing, and is put right when its database is copied: see fillMapping in package external. A number within the
// reach raises the base, and costs the others nothing but numbers: there is room for a hundred thousand such resets.
const idReach = 1 << 46

// A sequence base and a place in the WAL are both bounded, so that their sum is an int64 whatever an external database or a note says.
const (
	maxBase = 1 << 62
	maxLSN  = 1<<62 - 1 // 4 exbibytes of WAL; a server that writes a gigabyte a second comes there after 146 years
)

// Reset drops the slot, creates the slot again, settles the sequence base so ids never go back, and raises every
// destination's epoch: all destinations are copied again. ids are the highest ids of the external databases, as far as known: see idReach.
// Reset may be killed at any step and run again: outflow.source tells of a reset begun earlier.
func (s Setup) Reset(ctx context.Context, conn *pgx.Conn, ids []int64) error {
	now, err := s.Slot.Server.identify(ctx)
	if err != nil {
		return err
	}
	active, err := s.Slot.active(ctx, conn)
	if err != nil {
		return err
	}
	if active {
		return s.Slot.inUse(nil)
	}
	if err := s.beginReset(ctx, conn, now); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ResetBegun); err != nil {
		return err
	}
	// Before the slot: the slot decodes commits after its creation, Outflow's own notes first, and fails where there was no publication then.
	if _, err := s.ensureRelied(ctx, conn); err != nil {
		return err
	}
	if err := s.Slot.drop(ctx, conn); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ResetSlotDropped); err != nil {
		return err
	}
	at, err := s.Slot.create(ctx, conn)
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
			ON CONFLICT (slot) DO UPDATE SET resetting = true, reading = outflow.source.reading + 1`, s.Slot.Name, now.SystemID, now.Timeline)
		if err != nil {
			return fmt.Errorf("writing outflow.source: %w", err)
		}
		return raiseAll(ctx, tx, s.Slot.Name, "the slot was reset")
	})
}

// endReset settles the base. On the same history the new slot is ahead of every id by itself. Notes beyond all ids that can have been given
// are forgotten: every destination is copied again.
func (s Setup) endReset(ctx context.Context, conn *pgx.Conn, now Source, at wal.LSN, ids []int64) error {
	source, _, err := s.Slot.source().load(ctx, conn)
	if err != nil {
		return err
	}
	if !source.baseFits() {
		source.SequenceBase = 0
	}
	limit := max(source.SequenceID(source.noted), source.SequenceID(at)) + idReach
	_, err = conn.Exec(ctx, `UPDATE outflow.destination_state SET last_sequence_id = -1 WHERE slot = $1 AND last_sequence_id > $2`, s.Slot.Name, limit)
	if err != nil {
		return fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	var noted int64
	err = conn.QueryRow(ctx, `SELECT coalesce(max(last_sequence_id), -1) FROM outflow.destination_state WHERE slot = $1`, s.Slot.Name).Scan(&noted)
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
		resetting = false WHERE slot = $1`, s.Slot.Name, now.SystemID, now.Timeline, base, at.String())
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
