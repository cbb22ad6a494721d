package destination

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
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// Begin takes over the primary's note, the zero value where the primary has nothing.
func (d *Destination) Begin(s ledger.Note) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beginLocked(s)
}

// beginLocked is Begin under the lock.
func (d *Destination) beginLocked(s ledger.Note) {
	defer d.observeLocked()
	switch {
	case d.life.Stream == lifecycle.Unread:
		d.adoptLocked(s)
	case s.Epoch == 0:
		d.happensLocked(lifecycle.Nudged)
	default:
		d.adoptAgainLocked(s)
	}
	d.wakeLocked()
}

// adoptLocked takes over the note that the process finds first.
func (d *Destination) adoptLocked(s ledger.Note) {
	d.noted.epoch, d.noted.recordedID = s.Epoch, -1
	if s.Epoch == 0 {
		// The primary knows nothing of the destination. The database of the destination may: as a destination under another name, say.
		// An epoch that no other destination has makes sure of a copy.
		d.noted.epoch = time.Now().UnixMicro()
		d.happensLocked(lifecycle.BegunBehind)
		return
	}
	d.noted.recordedID, d.noted.retried = max(d.noted.recordedID, s.RecordedID), max(d.noted.retried, s.Retried)
	d.noted.last, d.status.Copied = s, s.Copied
	d.noted.synced, d.noted.syncedText = ledger.ParseProgress(s.Mappings), s.Mappings
	d.forgetRemovedLocked()
	d.noted.last.Since = time.Time{}
	if s.State == ledger.Retrying || s.Detached {
		d.reach.doubts = 1 // those that were well go first
	}
	switch same := s.Fingerprint == d.fingerprintLocked(); {
	case same && s.State == ledger.Halted: // a mapping that was changed since has to be tried first
		d.happensLocked(lifecycle.BegunHalted)
		d.adoptHaltLocked(s)
	case same && s.State == ledger.Streaming && d.fault == nil:
		d.happensLocked(lifecycle.BegunCurrent)
	default:
		d.happensLocked(lifecycle.BegunBehind)
	}
}

// adoptAgainLocked takes over the note at the beginning of another reading. Where the epoch is a later one another process may have brought the
// destination up to date meanwhile. From the start of this reading on the destination misses nothing.
func (d *Destination) adoptAgainLocked(s ledger.Note) {
	later := s.Epoch > d.noted.epoch
	d.noted.epoch, d.noted.recordedID, d.noted.retried = max(d.noted.epoch, s.Epoch), max(d.noted.recordedID, s.RecordedID), max(d.noted.retried, s.Retried)
	if later {
		d.happensLocked(lifecycle.BegunLater)
	} else {
		d.happensLocked(lifecycle.BegunAgain)
	}
}

// parkMemory is how long a parking counts: a destination parked again and again within parkMemory stays away longer each time, since each
// return of a slow destination costs the others a wait.
const parkMemory = 10 * time.Minute

// fingerprintLocked changes when one of the destination's mappings does. The mappings of an unusable destination are not known: the note keeps
// the earlier fingerprint.
func (d *Destination) fingerprintLocked() string {
	if d.fault != nil && len(d.db.Mappings) == 0 {
		return d.noted.last.Fingerprint
	}
	prints := make([]string, len(d.db.Mappings))
	for i, m := range d.db.Mappings {
		prints[i] = m.Identity()
	}
	return strings.Join(prints, " ")
}

// Park lets the stream go on without a destination. The parking is written to the primary first; then the destination's queue is dropped
// and the queued transactions are acknowledged. When the destination answers again the destination is copied again. An error says that
// the destination is not parked.
func (d *Destination) Park(reason string) error {
	note, err := d.beginParking(reason)
	if note == nil {
		return err
	}
	detached := false
	defer func() {
		if !detached {
			d.EndParking()
		}
	}()
	epoch, err := d.shared.Ledger.RaiseEpoch(d.shared.Workers.Ctx, *note)
	failpoint.Hit(failpoint.ParkNoted)
	if err != nil {
		if !errors.Is(err, primary.ErrFenced) { // else another process decides over the destination
			d.log.Warn("the destination cannot be parked", zap.Error(err))
		}
		return err
	}
	detached = true
	after := d.detach(epoch, reason)
	if after.has(lifecycle.Drop) {
		d.slot.Leave()
	}
	d.settleUp(after)
	return nil
}

