package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Noted is what the primary knows of a destination, whether a process runs or not.
type Noted struct {
	Tenant, Name string
	State        State
	Reason       string
	SequenceID   int64 // the external database has at least this; -1 is not known
	At           time.Time
}

// Noted reads what is noted of every destination that has ever run on the slot.
func (s *StateStore) Noted(ctx context.Context) (all []Noted, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT tenant_id, name, state, reason, last_sequence_id, updated_at FROM outflow.destination_state
			WHERE slot = $1 ORDER BY tenant_id, name`, s.Slot)
		if err == nil {
			all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Noted])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return all, nil
}
