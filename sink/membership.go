package sink

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"outflow/replication"
)

// Destinations come, go and change while the router runs. Put and Remove write to the primary what must be known there, so only
// the process that has the slot may call them; before the first Begin they only prepare what Begin then takes over.

// Put adds a destination, or gives one that there is another target. A new one takes changes from the next transaction on and is
// copied from the tables. One with another connection string goes on with its queue: when it connects, it is found whether the
// database there can go on from the stream. Mappings whose fingerprint differs are filled anew.
func (r *Router) Put(ctx context.Context, t Target) error {
	r.membership.Lock()
	defer r.membership.Unlock()
	if d := r.find(t.Tenant, t.Name); d != nil {
		if _, err := t.config(r.Options); err != nil {
			return err
		}
		d.replace(t, r.begun.Load())
		return nil
	}
	if !r.begun.Load() {
		_, err := r.Add(t)
		return err
	}
	noted, err := r.State.find(ctx, t.Tenant, t.Name)
	if err != nil {
		return err
	}
	if noted.epoch != 0 { // the stream went on without it
		noted.state, noted.reason = Backfilling, "it is in the configuration again"
		if noted.epoch, err = r.State.raise(ctx, noted); err != nil {
			return err
		}
	}
	d, err := newDestination(r, t)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r.insert(d) // before a worker can read a snapshot: what is committed after that must come through the queue
	d.adopt(noted)
	if d.paused = r.pausedBy(d); d.paused != nil {
		d.pausedAt = time.Now()
		d.observe()
	}
	d.wake()
	d.log.Info("the destination is new in the configuration", zap.Strings("mappings", mappingNames(t.Mappings)))
	return nil
}

// Remove lets the stream go on without a destination for good. That is written to the primary first, as when it is parked; then
// its queue is dropped and its transactions are acknowledged. Its database is left as it is. It does not wait for the worker.
func (r *Router) Remove(ctx context.Context, tenant, name string) error {
	r.membership.Lock()
	defer r.membership.Unlock()
	d := r.find(tenant, name)
	if d == nil {
		return nil
	}
	if r.begun.Load() {
		d.mu.Lock()
		if d.parking {
			d.mu.Unlock()
			return fmt.Errorf("destination %s is being parked", d)
		}
		d.parking = true // nobody else writes of it meanwhile
		d.mu.Unlock()
		if _, err := r.State.raise(ctx, destinationState{tenant: tenant, name: name, state: Parked, reason: replication.NotConfigured}); err != nil {
			d.mu.Lock()
			d.parking = false
			d.mu.Unlock()
			return err
		}
	}
	r.drop(d)
	d.leave()
	return nil
}

// Begun reports whether this process has had the slot: what comes and goes since is written to the primary.
func (r *Router) Begun() bool { return r.begun.Load() }

func (r *Router) find(tenant, name string) *Destination {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, d := range r.tenants[tenant] {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// insert makes the destination known. The transaction whose parts are coming passes it by: it would get the rest of it only.
func (r *Router) insert(d *Destination) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.accepted = position{id: r.open, complete: true}
	d.holding = r.open
	r.tenants[d.Tenant] = append(r.tenants[d.Tenant], d)
	r.destinations = append(r.destinations, d)
}

// drop makes the destination unknown. Others may still hold the lists as they were.
func (r *Router) drop(d *Destination) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants[d.Tenant] = without(r.tenants[d.Tenant], d); len(r.tenants[d.Tenant]) == 0 {
		delete(r.tenants, d.Tenant)
	}
	r.destinations = without(r.destinations, d)
}

func without(list []*Destination, d *Destination) []*Destination {
	rest := make([]*Destination, 0, len(list))
	for _, o := range list {
		if o != d {
			rest = append(rest, o)
		}
	}
	return rest
}

// replace has the worker take another target, or takes it itself while nothing has begun. Work in flight is rolled back, and done
// again there.
func (d *Destination) replace(t Target, begun bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = &t
	if !begun {
		d.retarget()
		return
	}
	d.fresh, d.due = true, true
	if d.working {
		d.again = true
		d.cancelWork()
		return
	}
	if d.retryAt != nil && d.retryAt.Stop() {
		d.retryAt = nil
	}
	d.wake()
}

// retarget takes over the target that replace has left. It is called by the worker, without a session and with mu held.
func (d *Destination) retarget() {
	if d.next == nil {
		return
	}
	config, err := d.next.config(d.router.Options)
	if err != nil {
		panic(err) // Put has tried it
	}
	d.config, d.mappings, d.reads, d.fault = config, d.next.Mappings, tablesOf(d.next.Mappings), d.next.Fault
	d.next = nil
	d.forsake()
	d.caughtUp, d.unnamed, d.conflicts, d.chunkRows = false, false, false, 0 // what is there shows when it is connected
	d.unhalt()
	d.status.Attempts, d.status.Err = 0, nil // not failing: who gives it another target all the time must not hold the slot
	d.backoff.Reset()
	d.log.Info("the destination has another target", zap.Strings("mappings", mappingNames(d.mappings)))
}

// leave ends a destination that nobody gives changes to any more.
func (d *Destination) leave() {
	d.router.places.leave(d)
	d.mu.Lock()
	d.gone = true
	if d.working { // the queue is its worker's, which drops it in failed
		d.cancelWork()
		d.mu.Unlock()
		return
	}
	tickets := d.drop()
	d.mu.Unlock()
	d.router.places.leave(d) // its worker may have taken one meanwhile
	d.router.Acks.Release(tickets...)
	d.router.connections.busy(d) // or it would be asked to give up what it no longer has
	d.stop()
	d.log.Info("the destination is no longer in the configuration")
}
