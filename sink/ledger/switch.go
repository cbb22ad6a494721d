package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/fit"
)

// The kinds of switch.
const (
	SwitchReading     = "reading"     // of the slot: the primary keeps its WAL meanwhile
	SwitchApplying    = "applying"    // in all external databases: as if each were paused
	SwitchBackfills   = "backfills"   // copying rows: copies in progress stay where they are
	SwitchDestination = "destination" // one destination: it is paused
)

// Switch is something that a person may switch off. Switches are kept in outflow.switch on the primary, so switches outlive the
// process, and may be set while no process runs.
type Switch struct {
	Kind         string
	Tenant, Name string // of the destination, for SwitchDestination; else ""
	Off          bool
	By, Reason   string    // the person, and the reason
	At           time.Time // since when, on the primary's clock
}

// Switches reads all switches ever set, on and off.
func (s *Store) Switches(ctx context.Context) (all []Switch, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT kind, tenant_id, name, off, set_by, reason, set_at FROM outflow.switch WHERE slot = $1
			ORDER BY kind, tenant_id, name`, s.Slot)
		if err == nil {
			all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Switch])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading outflow.switch: %w", err)
	}
	return all, nil
}

// SetSwitch switches something off or on. Every process on the slot notices within a second. The primary sets At; By and Reason
// may be any text.
func (s *Store) SetSwitch(ctx context.Context, sw Switch) error {
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `INSERT INTO outflow.switch (slot, kind, tenant_id, name, off, set_by, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (slot, kind, tenant_id, name) DO UPDATE SET off = excluded.off, set_by = excluded.set_by, reason = excluded.reason,
				set_at = clock_timestamp()`, s.Slot, sw.Kind, sw.Tenant, sw.Name, sw.Off, fitted(conn, sw.By, fit.Name), fitted(conn, sw.Reason, fit.Reason))
		return err
	})
	if err != nil {
		return fmt.Errorf("writing outflow.switch: %w", err)
	}
	return nil
}

// Why tells people which person paused a destination and for which reason.
func (sw *Switch) Why() string {
	text := "by " + sw.By
	if sw.Kind != SwitchDestination {
		text = sw.Kind + " was switched off by " + sw.By
	}
	if sw.Reason != "" {
		text += ": " + sw.Reason
	}
	return fit.Text(text, fit.Reason) // a person may have written the row
}
