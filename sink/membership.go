package sink

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// Destinations come, go and change while the router runs. Put and Remove write to the primary the facts that must be known there,
// so only the process with the slot may call either; before the first Begin both only prepare the destinations that Begin then
// takes over.

// membership lets one destination at a time come, go or change.
type membership struct {
	mu      sync.Mutex
	begun   atomic.Bool // Begin was called: a destination that comes or goes now must be noted on the primary
	begunAt wal.LSN     // where the primary's WAL ended when the reading began; guarded by mu
}

// Put adds a destination, or gives an existing destination another specification. A new destination takes changes from the next
// transaction on and is copied from the tables. A destination with another connection string goes on with its queue: on
// connecting, the worker finds whether the database there can go on from the stream. Mappings with another fingerprint are filled
// again from the start.
func (r *Router) Put(ctx context.Context, t external.DestinationSpec) error {
	r.membership.mu.Lock()
	defer r.membership.mu.Unlock()
	if d := r.tenants.find(t.Tenant, t.Name); d != nil {
		if _, err := t.Config(r.Options.Options); err != nil {
			return err
		}
		d.replace(t, r.membership.begun.Load())
		return nil
	}
	if !r.membership.begun.Load() {
		_, err := r.Add(t)
		return err
	}
	noted, err := r.Ledger.Note(ctx, t.Tenant, t.Name)
	if err != nil {
		return err
	}
	if noted.Epoch != 0 { // the stream went on without the destination
		noted.State, noted.Reason = ledger.Backfilling, "the destination is in the configuration again"
		if noted.Epoch, err = r.Ledger.RaiseEpoch(ctx, noted); err != nil {
			return err
		}
	}
	d, err := newDestination(r, t)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r.tenants.insert(d) // before a worker can read a snapshot: later commits must come through the queue
	if d.paused = r.switches.pausing(t.Tenant, t.Name); d.paused != nil {
		d.happensLocked(lifecycle.PausedByPerson)
	}
	d.beginLocked(noted)
	d.log.Info("the destination is new in the configuration", zap.Strings("mappings", mapping.Names(t.Mappings)))
	return nil
}

// Remove lets the stream go on without a destination for good. The removal is written to the primary first, like a parking; then
// the queue is dropped and its transactions are acknowledged. The external database is left as is. Remove does not wait for the
// worker.
func (r *Router) Remove(ctx context.Context, tenant, name string) error {
	r.membership.mu.Lock()
	defer r.membership.mu.Unlock()
	d := r.tenants.find(tenant, name)
	if d == nil {
		return nil
	}
	if r.membership.begun.Load() {
		d.mu.Lock()
		if d.life.Noting {
			d.mu.Unlock()
			return fmt.Errorf("destination %s is being parked", d)
		}
		d.happensLocked(lifecycle.NotingBegun) // no other goroutine writes about the destination meanwhile
		d.mu.Unlock()
		if _, err := r.Ledger.RaiseEpoch(ctx, ledger.Note{Tenant: tenant, Name: name, State: ledger.Parked, Reason: primary.NotConfigured}); err != nil {
			d.mu.Lock()
			d.happensLocked(lifecycle.NotingFailed)
			d.mu.Unlock()
			return err
		}
	}
	r.tenants.remove(d)
	d.leave()
	return nil
}

// Begun reports whether this process has had the slot: from then on added and removed destinations are written to the primary.
func (r *Router) Begun() bool { return r.membership.begun.Load() }

// startAfter has the destination pass over everything up to a transaction.
func (d *Destination) startAfter(id int64) {
	d.queue.StartAfter(id)
}

// replace has the worker take another specification, or takes the specification itself while nothing has begun. Work in flight is rolled back,
// and done again there.
func (d *Destination) replace(t external.DestinationSpec, begun bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = &t
	if !begun {
		d.retargetLocked()
		return
	}
	d.reach.doubts++
	d.happensLocked(lifecycle.Replaced)
}

// retargetLocked takes over the specification left by replace. The worker calls retargetLocked without a session.
func (d *Destination) retargetLocked() {
	if d.next == nil {
		return
	}
	db, err := external.NewDatabase(d.Owner, *d.next, d.router.Options.Options, d.router.schemas, d.log)
	if err != nil {
		d.fault, d.next = external.AsError(err), nil // Put has tried the specification
		d.happensLocked(lifecycle.RetargetedUnusable)
		return
	}
	db.Answered = d.db.Answered
	d.db, d.mappings, d.reads, d.fault = db, d.next.Mappings, mapping.Reads(d.next.Mappings), d.next.Fault
	d.next = nil
	d.forgetRemovedLocked()
	d.reach.answers, d.conflicts, d.pace = false, false, backfill.Pace{}
	if d.fault == nil {
		d.happensLocked(lifecycle.Retargeted)
	} else {
		d.happensLocked(lifecycle.RetargetedUnusable)
	}
	d.status.Attempts, d.status.Err = 0, nil // not failing: a stream of new targets must not hold the slot
	d.failures.backoff.reset()
	d.log.Info("the destination has another database", zap.Strings("mappings", mapping.Names(d.mappings)))
}

// leave ends a destination that no caller gives changes to any more.
func (d *Destination) leave() {
	d.slot.Leave()
	d.mu.Lock()
	after := d.happensLocked(lifecycle.Leaving)
	working := d.life.Work == lifecycle.Working
	d.mu.Unlock()
	if working { // which ends the rest
		return
	}
	d.slot.Leave() // the worker may have taken a place meanwhile
	d.settleUp(after)
	d.stop()
	d.log.Info("the destination is no longer in the configuration")
}
