package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

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

// sinceSQL keeps the time of an unchanged state.
const sinceSQL = `CASE WHEN s.state = excluded.state THEN s.since ELSE now() END`
