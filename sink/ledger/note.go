package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Note is what the primary knows of a destination for the process that reads the slot. Notes can be compared with ==.
type Note struct {
	Tenant, Name string
	Epoch        int64  // 0: there is no note
	RecordedID   int64  // the external database has at least this sequence id; -1 is not known
	Fingerprint  string // of the mappings; "" is not known
	State        State
	Reason       string
	Class        string    // of the last error, for the tenant: see [external.Error.Class]
	Detached     bool      // the stream goes on without the destination
	Copied       int64     // rows of the backfill in progress, or else of the last backfill
	CopyTotal    int64     // about how many there will be, 0 where none is in progress or the number is unknown
	Since        time.Time // of the state, on the primary's clock; only in a read row
	Mappings     string    // see FormatProgress
	TakenEpoch   int64     // the epoch that the reading process works with
	Retried      int64     // how many of the requests for a try are carried out
}

// finiteSince is the time of a state, or 1970 where a person wrote infinity, which no program can read.
const finiteSince = `CASE WHEN isfinite(since) THEN since ELSE 'epoch' END`

const (
	noteColumns = `tenant_id, name, epoch, last_sequence_id, fingerprint, state, reason`
	readColumns = noteColumns + `, coalesce(error_class, ''), detached, coalesce(copied_rows, 0), ` + finiteSince + `, mappings, taken_epoch, retried`
)

func scanNotes(rows pgx.Rows) ([]Note, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Note, error) {
		var n Note
		err := row.Scan(n.columns()...)
		return n, err
	})
}

// columns are the places for readColumns.
func (n *Note) columns() []any {
	return []any{&n.Tenant, &n.Name, &n.Epoch, &n.RecordedID, &n.Fingerprint, &n.State, &n.Reason, &n.Class, &n.Detached, &n.Copied, &n.Since, &n.Mappings, &n.TakenEpoch, &n.Retried}
}

// Notes reads the notes of all destinations that have ever run on the slot.
func (s *Store) Notes(ctx context.Context) (notes []Note, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT `+readColumns+` FROM outflow.destination_state WHERE slot = $1`, s.Slot)
		if err != nil {
			return err
		}
		notes, err = scanNotes(rows)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return notes, nil
}

// Note reads the note of one destination; the zero epoch means no note.
func (s *Store) Note(ctx context.Context, tenant, name string) (Note, error) {
	found := Note{Tenant: tenant, Name: name}
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT `+readColumns+` FROM outflow.destination_state WHERE slot = $1 AND tenant_id = $2 AND name = $3`, s.Slot, tenant, name)
		if err != nil {
			return err
		}
		notes, err := scanNotes(rows)
		if len(notes) > 0 {
			found = notes[0]
		}
		return err
	})
	if err != nil {
		return found, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return found, nil
}

// sinceSQL keeps the time of an unchanged state.
const sinceSQL = `CASE WHEN s.state = excluded.state THEN s.since ELSE now() END`
