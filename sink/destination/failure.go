package destination

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"outflow/internal/pgerror"
	"outflow/replication/tableread"
	"outflow/sink/external"
	"outflow/sink/lifecycle"
	"outflow/sink/limits"
	"outflow/sink/status"
)

// failures are the failures of a destination since its last success. The errors and the numbers that are shown are in the status.
type failures struct {
	since      time.Time // of the first failure, zero while all is well
	conflictAt time.Time // when the metadata was last read again at once, zero before the first time
	halt       *halt     // nil: no person is needed
	backoff    limits.Pauses
}

// failed ends the worker's work after a failure, and decides on the time and the state of the next try. The connection is not kept.
func (d *Destination) failed(e *external.Error) {
	if foreign := (*external.ForeignRowsError)(nil); errors.As(e, &foreign) {
		d.shared.ForeignRows.Add(int64(foreign.Rows))
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
	case external.IsCanceled(e) && d.shared.Workers.Stopping():
		return lifecycle.Interrupted
	case errors.Is(e, errPostponed):
		return lifecycle.Postponed
	case e.NeedsPerson():
		return lifecycle.FailedForGood
	case d.queue.Empty():
		return lifecycle.FailedIdle
	}
	return lifecycle.Failed
}

// failsLocked is happensLocked for an event that may be a failure: the failure is recorded, and the timer of the next try is started.
func (d *Destination) failsLocked(event lifecycle.Event, e *external.Error) aftermath {
	idle := d.life.Idle(d.queue.Empty())
	after := d.happensLocked(event)
	if !after.has(lifecycle.Record) {
		return after
	}
	if d.failures.since.IsZero() && !idle { // later work has its own time to succeed
		d.failures.since = time.Now()
	}
	if e.NeedsPerson() {
		d.haltLocked(e)
	}
	pause := d.recordLocked(e)
	if after.has(lifecycle.Wait) {
		d.waitLocked(pause)
	} else {
		pause = max(pause, d.shared.Options.RetryMax)
	}
	d.status.NextRetry = time.Now().Add(pause)
	d.logFailureLocked(e, pause)
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
	d.reach.doubts++
	d.status.Attempts++
	d.status.Failures++
	if !parked || !external.IsCanceled(e) { // parking ended the work; the reason of the parking says more
		d.status.Err = e
	}
	pause = d.failures.backoff.Next()
	switch e.Verdict {
	case external.NeedsHuman, external.RowFault:
		pause = limits.Spread(d.shared.Options.RetryMax)
	case external.RetryLong:
		pause = max(pause, limits.Spread(min(20*time.Second, d.shared.Options.RetryMax)))
	case external.Conflict:
		if now := time.Now(); now.Sub(d.failures.conflictAt) > conflictPause {
			d.failures.conflictAt, pause = now, 0 // the metadata is read again
		} else { // an external database that changes the metadata again and again would be copied again and again
			pause = max(pause, limits.Spread(conflictPause))
		}
	}
	if errors.Is(e, tableread.ErrNotVisible) {
		pause = min(pause, limits.Spread(visibleAgain))
	}
	if parked {
		pause = max(pause, limits.Spread(min(time.Second<<min(max(d.parkings.lately-1, 0), 20), d.shared.Options.RetryMax)))
	}
	return pause
}

// logFailureLocked logs a failure once, and again with every doubling of the attempts.
func (d *Destination) logFailureLocked(e *external.Error, wait time.Duration) {
	n := d.status.Attempts
	if n&(n-1) != 0 {
		return
	}
	d.log.Warn("the external database does not take the changes", zap.String("state", string(status.StateOf(d.life, false))),
		zap.Int("attempt", n), zap.String("sqlstate", e.SQLState), zap.String("mapping", e.Mapping),
		zap.String("table", e.Table), zap.Error(e),
		zap.Duration("next_try_ms", wait))
}

// wellLocked ends a time of failures, and a halt where the done work shows that no person is needed any more.
func (d *Destination) wellLocked(done work) {
	d.watched.lastCommit.Set(time.Now())
	if d.endsHaltLocked(done) {
		if d.life.Health != lifecycle.Well {
			d.log.Info("the external database takes changes again", zap.Int("attempts", d.status.Attempts))
		}
		d.happensLocked(lifecycle.Succeeded)
	}
	d.status.Err, d.status.Attempts, d.status.NextRetry = nil, 0, time.Time{}
	d.failures.since, d.reach.doubts = time.Time{}, 0
	if d.session != nil {
		d.session.Place.Trust()
	}
	d.queue.Widen()
	d.failures.backoff.Reset()
	d.observeLocked()
}
