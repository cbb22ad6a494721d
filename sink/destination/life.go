package destination

import (
	"context"
	"time"

	"outflow/replication/wal"
	"outflow/sink/lifecycle"
)

// aftermath is what an event leaves to do when the destination's lock is free again.
type aftermath struct {
	acts    lifecycle.Actions
	closing *session     // a session that was given up, nil: none
	tickets []wal.Ticket // to release
	replay  bool         // the stream is to be read again
}

func (a aftermath) has(acts lifecycle.Actions) bool { return a.acts.Has(acts) }

// settleUp does what an event has left to do.
func (d *Destination) settleUp(a aftermath) {
	if len(a.tickets) > 0 {
		d.shared.Acks.Release(a.tickets...)
	}
	if a.closing != nil {
		a.closing.close()
	}
	if a.replay {
		d.shared.Reader.Restart()
	}
}

// happensLocked tells the lifecycle of an event, and carries out the actions that the event asks for, but for Record and Wait: see failsLocked and
// waitLocked. The caller settles up the aftermath when the lock is free.
func (d *Destination) happensLocked(e lifecycle.Event) aftermath {
	life, acts := d.life.Next(e)
	d.life = life
	after := aftermath{acts: acts}
	if life.Health != lifecycle.Halted {
		d.failures.halt = nil
	}
	if acts.Has(lifecycle.StopWait) {
		d.retryAt.Stop()
		d.retryAt = nil
	}
	if acts.Has(lifecycle.HangUp) {
		d.stirLocked()
		after.closing, d.session = d.session, nil
	}
	if acts.Has(lifecycle.Rewind) {
		after.replay = d.queue.Rewind()
	}
	if acts.Has(lifecycle.Drop) { // what was dropped is not to be read again
		after.replay, after.tickets = false, d.queue.Drop(d.shared.Router.Arriving())
	}
	if acts.Has(lifecycle.Respecify) {
		d.respecifyLocked()
	}
	if acts.Has(lifecycle.Cancel) {
		d.cancelWork()
	}
	if acts.Has(lifecycle.Start) {
		d.startLocked()
	}
	return after
}

// startLocked starts the worker, and takes the connection back from the idle ones.
func (d *Destination) startLocked() {
	ctx, cancel := context.WithCancel(d.shared.Workers.Ctx)
	d.turnEnded = false
	started := d.shared.Workers.Start(func() {
		defer cancel()
		defer d.recovered()
		d.work(ctx)
	})
	if !started {
		cancel()
		d.happensLocked(lifecycle.Unstarted)
		return
	}
	d.cancelWork = cancel
	d.stirLocked()
}

// stirLocked takes an idle connection back: no timer closes the connection, and no other destination has it closed.
func (d *Destination) stirLocked() {
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
		d.session.Place.Busy()
	}
}

// waitLocked starts the timer of the next try.
func (d *Destination) waitLocked(length time.Duration) {
	var timer *time.Timer
	timer = d.after(length, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.retryAt == timer { // else the wait was ended while the timer ran out
			d.retryAt = nil
			d.happensLocked(lifecycle.PauseOver)
		}
	})
	d.retryAt = timer
}

// runErrand does what the worker was started for, where that is not the work on the queue.
func (d *Destination) runErrand(ctx context.Context) error {
	d.mu.Lock()
	errand := d.errand
	d.errand = nil
	d.mu.Unlock()
	if errand == nil {
		return nil
	}
	return errand(ctx)
}

// sendLocked starts a worker with an errand, by an event that starts a worker where there is none.
func (d *Destination) sendLocked(e lifecycle.Event, errand func(context.Context) error) {
	if d.happensLocked(e).has(lifecycle.Start) && d.life.Work == lifecycle.Working {
		d.errand = errand
	}
}
