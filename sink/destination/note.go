package destination

import (
	"context"

	"go.uber.org/zap"

	"outflow/internal/fit"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// Note is what the primary is to note of the destination. differs reports whether the primary has not noted that already; waits reports whether the
// slot still waits for a destination whose note the primary refuses.
func (d *Destination) Note() (now ledger.Note, differs, waits bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	status := d.statusLocked()
	now = ledger.Note{Tenant: d.Tenant, Name: d.Name, Epoch: d.noted.epoch, RecordedID: max(d.noted.recordedID, d.queue.Released()),
		Fingerprint: d.fingerprintLocked(), State: status.State, Detached: status.Detached, Reason: fit.Text(status.Reason, fit.Reason),
		TakenEpoch: d.noted.epoch, Retried: d.noted.retried}
	if status.Err != nil {
		now.Class = external.AsError(status.Err).Class()
	}
	now.Mappings = d.progressLocked()
	if now.Copied = d.status.Copied; !d.life.Current {
		now.CopyTotal = max(d.status.CopyTotal, 0)
	}
	// A destination without an epoch is a destination to which a Begin of the router that is under way has not come: the primary's note is better than what is known here.
	differs = now != d.noted.last && !d.life.Noting && !d.life.Refused && d.life.Stream != lifecycle.Unread
	return now, differs, d.life.Refused && d.life.Stream != lifecycle.Detached
}

// Wrote takes over a note that the primary has.
func (d *Destination) Wrote(n ledger.Note) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noted.last = n
	if n.Epoch == d.noted.epoch {
		d.noted.recordedID = max(d.noted.recordedID, n.RecordedID)
	}
}

// ReadAgain reads the note of a destination whose epoch is found to be later than the destination's own: a person asked for a copy, or the
// answer to this process' own note was lost. The next checkpoint notes the destination. The result is the noted epoch, 0 where there is no note.
func (d *Destination) ReadAgain(ctx context.Context) (epoch int64, err error) {
	s, err := d.shared.Ledger.Note(ctx, d.Tenant, d.Name)
	if err == nil {
		d.CarryOut(ledger.Request{Note: s})
	}
	return s.Epoch, err
}

// Pause stops the destination's work after the batch in flight, or lets the work go on where sw is nil. The queue fills
// meanwhile; a destination whose queue is full, or that holds the slot back for long, is parked: see [judge.Judge].
func (d *Destination) Pause(sw *ledger.Switch) {
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

// Observe adds the present state to the history, where the state has changed.
func (d *Destination) Observe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.observeLocked()
}
