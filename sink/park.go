package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
)

// begin takes over the primary's note, the zero value where the primary has nothing.
func (d *Destination) begin(s ledger.Note) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.adoptLocked(s)
	d.wakeLocked()
}

// adoptLocked takes over the primary's note, the zero value where the primary has nothing.
func (d *Destination) adoptLocked(s ledger.Note) {
	first := d.epoch == 0
	if first {
		d.epoch, d.recordedID = s.Epoch, -1
		if s.Epoch == 0 {
			// The primary knows nothing of the destination. The database of the destination may: as a destination under another name, say.
			// An epoch that no other destination has makes sure of a copy.
			d.epoch = time.Now().UnixMicro()
		}
	}
	defer d.observeLocked()
	if s.Epoch == 0 {
		d.due = true
		return
	}
	if first {
		d.caughtUp = d.fault == nil && s.State == ledger.Streaming && s.Fingerprint == d.fingerprintLocked()
		d.lastNote, d.status.Copied = s, s.Copied
		d.synced, d.syncedNote = ledger.ParseProgress(s.Mappings), s.Mappings
		d.forgetRemovedLocked()
		d.lastNote.Since = time.Time{}
		d.adoptHaltLocked(s)
		if s.State == ledger.Retrying || s.Detached {
			d.doubts = 1 // those that were well go first
		}
	}
	d.retried = max(d.retried, s.Retried)
	if s.Epoch > d.epoch || (d.parked && !first) {
		// Another process may have brought the destination up to date meanwhile. From the start of this reading on the destination misses
		// nothing.
		d.parked = false
		d.fresh = !first
	}
	d.epoch, d.recordedID = max(d.epoch, s.Epoch), max(d.recordedID, s.RecordedID)
	d.due = d.due || !d.caughtUp || d.fresh
}

// parkGrace is how long a destination that fails with a full queue may keep the reader waiting: a restart of its server, or one broken
// connection, is over sooner than a copy of all its rows.
const parkGrace = 2 * time.Second

// parkMemory is how long a parking counts: a destination parked again and again within parkMemory stays away longer each time, since each
// return of a slow destination costs the others a wait.
const parkMemory = 10 * time.Minute

// watchEvery is how often destinations are looked at for parking.
const watchEvery = 100 * time.Millisecond

// fingerprintLocked changes when one of the destination's mappings does. The mappings of an unusable destination are not known: the note keeps
// the earlier fingerprint.
func (d *Destination) fingerprintLocked() string {
	if d.fault != nil && len(d.mappings) == 0 {
		return d.lastNote.Fingerprint
	}
	prints := make([]string, len(d.mappings))
	for i, m := range d.mappings {
		prints[i] = m.Identity()
	}
	return strings.Join(prints, " ")
}

// park lets the stream go on without a destination. The parking is written to the primary first; then the destination's queue is dropped
// and the queued transactions are acknowledged. When the destination answers again the destination is copied again. An error says that
// the destination is not parked.
func (r *Router) park(d *Destination, reason string) error {
	note, err := d.beginParking(reason)
	if note == nil {
		return err
	}
	detached := false
	defer func() {
		if !detached {
			d.endParking()
		}
	}()
	epoch, err := r.Ledger.RaiseEpoch(r.workers.ctx, *note)
	failpoint.Hit(failpoint.ParkNoted)
	if err != nil {
		if !errors.Is(err, primary.ErrFenced) { // else another process decides over the destination
			d.log.Warn("the destination cannot be parked", zap.Error(err))
		}
		return err
	}
	detached = true
	if tickets, idle := d.detach(epoch, reason); idle {
		d.slot.Leave()
		r.Acks.Release(tickets...)
	}
	return nil
}

// beginParking returns the note of a parking; nil where there is nothing to park.
func (d *Destination) beginParking(reason string) (*ledger.Note, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parked || d.gone {
		return nil, nil
	}
	if d.parking {
		return nil, fmt.Errorf("destination %s is being parked, or removed", d)
	}
	d.parking = true
	note := &ledger.Note{Tenant: d.Tenant, Name: d.Name, State: ledger.Parked, Reason: d.whyParkedLocked(reason), Detached: true}
	if s := d.statusLocked(); s.State == ledger.Halted {
		note.State, note.Reason = ledger.Halted, s.Reason
	}
	return note, nil
}

func (d *Destination) endParking() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parking = false
}

// whyParkedLocked is the reason of a parking with the last failure.
func (d *Destination) whyParkedLocked(reason string) string {
	if last := d.status.Err; last != nil {
		return fit.Text(reason+": "+last.Error(), fit.Reason)
	}
	return reason
}

// detach has the destination parked in an epoch that is noted. Without a worker the queue is dropped, and idle is true; else the worker
// drops the queue.
func (d *Destination) detach(epoch int64, reason string) (tickets []wal.Ticket, idle bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := d.whyParkedLocked(reason)
	d.parking = false
	d.epoch, d.parked, d.fresh, d.parkReason = epoch, true, true, text
	if time.Since(d.parkedAt) > parkMemory {
		d.parks = 0
	}
	d.parks, d.parkedAt = d.parks+1, time.Now()
	d.log.Warn("parked: the stream goes on without this destination, which is copied again when it answers", zap.String("reason", text))
	defer d.observeLocked()
	if d.working { // the queue is its worker's, which drops it in failed
		d.cancelWork()
		return nil, false
	}
	tickets = d.dropLocked()
	if d.retryAt == nil && d.paused == nil {
		d.pauseAfterLocked(cmp.Or(d.unnoted, &external.Error{Err: errors.New(reason)}))
	}
	return tickets, true
}

// dropLocked empties the queue of a destination that the stream goes on without, and returns the tickets to release. Only the worker of the
// destination may call dropLocked, or another holder of the lock while there is no worker.
func (d *Destination) dropLocked() []wal.Ticket {
	return d.queue.Drop(d.router.tenants.arrivingID())
}

// attachLocked lets changes come again to a parked destination whose session is open: a server that answers the login and hangs then holds
// nothing. The first snapshot of the destination's backfill is taken later. A session opened before the parking does not count.
func (d *Destination) attachLocked(s *session) {
	if d.parked && s.Epoch == d.epoch {
		// A failure from before the parking must not park the destination again before the first commit.
		d.parked, d.caughtUp, d.failing = false, false, time.Time{}
		d.log.Info("the parked destination answers again")
		d.observeLocked()
	}
}

// raiseEpoch has the external database copied again: the metadata's epoch no longer fits.
func (d *Destination) raiseEpoch(ctx context.Context, reason string) error {
	epoch, err := d.router.Ledger.RaiseEpoch(ctx, ledger.Note{Tenant: d.Tenant, Name: d.Name, State: ledger.Backfilling, Reason: reason})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch, d.caughtUp = epoch, false
	d.status.Copied, d.status.CopyTotal = 0, -1
	return nil
}

// Resync has the external database copied again while live changes go on.
func (d *Destination) Resync(ctx context.Context, reason string) error {
	if err := d.raiseEpoch(ctx, reason); err != nil {
		return err
	}
	d.restart()
	return nil
}

// restart has the worker drop the queue, of which the copy makes up, and connect again, which is when the epoch is looked at. The new
// epoch is durable.
func (d *Destination) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh, d.stale = true, true
	if d.working {
		return
	}
	if d.retryAt != nil && d.retryAt.Stop() {
		d.retryAt = nil
	}
	d.due = true
	d.wakeLocked()
}
