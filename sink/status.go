package sink

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// Status is a destination at one moment.
type Status struct {
	State         ledger.State
	Since         time.Time // of the state
	Reason        string    // of the state, for people; "" where State says enough
	SequenceID    int64     // last committed in the external database, -1 before it is known
	CommitTime    time.Time // of the last committed transaction on the primary, zero before there was one
	Rows          int64     // net changes committed since the process started
	Batches       int64     // external transactions committed since then
	Transactions  int64     // of the source, committed by the batches
	Failures      int64     // since the process started
	Queued        int       // waiting transactions
	QueuedChanges int64
	QueueBytes    int64
	Oldest        time.Time // commit of the first queued transaction on the primary; zero where none waits
	Attempts      int       // failures in a row
	NextRetry     time.Time // zero unless Retrying or Halted
	Err           error     // the last failure, nil while all is well; the failure for a person where State is Halted
	Detached      bool      // the stream goes on without the destination, which is copied again when it takes rows again
	DetachedWhy   string    // for people; "" unless Detached
	Copying       bool      // a backfill goes on, whatever the state
	Copied        int64     // rows copied by the backfill in progress
	CopyTotal     int64     // how many there are, by the planner's estimate; -1 is not known
	CopyTable     string    // the copied or swept source table; "" where there is none
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
	s.Queued, s.QueuedChanges, s.Oldest, s.QueueBytes = waiting.Transactions, waiting.Changes, waiting.Oldest, d.queue.Bytes
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
	s.SequenceID = max(s.SequenceID, d.recordedID)
	if d.life.Stream == lifecycle.Detached {
		s.Detached, s.DetachedWhy = true, d.parkReason
	}
	unread := d.router.switches.notReading()
	s.State = stateOf(d.life, unread != nil)
	switch l := d.life; {
	case l.Unusable:
		s.Err, s.Reason = d.fault, fit.Text(d.fault.Error(), fit.Reason)
	case l.Paused:
		s.Reason = d.paused.Why()
		if s.Detached {
			s.Reason += "; " + d.parkReason + ", so the destination is copied again when it is resumed"
		}
	case l.Health == lifecycle.Halted:
		s.Since, s.Err, s.Reason = d.halt.at, d.halt.err, fit.Text(d.halt.err.Error(), fit.Reason)
		s.Copying = !l.Current && !s.Detached && d.failing.IsZero() && d.session != nil
	case s.Detached:
		s.Reason = d.parkReason
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

// failed ends the worker's work after a failure, and decides on the time and the state of the next try. The connection is not kept.
func (d *Destination) failed(e *external.Error) {
	if foreign := (*external.ForeignRowsError)(nil); errors.As(e, &foreign) {
		d.router.foreignRows.Add(int64(foreign.Rows))
	}
	e = e.Kept()
	d.slot.Leave()
	d.outdate(e)
	d.settleUp(d.giveUp(e))
}

// giveUp is the part of failed under the lock.
func (d *Destination) giveUp(e *external.Error) aftermath {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turnEnded {
		if d.turnEnded = false; e.Verdict == external.Retry {
			e = &external.Error{Err: turnEndedError{}, Verdict: external.Retry}
		}
	}
	if d.life.Stream == lifecycle.Removed {
		d.log.Info("the destination is no longer in the configuration")
	}
	after := d.failsLocked(d.failureLocked(e), e)
	if after.replay && (errors.Is(e, errPostponed) || errors.Is(e, tableread.ErrNotVisible)) {
		d.queue.Excuse() // read again for the sake of the primary
	}
	return after
}

// failureLocked is what an error of the worker's means for the lifecycle.
func (d *Destination) failureLocked(e *external.Error) lifecycle.Event {
	switch {
	case external.IsCanceled(e) && d.router.workers.stopping():
		return lifecycle.Interrupted
	case errors.Is(e, errPostponed):
		return lifecycle.Postponed
	case needsPerson(e):
		return lifecycle.FailedForGood
	case d.queue.Empty():
		return lifecycle.FailedIdle
	}
	return lifecycle.Failed
}

// needsPerson reports whether no further try helps before a person has done something.
func needsPerson(e *external.Error) bool {
	return e.Verdict == external.NeedsHuman || e.Verdict == external.RowFault
}

// failsLocked is happensLocked for an event that may be a failure: the failure is recorded, and the timer of the next try is started.
func (d *Destination) failsLocked(event lifecycle.Event, e *external.Error) aftermath {
	idle := d.life.Idle(d.queue.Empty())
	after := d.happensLocked(event)
	if !after.has(lifecycle.Record) {
		return after
	}
	if d.failing.IsZero() && !idle { // later work has its own time to succeed
		d.failing = time.Now()
	}
	if needsPerson(e) {
		d.haltLocked(e)
	}
	pause := d.recordLocked(e)
	if after.has(lifecycle.Wait) {
		d.waitLocked(pause)
	} else {
		pause = max(pause, d.router.Options.RetryMax)
	}
	d.status.NextRetry = time.Now().Add(pause)
	d.logFailure(e, pause)
	d.observeLocked()
	return after
}

// conflictPause is how often a destination reads the metadata again at once after a conflict.
const conflictPause = 2 * time.Second

// recordLocked counts a failure, and decides on the pause after the failure.
func (d *Destination) recordLocked(e *external.Error) (pause time.Duration) {
	parked := d.life.Stream == lifecycle.Detached
	if e.SQLState == pgerror.QueryCanceled || errors.Is(e, turnEndedError{}) {
		d.queue.Narrow()
	}
	d.doubts++
	d.status.Attempts++
	d.status.Failures++
	if !parked || !external.IsCanceled(e) { // parking ended the work; the reason of the parking says more
		d.status.Err = e
	}
	pause = d.backoff.next()
	switch e.Verdict {
	case external.NeedsHuman, external.RowFault:
		pause = spread(d.router.Options.RetryMax)
	case external.RetryLong:
		pause = max(pause, spread(min(20*time.Second, d.router.Options.RetryMax)))
	case external.Conflict:
		if now := time.Now(); now.Sub(d.conflictAt) > conflictPause {
			d.conflictAt, pause = now, 0 // the metadata is read again
		} else { // an external database that changes the metadata again and again would be copied again and again
			pause = max(pause, spread(conflictPause))
		}
	}
	if errors.Is(e, tableread.ErrNotVisible) {
		pause = min(pause, spread(visibleAgain))
	}
	if parked {
		pause = max(pause, spread(min(time.Second<<min(max(d.parks-1, 0), 20), d.router.Options.RetryMax)))
	}
	return pause
}

// logFailure logs a failure once, and again with every doubling of the attempts.
func (d *Destination) logFailure(e *external.Error, wait time.Duration) {
	n := d.status.Attempts
	if n&(n-1) != 0 {
		return
	}
	d.log.Warn("the external database does not take the changes", zap.String("state", string(stateOf(d.life, false))),
		zap.Int("attempt", n), zap.String("sqlstate", e.SQLState), zap.String("mapping", e.Mapping),
		zap.String("table", e.Table), zap.Error(e),
		zap.Duration("next_try_ms", wait))
}

// succeeded notes a commit. flushed says that the commit and everything before survive a crash of the external server.
func (d *Destination) succeeded(b *batch, flushed bool) {
	d.router.Acks.Release(d.count(b, flushed)...)
	d.traceLocked(b)
}

// count notes a committed batch, and returns the tickets of the transactions that are flushed.
func (d *Destination) count(b *batch, flushed bool) []wal.Ticket {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wellLocked(applying)
	if n := len(b.transactions); n > 0 {
		d.status.CommitTime = b.transactions[n-1].Committed
	}
	d.status.SequenceID = max(d.status.SequenceID, b.last)
	d.setSyncedLocked(d.session, nil)
	d.status.Rows += int64(b.changes)
	d.status.Batches++
	d.status.Transactions += int64(len(b.transactions))
	d.queue.Commit(len(b.transactions), b.bytes)
	if !flushed {
		return nil
	}
	return d.queue.LetGo(d.queue.Applied)
}

// wellLocked ends a time of failures, and a halt where the done work shows that no person is needed any more.
func (d *Destination) wellLocked(done work) {
	d.lastCommit.Set(time.Now())
	if d.endsHaltLocked(done) {
		if d.life.Health != lifecycle.Well {
			d.log.Info("the external database takes changes again", zap.Int("attempts", d.status.Attempts))
		}
		d.happensLocked(lifecycle.Succeeded)
	}
	d.status.Err, d.status.Attempts, d.status.NextRetry = nil, 0, time.Time{}
	d.failing, d.doubts = time.Time{}, 0
	if d.session != nil {
		d.session.Place.Trust()
	}
	d.queue.Widen()
	d.backoff.reset()
	d.observeLocked()
}

// progress notes a chunk of a backfill.
func (d *Destination) progress(c cursor, complete bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if complete {
		d.happensLocked(lifecycle.CopyFinished)
	} else {
		d.happensLocked(lifecycle.ChunkCopied)
	}
	d.wellLocked(copying)
	d.status.Copied, d.status.CopyTable = c.Rows, c.Table
	// A chunk's commit waited for the disk, so the primary may be told of the commit.
	d.status.SequenceID = max(d.status.SequenceID, d.session.Lowest())
	d.queue.Released = max(d.queue.Released, d.session.Lowest())
	d.setSyncedLocked(d.session, nil)
	if complete {
		d.status.CopyTable = ""
	}
	d.observeLocked()
}
