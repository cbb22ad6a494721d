package destination

import (
	"errors"
	"time"

	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// work is the kind of work a destination's worker does.
type work int

const (
	opening  work = iota // connecting, and making the session ready
	applying             // live changes
	copying              // rows of the primary's tables
)

// halt is why a destination needs a person. A halt ends when the destination has done the failed work, and by nothing else: the
// person's task stays the same when the server is away meanwhile, the queue is dropped or the process restarts.
type halt struct {
	err   *external.Error
	at    time.Time
	epoch int64 // the destination's when the work failed; -1 where another process noted the halt
	work  work  // the failed work

	// For a halt noted by another process: the stream has brought the failed change once more after passing this place. Else 0.
	until wal.LSN
}

// haltLocked notes a failure that needs a person.
func (d *Destination) haltLocked(e *external.Error) {
	at := time.Now()
	if d.failures.halt != nil {
		at = d.failures.halt.at
	}
	d.failures.halt = &halt{err: e, at: at, epoch: d.noted.epoch, work: d.doing}
}

// adoptHaltLocked takes over the halt of a note on the primary.
func (d *Destination) adoptHaltLocked(s ledger.Note) {
	class, state := s.Class, ""
	if external.IsSQLState(class) {
		class, state = "", class
	}
	e := external.NewFault(class, errors.New(s.Reason), "")
	e.SQLState = state
	d.failures.halt = &halt{err: e, at: s.Since, epoch: -1, work: applying, until: d.shared.Router.BegunAt()}
}

// endsHaltLocked reports whether a success shows that no person is needed any more.
func (d *Destination) endsHaltLocked(done work) bool {
	h := d.failures.halt
	return !d.life.Refused && (h == nil || d.life.Current || h.work == opening || h.epoch == d.noted.epoch && h.work == done)
}

// settledLocked ends a time of failures where a connection was made and nothing is left to do. The result is false while the stream may
// still bring the change behind a noted halt. The worker calls settledLocked.
func (d *Destination) settledLocked() bool {
	if d.session == nil || !d.life.Current || d.life.Stream == lifecycle.Detached || !d.queue.Idle() || d.failures.halt == nil && d.status.Err == nil {
		return true
	}
	if d.failures.halt != nil && d.shared.Reader.Position() < d.failures.halt.until {
		return false
	}
	d.wellLocked(applying)
	return true
}

// unhaltLocked forgets a halt because a person has changed the cause, or says so.
func (d *Destination) unhaltLocked() {
	if d.life.Health == lifecycle.Halted {
		d.happensLocked(lifecycle.Unhalted)
		d.status.Err = nil
	}
}
