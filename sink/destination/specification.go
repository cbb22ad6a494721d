package destination

import (
	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/sink/backfill"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// StartAfter has the destination pass over everything up to a transaction.
func (d *Destination) StartAfter(id int64) {
	d.queue.StartAfter(id)
}

// Replace has the worker take another specification, or takes the specification itself while the router has not begun. Work in flight is rolled
// back, and done again with the other specification.
func (d *Destination) Replace(t external.DestinationSpec, begun bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = &t
	if !begun {
		d.respecifyLocked()
		return
	}
	d.reach.doubts++
	d.happensLocked(lifecycle.Replaced)
}

// respecifyLocked takes over the specification left by Replace. The worker calls respecifyLocked without a session.
func (d *Destination) respecifyLocked() {
	if d.next == nil {
		return
	}
	db, err := external.NewDatabase(d.Owner, *d.next, d.shared.Options.Options, d.shared.Schemas, d.log)
	if err != nil {
		d.fault, d.next = external.AsError(err), nil // Put has tried the specification
		d.happensLocked(lifecycle.RespecifiedUnusable)
		return
	}
	db.Answered = d.db.Answered
	d.db, d.reads, d.fault = db, mapping.Reads(db.Mappings), d.next.Fault
	d.next = nil
	d.forgetRemovedLocked()
	d.reach.answers, d.conflicts, d.pace = false, false, backfill.Pace{}
	if d.fault == nil {
		d.happensLocked(lifecycle.Respecified)
	} else {
		d.happensLocked(lifecycle.RespecifiedUnusable)
	}
	d.status.Attempts, d.status.Err = 0, nil // not failing: a stream of new specifications must not hold the slot
	d.failures.backoff.Reset()
	d.log.Info("the destination has another database", zap.Strings("mappings", mapping.Names(d.db.Mappings)))
}

// Leave ends a destination that no caller gives changes to any more.
func (d *Destination) Leave() {
	d.slot.Leave()
	d.mu.Lock()
	after := d.happensLocked(lifecycle.Leaving)
	working := d.life.Work == lifecycle.Working
	d.mu.Unlock()
	if working { // which ends the rest
		return
	}
	d.slot.Leave() // the worker may have taken a backfill slot meanwhile
	d.settleUp(after)
	d.Stop()
	d.log.Info("the destination is no longer in the configuration")
}

// Join begins a destination that comes while the router runs. insert has the stream bring the destination changes: before a worker can read a
// snapshot, since later commits must come through the queue. sw is the switch that pauses the destination; nil: none.
func (d *Destination) Join(noted ledger.Note, sw *ledger.Switch, insert func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	insert()
	if d.paused = sw; sw != nil {
		d.happensLocked(lifecycle.PausedByPerson)
	}
	d.beginLocked(noted)
}

// BeginRemoval keeps other goroutines from writing about the destination to the primary. The result is false where a goroutine does.
func (d *Destination) BeginRemoval() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Noting {
		return false
	}
	d.happensLocked(lifecycle.NotingBegun)
	return true
}
