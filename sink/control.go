package sink

import (
	"context"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/sink/destination"
	"outflow/sink/ledger"
)

// switchEvery is how often the switches are looked at.
const switchEvery = 500 * time.Millisecond

// Switches are the switches in effect in this process, as last read.
func (r *Router) Switches() []ledger.Switch { return r.switches.list() }

// loadSwitches reads the switches and puts changes into effect. Changes by any person, from any machine, are logged.
func (r *Router) loadSwitches(ctx context.Context) error {
	all, err := r.config.Ledger.Switches(ctx)
	if err != nil {
		return err
	}
	before := r.switches.replace(all)
	off, on := flips(before, all)
	r.logSwitches("switched off", off)
	r.logSwitches("switched on", on)
	r.shared.Gate.Hold(isOff(all, ledger.SwitchReading))
	r.shared.BackfillSlots.Hold(isOff(all, ledger.SwitchBackfills))
	for _, d := range r.Destinations() {
		d.Pause(r.switches.pausing(d.Tenant, d.Name))
		if isOff(before, ledger.SwitchReading) != isOff(all, ledger.SwitchReading) {
			d.Observe()
		}
	}
	return nil
}

func (r *Router) logSwitches(text string, flipped []ledger.Switch) {
	for _, sw := range flipped {
		r.config.Log.Info(text, zap.String("switch", sw.Kind), zap.String("tenant", sw.Tenant), zap.String("destination", sw.Name),
			zap.String("by", sw.By), zap.String("reason", sw.Reason), zap.Time("at", sw.At))
	}
}

// takeRequests carries out the requests on the primary.
func (r *Router) takeRequests(ctx context.Context) error {
	requests, err := r.config.Ledger.Requests(ctx)
	if err != nil || len(requests) == 0 {
		return err
	}
	failpoint.Hit(failpoint.RequestTaken)
	all := map[[2]string]*destination.Destination{}
	for _, d := range r.Destinations() {
		all[[2]string{d.Tenant, d.Name}] = d
	}
	var reached []ledger.Request
	for _, q := range requests {
		d := all[[2]string{q.Note.Tenant, q.Note.Name}]
		if d == nil {
			continue
		}
		d.CarryOut(q)
		if q.Until >= 0 && d.HasAll(q.Until) {
			reached = append(reached, q)
		}
	}
	if len(reached) == 0 {
		return nil
	}
	return r.config.Ledger.AnswerSync(ctx, reached)
}
