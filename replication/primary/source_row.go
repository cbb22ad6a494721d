package primary

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/replication/wal"
)

// sourceRow is the slot's row of outflow.source, by the slot's name. The methods that change the row belong to transactions of the caller,
// or are one statement.
type sourceRow struct{ slot string }

func (s sourceRow) load(ctx context.Context, conn *pgx.Conn) (source Source, known bool, err error) {
	var noted, covered string
	err = conn.QueryRow(ctx, `SELECT source_id::text, system_identifier, timeline, sequence_base, coalesce(flush_lsn::text, ''),
			coalesce(to_jsonb(s) ->> 'covered_lsn', '0/0'), resetting
		FROM outflow.source s WHERE slot = $1`, s.slot).
		Scan(&source.ID, &source.SystemID, &source.Timeline, &source.SequenceBase, &noted, &covered, &source.resetting)
	if errors.Is(err, pgx.ErrNoRows) {
		return Source{}, false, nil
	} else if err != nil {
		return Source{}, false, fmt.Errorf("reading outflow.source: %w", err)
	}
	if source.Covered, err = wal.ParseLSN(covered); err == nil && noted != "" {
		source.noted, err = wal.ParseLSN(noted)
	}
	return source, true, err
}

// relied reads the noted facts; known says whether the slot has a source at all.
func (s sourceRow) relied(ctx context.Context, db rowQuerier) (before *facts, known bool, err error) {
	var text []byte
	err = db.QueryRow(ctx, `SELECT relied FROM outflow.source WHERE slot = $1`, s.slot).Scan(&text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, false, nil
	case err == nil && text != nil:
		before = &facts{}
		err = json.Unmarshal(text, before)
	}
	if err != nil {
		return nil, true, fmt.Errorf("reading outflow.source: %w", err)
	}
	return before, true, nil
}

// note writes the facts. Where there is a gap, the destinations concerned are copied again. Where the gap concerns every destination,
// changes from before the copies need not be understood, and the place in the WAL is noted too. reading is the caller's reading of the
// slot, 0 where the caller has none.
func (s sourceRow) note(ctx context.Context, tx pgx.Tx, now facts, since gap, reading int64) error {
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if reading != 0 && len(since.reasons) > 0 {
		if err := s.fence(ctx, tx, reading); err != nil {
			return err
		}
	}
	switch {
	case since.whole:
		if err := raiseAll(ctx, tx, s.slot, since.String()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE outflow.source SET covered_lsn = pg_current_wal_insert_lsn() WHERE slot = $1`, s.slot); err != nil {
			return fmt.Errorf("writing outflow.source: %w", err)
		}
	case len(since.tables) > 0:
		if err := raiseReaders(ctx, tx, s.slot, since.String(), since.apart()); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE outflow.source SET relied = $2::text::jsonb WHERE slot = $1 AND relied IS DISTINCT FROM $2::text::jsonb AND $3::bigint IN (0, reading)`,
		s.slot, string(text), reading); err != nil {
		return fmt.Errorf("writing outflow.source: %w", err)
	}
	return nil
}

// fence locks the slot's row of outflow.source until the end of the transaction, or fails with [ErrFenced] where another reading of the slot
// has begun since the given one.
func (s sourceRow) fence(ctx context.Context, tx pgx.Tx, reading int64) error {
	tag, err := tx.Exec(ctx, `SELECT FROM outflow.source WHERE slot = $1 AND reading = $2 FOR NO KEY UPDATE`, s.slot, reading)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrFenced
	}
	return err
}

// moved handles a slot ahead of the position noted before each confirmation: another process moved the slot, and the
// changes between are lost to the stream. Every destination is copied again.
func (s sourceRow) moved(ctx context.Context, conn *pgx.Conn, confirmed wal.LSN) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := raiseAll(ctx, tx, s.slot, "the slot was moved, and not by outflow"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE outflow.source SET flush_lsn = $2::text::pg_lsn WHERE slot = $1`, s.slot, confirmed.String())
		return err
	})
}

// insertSource notes a new slot, and the facts from before the slot's creation: the next look finds changes made
// meanwhile.
func (s Slot) insertSource(ctx context.Context, conn *pgx.Conn, now facts) (Source, error) {
	source, err := s.Server.identify(ctx)
	if err != nil {
		return source, err
	}
	text, err := json.Marshal(now)
	if err != nil {
		return source, err
	}
	err = conn.QueryRow(ctx, `INSERT INTO outflow.source (slot, system_identifier, timeline, relied) VALUES ($1, $2, $3, $4::text::jsonb)
		RETURNING source_id::text, sequence_base`, s.Name, source.SystemID, source.Timeline, string(text)).
		Scan(&source.ID, &source.SequenceBase)
	if err != nil {
		return source, fmt.Errorf("writing outflow.source: %w", err)
	}
	return source, nil
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
