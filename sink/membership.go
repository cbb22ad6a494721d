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
	"outflow/sink/destination"
	"outflow/sink/external"
	"outflow/sink/ledger"
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
		if _, err := t.Config(r.shared.Options.Options); err != nil {
			return err
		}
		d.Replace(t, r.membership.begun.Load())
		return nil
	}
	if !r.membership.begun.Load() {
		_, err := r.Add(t)
		return err
	}
	noted, err := r.config.Ledger.Note(ctx, t.Tenant, t.Name)
	if err != nil {
		return err
	}
	if noted.Epoch != 0 { // the stream went on without the destination
		noted.State, noted.Reason = ledger.Backfilling, "the destination is in the configuration again"
		if noted.Epoch, err = r.config.Ledger.RaiseEpoch(ctx, noted); err != nil {
			return err
		}
	}
	d, err := destination.New(r.shared, t)
	if err != nil {
		return err
	}
	d.Join(noted, r.switches.pausing(t.Tenant, t.Name), func() { r.tenants.insert(d) })
	r.config.Log.Info("the destination is new in the configuration", zap.String("tenant", t.Tenant), zap.String("destination", t.Name), zap.Strings("mappings", mapping.Names(t.Mappings)))
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
		if !d.BeginRemoval() {
			return fmt.Errorf("destination %s is being parked", d)
		}
		if _, err := r.config.Ledger.RaiseEpoch(ctx, ledger.Note{Tenant: tenant, Name: name, State: ledger.Parked, Reason: primary.NotConfigured}); err != nil {
			d.EndParking()
			return err
		}
	}
	r.tenants.remove(d)
	d.Leave()
	return nil
}

// Begun reports whether this process has had the slot: from then on added and removed destinations are written to the primary.
func (r *Router) Begun() bool { return r.membership.begun.Load() }
