package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Note is a row of the table.
type Note struct {
	Tenant, Name string
	Epoch        int64
	RecordedID   int64 // the external database is at or above note
	Fingerprint  string
	State        State
	Reason       string
	Class        string    // of the last error, for the tenant: see [sink.Error.Class]
	Detached     bool      // the stream goes on without the destination
	Copied       int64     // rows of the backfill in progress, or else of the last backfill
	CopyTotal    int64     // about how many there will be, 0 where none is in progress or the number is unknown
	Since        time.Time // of the state, on the primary's clock; only in a read row
	Mappings     string    // JSON of how far each is; "" is not known
	TakenEpoch   int64     // the epoch that the reading process works with
	Retried      int64     // how many of the requests for a try are carried out
}

// finiteSince is the time of a state, or 1970 where a person wrote infinity, which no program can read.
const finiteSince = `CASE WHEN isfinite(since) THEN since ELSE 'epoch' END`

const (
	stateColumns = `tenant_id, name, epoch, last_sequence_id, fingerprint, state, reason`
	readColumns  = stateColumns + `, coalesce(error_class, ''), detached, coalesce(copied_rows, 0), ` + finiteSince + `, mappings, taken_epoch, retried`
)

func scanStates(rows pgx.Rows) ([]Note, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Note, error) {
		var d Note
		err := row.Scan(d.columns()...)
		return d, err
	})
}

// columns are where readColumns go.
func (d *Note) columns() []any {
	return []any{&d.Tenant, &d.Name, &d.Epoch, &d.RecordedID, &d.Fingerprint, &d.State, &d.Reason, &d.Class, &d.Detached, &d.Copied, &d.Since, &d.Mappings, &d.TakenEpoch, &d.Retried}
}

// Notes reads all notes.
func (s *Store) Notes(ctx context.Context) (states []Note, err error) {
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

// Note reads the note of one destination; the zero epoch means no note.
func (s *Store) Note(ctx context.Context, tenant, name string) (Note, error) {
	found := Note{Tenant: tenant, Name: name}
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

// sinceSQL keeps the time of an unchanged state.
const sinceSQL = `CASE WHEN s.state = excluded.state THEN s.since ELSE now() END`
