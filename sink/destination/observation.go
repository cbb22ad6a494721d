package destination

import (
	"errors"
	"sync/atomic"
	"time"

	"outflow/internal/moment"
	"outflow/replication/tableread"
	"outflow/sink/judge"
	"outflow/sink/lifecycle"
)

// watched is what the watch sees of a destination beside the queue and the lifecycle.
type watched struct {
	hold       judge.Hold    // the watch's: for how long the destination has held what it holds
	lastCommit moment.Moment // safe for concurrent use, like lookups
	lookups    atomic.Int32  // the worker waits for so many answers of the primary
	awaits     awaited
}

// awaited is what a worker waits for that is not the external server's.
type awaited int

const (
	nothing       awaited = iota
	place                 // among the connections
	changesToCome         // of a large transaction, in an open external transaction
)

// awaits notes what the worker waits for.
func (d *Destination) awaits(a awaited) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watched.awaits = a
}

// Look is the destination as the judge sees it, and how long the destination has held what it holds, with the time passed since the last look.
// The watch's goroutine calls Look.
func (d *Destination) Look(closed bool, now time.Time, passed time.Duration) (judge.Observation, judge.Hold) {
	o := d.observation(closed, now)
	d.watched.hold = d.watched.hold.After(o, passed)
	return o, d.watched.hold
}

// SinceCommit is the time since the external database last committed.
func (d *Destination) SinceCommit(now time.Time) time.Duration { return d.watched.lastCommit.Ago(now) }

// observation is the destination as the judge sees it. With closed set the reader waits, so large transactions whose end cannot come are work now.
func (d *Destination) observation(closed bool, now time.Time) judge.Observation {
	d.mu.Lock()
	defer d.mu.Unlock()
	if closed {
		d.wakeLocked()
	}
	o := judge.Observation{Bytes: d.queue.Bytes(), Over: d.queue.Over(), Paused: d.life.Paused, Replays: d.queue.Replays(),
		Leaving: d.life.Noting || d.life.Stream == lifecycle.Detached}
	o.Oldest, o.Open = d.queue.Oldest()
	o.Reached = d.queue.Reached()
	answered := d.db.Answered.Ago(now) < judge.ParkGrace
	o.Unable = o.Paused || d.reach.doubts > 0 && d.session == nil || !d.failures.since.IsZero() && !answered
	o.Queued, o.Starved = d.watched.awaits == place && d.reach.doubts == 0, d.watched.awaits == changesToCome
	o.Waits = o.Queued || d.watched.lookups.Load() > 0 || d.life.Work == lifecycle.Waiting && errors.Is(d.status.Err, tableread.ErrNotVisible)
	return o
}
