package destination

import (
	"time"

	"outflow/internal/fit"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
	"outflow/sink/status"
)

// historyEvents is how many changes of state a destination remembers.
const historyEvents = 50

// Status returns the status of the destination.
func (d *Destination) Status() status.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.statusLocked()
	waiting := d.queue.Backlog()
	s.Queued, s.QueuedChanges, s.Oldest, s.QueueBytes = waiting.Transactions, waiting.Changes, waiting.Oldest, d.queue.Bytes()
	return s
}

// History are the changes of the destination's state since the process started, newest last: the last 50.
func (d *Destination) History() []status.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]status.Event(nil), d.history...)
}

// statusLocked is the status without the queue.
func (d *Destination) statusLocked() status.Status {
	s := d.status
	if n := len(d.history); n > 0 {
		s.Since = d.history[n-1].At
	}
	s.SequenceID = max(s.SequenceID, d.noted.recordedID)
	if d.life.Stream == lifecycle.Detached {
		s.Detached, s.DetachedWhy = true, d.parkings.reason
	}
	unread := d.shared.Router.ReadingOff()
	s.State = status.StateOf(d.life, unread != nil)
	switch l := d.life; {
	case l.Unusable:
		s.Err, s.Reason = d.fault, fit.Text(d.fault.Error(), fit.Reason)
	case l.Paused:
		s.Reason = d.paused.Why()
		if s.Detached {
			s.Reason += "; " + d.parkings.reason + ", so the destination is copied again when it is resumed"
		}
	case l.Health == lifecycle.Halted:
		s.Since, s.Err, s.Reason = d.failures.halt.at, d.failures.halt.err, fit.Text(d.failures.halt.err.Error(), fit.Reason)
		s.Copying = !l.Current && !s.Detached && d.failures.since.IsZero() && d.session != nil
	case s.Detached:
		s.Reason = d.parkings.reason
	case s.State == ledger.Backfilling:
		s.Copying = true
	case s.State == ledger.Paused:
		s.Reason = unread.Why()
	case s.Err != nil:
		s.Reason = fit.Text(s.Err.Error(), fit.Reason)
	}
	if s.CopyTotal < s.Copied {
		s.CopyTotal = -1 // the planner knew little
	}
	return s
}

// observeLocked notes changes in the history.
func (d *Destination) observeLocked() {
	s := d.statusLocked()
	if n := len(d.history); n > 0 && d.history[n-1].State == s.State {
		d.history[n-1].Reason = s.Reason // the latest one
		return
	}
	if len(d.history) == historyEvents {
		d.history = append(d.history[:0], d.history[1:]...)
	}
	d.history = append(d.history, status.Event{At: time.Now(), State: s.State, Reason: s.Reason})
}
