package sink

import (
	"context"
	"time"

	"go.uber.org/zap"

	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// switchEvery is how often the switches are looked at.
const switchEvery = 500 * time.Millisecond

// Switches are the switches in effect in this process, as last read.
func (r *Router) Switches() []ledger.Switch { return r.switches.list() }

// loadSwitches reads the switches and puts changes into effect. Changes by any person, from any machine, are logged.
func (r *Router) loadSwitches(ctx context.Context) error {
	all, err := r.Ledger.Switches(ctx)
	if err != nil {
		return err
	}
	before := r.switches.replace(all)
	off, on := flips(before, all)
	r.logSwitches("switched off", off)
	r.logSwitches("switched on", on)
	r.gate.Hold(isOff(all, ledger.SwitchReading))
	r.backfillSlots.Hold(isOff(all, ledger.SwitchBackfills))
	for _, d := range r.Destinations() {
		d.pause(r.switches.pausing(d.Tenant, d.Name))
		if isOff(before, ledger.SwitchReading) != isOff(all, ledger.SwitchReading) {
			d.mu.Lock()
			d.observeLocked()
			d.mu.Unlock()
		}
	}
	return nil
}

func (r *Router) logSwitches(text string, flipped []ledger.Switch) {
	for _, sw := range flipped {
		r.Log.Info(text, zap.String("switch", sw.Kind), zap.String("tenant", sw.Tenant), zap.String("destination", sw.Name),
			zap.String("by", sw.By), zap.String("reason", sw.Reason), zap.Time("at", sw.At))
	}
}

// pause stops the destination's work after the batch in flight, or lets the work go on where sw is nil. The queue fills
// meanwhile: see mustPark.
func (d *Destination) pause(sw *ledger.Switch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.paused
	d.paused = sw
	switch {
	case (was == nil) == (sw == nil):
	case sw != nil:
		d.log.Info("paused", zap.String("by", sw.By), zap.String("reason", sw.Reason))
		d.happensLocked(lifecycle.PausedByPerson)
	default:
		d.log.Info("resumed")
		d.happensLocked(lifecycle.Resumed)
	}
	d.observeLocked()
}
