package sink

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Noted is what the primary knows of a destination, for who looks on from outside the process.
type Noted struct {
	Tenant, Name string
	State        State
	Reason       string
	Copied       int64 // rows of the copy in progress
	CopyTotal    int64 // about how many there will be; -1 unknown
}

// Progress returns what is noted of the destinations that RequestResync with these names means. Attended says whether a process
// reads the slot.
func (s *StateStore) Progress(ctx context.Context, tenant, name string) (all []Noted, attended bool, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, `SELECT coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = $1), false)`,
			s.Slot).Scan(&attended); err != nil {
			return err
		}
		rows, err := conn.Query(ctx, `SELECT tenant_id, name, state, reason, coalesce(copied_rows, 0), coalesce(copy_total, -1)
			FROM outflow.destination_state WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3) AND reason <> $4
			ORDER BY tenant_id, name`, s.Slot, tenant, name, notConfigured)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Noted])
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return all, attended, nil
}
