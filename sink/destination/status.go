package destination

import (
	"time"

	"outflow/internal/fit"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// Status is a destination at one moment.
type Status struct {
	State        ledger.State
	Since        time.Time // of the state
	Reason       string    // of the state, for people; "" where State says enough
	SequenceID   int64     // last committed in the external database, -1 before it is known
	CommitTime   time.Time // of the last committed transaction on the primary, zero before there was one
	Rows         int64     // net changes committed since the process started
	Batches      int64     // external transactions committed since then
	Transactions int64     // of the source, committed by the batches
	Failures     int64     // since the process started
	QueueStatus
	CopyStatus
	Attempts    int       // failures in a row
	NextRetry   time.Time // zero unless Retrying or Halted
	Err         error     // the last failure, nil while all is well; the failure for a person where State is Halted
	Detached    bool      // the stream goes on without the destination, which is copied again when it takes rows again
	DetachedWhy string    // for people; "" unless Detached
}

// QueueStatus is what waits for a destination.
type QueueStatus struct {
	Queued        int // transactions
	QueuedChanges int64
	QueueBytes    int64
	Oldest        time.Time // commit of the first queued transaction on the primary; zero where none waits
}

// CopyStatus is how far a destination's copy is.
type CopyStatus struct {
	Copying   bool   // a backfill goes on, whatever the state
	Copied    int64  // rows copied by the backfill in progress
	CopyTotal int64  // how many there are, by the planner's estimate; -1 is not known
	CopyTable string // the copied or swept source table; "" where there is none
}

// stateOf is the state as it is shown. unread says that a person has switched off the reading of the slot.
func stateOf(l lifecycle.Life, unread bool) ledger.State {
	switch {
	case l.Unusable:
		return ledger.Halted
	case l.Paused:
		return ledger.Paused
	case l.Health == lifecycle.Halted:
		return ledger.Halted
	case l.Stream == lifecycle.Detached:
		return ledger.Parked
	case l.Health == lifecycle.Failing:
		return ledger.Retrying
	case !l.Current:
		return ledger.Backfilling
	case unread:
		return ledger.Paused
	}
	return ledger.Streaming
}

// Event is a change of a destination's state.
type Event struct {
	At     time.Time
	State  ledger.State
	Reason string // for people; "" where the state says enough
}

// historyEvents is how many changes of state a destination remembers.
const historyEvents = 50

// Status returns the status of the destination.
func (d *Destination) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.statusLocked()
	waiting := d.queue.Backlog()
	s.Queued, s.QueuedChanges, s.Oldest, s.QueueBytes = waiting.Transactions, waiting.Changes, waiting.Oldest, d.queue.Bytes()
	return s
}

// History are the changes of the destination's state since the process started, newest last: the last 50.
func (d *Destination) History() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Event(nil), d.history...)
}

// statusLocked is the status without the queue.
func (d *Destination) statusLocked() Status {
	s := d.status
	if n := len(d.history); n > 0 {
		s.Since = d.history[n-1].At
	}
	s.SequenceID = max(s.SequenceID, d.noted.recordedID)
	if d.life.Stream == lifecycle.Detached {
		s.Detached, s.DetachedWhy = true, d.parkings.reason
	}
	unread := d.shared.Router.ReadingOff()
	s.State = stateOf(d.life, unread != nil)
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
	d.history = append(d.history, Event{At: time.Now(), State: s.State, Reason: s.Reason})
}