// beginParking returns the note of a parking; nil where there is nothing to park.
func (d *Destination) beginParking(reason string) (*ledger.Note, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Stream == lifecycle.Detached || d.life.Stream == lifecycle.Removed {
		return nil, nil
	}
	if d.life.Noting {
		return nil, fmt.Errorf("destination %s is being parked, or removed", d)
	}
	d.happensLocked(lifecycle.NotingBegun)
	note := &ledger.Note{Tenant: d.Tenant, Name: d.Name, Epoch: d.noted.epoch, State: ledger.Parked, Reason: d.whyParkedLocked(reason), Detached: true}
	if s := d.statusLocked(); s.State == ledger.Halted {
		note.State, note.Reason = ledger.Halted, s.Reason
	}
	return note, nil
}

// EndParking says that the primary has not noted the parking, or the removal, that was begun.
func (d *Destination) EndParking() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.happensLocked(lifecycle.NotingFailed)
}

// whyParkedLocked is the reason of a parking with the last failure.
func (d *Destination) whyParkedLocked(reason string) string {
	if last := d.status.Err; last != nil {
		return fit.Text(reason+": "+last.Error(), fit.Reason)
	}
	return reason
}

// detach has the destination parked in an epoch that is noted. A worker drops the queue; without a worker the queue is dropped here.
func (d *Destination) detach(epoch int64, reason string) aftermath {
	d.mu.Lock()
	defer d.mu.Unlock()
	if epoch <= d.noted.epoch {
		// The slot is read again, and the beginning of that reading has told of the epoch: a copy may run in the epoch by now, and needs what
		// the queue holds.
		return d.happensLocked(lifecycle.NotingFailed)
	}
	text := d.whyParkedLocked(reason)
	d.noted.epoch, d.parkings.reason = epoch, text
	if time.Since(d.parkings.last) > parkMemory {
		d.parkings.lately = 0
	}
	d.parkings.lately, d.parkings.last = d.parkings.lately+1, time.Now()
	d.log.Warn("parked: the stream goes on without this destination, which is copied again when it answers", zap.String("reason", text))
	defer d.observeLocked()
	return d.failsLocked(lifecycle.Parked, cmp.Or(d.noted.refusal, &external.Error{Err: errors.New(reason)}))
}

// raiseEpoch has the external database copied again: the metadata's epoch no longer fits.
func (d *Destination) raiseEpoch(ctx context.Context, reason string) error {
	epoch, err := d.shared.Ledger.RaiseEpoch(ctx, ledger.Note{Tenant: d.Tenant, Name: d.Name, Epoch: d.wantedEpoch(), State: ledger.Backfilling, Reason: reason})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.raisedLocked(epoch)
	return nil
}

// raisedLocked takes over an epoch that the primary has noted: all rows are copied.
func (d *Destination) raisedLocked(epoch int64) {
	d.noted.epoch, d.status.Copied, d.status.CopyTotal = epoch, 0, -1
	d.happensLocked(lifecycle.EpochRaised)
}

// Resync has the external database copied again while live changes go on.
func (d *Destination) Resync(ctx context.Context, reason string) error {
	epoch, err := d.shared.Ledger.RaiseEpoch(ctx, ledger.Note{Tenant: d.Tenant, Name: d.Name, Epoch: d.wantedEpoch(), State: ledger.Backfilling, Reason: reason})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if epoch > d.noted.epoch { // else the copy has begun: the destination has found the epoch on the primary
		d.raisedLocked(epoch)
		d.happensLocked(lifecycle.CopyAsked)
	}
	return nil
}
