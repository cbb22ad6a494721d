package destination

import (
	"cmp"

	"go.uber.org/zap"

	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// CarryOut carries out a request unless the destination has done so already. The next checkpoint notes the request as carried out.
func (d *Destination) CarryOut(q ledger.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Noting { // in an epoch of its own
		return
	}
	resync, retry := q.Note.Epoch > d.noted.epoch, q.Retries > d.noted.retried
	d.noted.retried = max(d.noted.retried, q.Retries)
	switch {
	case resync: // the asking person has seen why the destination was halted
		d.log.Info("a resync was requested", zap.String("by", q.By), zap.String("reason", cmp.Or(q.Why, q.Note.Reason)))
		d.raisedLocked(q.Note.Epoch)
		d.unhaltLocked()
		d.observeLocked()
		d.happensLocked(lifecycle.CopyAsked)
	case retry:
		d.log.Info("a retry was requested", zap.String("by", q.By), zap.String("reason", q.Why), zap.Bool("waits", d.life.Work == lifecycle.Waiting))
		d.tryNowLocked()
	}
}

// tryNowLocked ends the pause after a failure.
func (d *Destination) tryNowLocked() {
	d.failures.backoff.Reset()
	d.happensLocked(lifecycle.TryAsked)
}

// HasAll reports whether the stream has brought the destination every change up to the sequence id.
func (d *Destination) HasAll(id int64) bool {
	position := d.shared.SequenceID(d.shared.Reader.Position()) // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if position < id || d.life.Stream == lifecycle.Detached || d.life.Stream == lifecycle.Removed || d.queue.AwaitsReplay() {
		return false
	}
	return d.queue.Has(id)
}
