package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

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

// switchEvery is how often the switches are looked at.
const switchEvery = 500 * time.Millisecond

// Switches reads all switches ever set, on and off.
func (s *StateStore) Switches(ctx context.Context) (all []Switch, err error) {
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
func (s *StateStore) SetSwitch(ctx context.Context, sw Switch) error {
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

// Switches are the switches in effect in this process, as last read.
func (r *Router) Switches() []Switch { return r.switches.list() }

// loadSwitches reads the switches and puts changes into effect. Changes by any person, from any machine, are logged.
func (r *Router) loadSwitches(ctx context.Context) error {
	all, err := r.State.Switches(ctx)
	if err != nil {
		return err
	}
	before := r.switches.replace(all)
	off, on := flips(before, all)
	r.logSwitches("switched off", off)
	r.logSwitches("switched on", on)
	r.gate.hold(isOff(all, SwitchReading))
	r.places.hold(isOff(all, SwitchBackfills))
	for _, d := range r.Destinations() {
		d.pause(r.switches.pausing(d.Tenant, d.Name))
		if isOff(before, SwitchReading) != isOff(all, SwitchReading) {
			d.mu.Lock()
			d.observe()
			d.mu.Unlock()
		}
	}
	return nil
}

func (r *Router) logSwitches(text string, flipped []Switch) {
	for _, sw := range flipped {
		r.Log.Info(text, zap.String("switch", sw.Kind), zap.String("tenant", sw.Tenant), zap.String("destination", sw.Name),
			zap.String("by", sw.By), zap.String("reason", sw.Reason), zap.Time("at", sw.At))
	}
}

// pause stops the destination's work after the batch in flight, or lets the work go on where sw is nil. The queue fills
// meanwhile: see mustPark.
func (d *Destination) pause(sw *Switch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.paused
	d.paused = sw
	switch {
	case (was == nil) == (sw == nil):
	case sw != nil:
		d.log.Info("paused", zap.String("by", sw.By), zap.String("reason", sw.Reason))
		if !d.working && d.retryAt == nil {
			d.startWork() // to rest: without a connection, and without a place among the backfills
		}
	default:
		d.log.Info("resumed")
		d.due = true
		d.wake()
	}
	d.observe()
}

// why tells people which person paused a destination and for which reason.
func (sw *Switch) why() string {
	text := "by " + sw.By
	if sw.Kind != SwitchDestination {
		text = sw.Kind + " was switched off by " + sw.By
	}
	if sw.Reason != "" {
		text += ": " + sw.Reason
	}
	return fit.Text(text, fit.Reason) // a person may have written the row
}
