package sink

import (
	"errors"
	"math"
	"sync/atomic"
	"time"

	"outflow/internal/moment"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/judge"
	"outflow/sink/lifecycle"
)

// watch looks at the destinations every watchEvery, and has the destinations named by judge parked. One goroutine owns a watch.
type watch struct {
	router   *Router
	last     time.Time     // of the last look; zero before the first
	failed   moment.Moment // when a parking failed last
	wal      judge.Retention
	jam      time.Duration // see situation
	suspects []judge.Suspect
	accused  []*Destination // by the index of a suspect
}

// longestLook bounds the counted time between two looks: no destination is at fault for the time in which the process was stopped, or the
// machine slept.
const longestLook = time.Second

// parkAgain is the pause after a parking that failed: the primary did not note the parking.
const parkAgain = time.Second

// pass lets time pass in which destinations are not judged.
func (w *watch) pass(now time.Time) { w.last = now }

// look judges the destinations. No time counts while the primary does not answer: no destination could be parked, and the destinations which ask the
// primary wait.
func (w *watch) look(all []*Destination, now time.Time, answers bool) {
	passed := min(now.Sub(w.last), longestLook)
	if w.last.IsZero() || !answers {
		passed = 0
	}
	w.last = now
	r := w.router
	limit, closed := r.Options, r.gate.Closed()
	written := r.checkpointer.walEnd.Load()
	w.wal = w.wal.After(written-int64(r.Acks.Flush()), int64(limit.RetainedWAL), passed)
	s := judge.Situation{Read: r.SequenceID(r.Reader.Position()), Still: w.wal.Still, Excess: r.gate.Excess()}
	if written > 0 {
		s.Written = r.SequenceID(wal.LSN(written))
	}
	w.suspects, w.accused = w.suspects[:0], w.accused[:0]
	newest, second := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64) // since the last commits of two destinations
	for _, d := range all {
		o := d.observation(closed, now)
		d.watched.hold = d.watched.hold.After(o, passed)
		if commit := d.watched.lastCommit.Ago(now); commit < newest {
			newest, second = commit, newest
		} else if commit < second {
			second = commit
		}
		if o.Oldest >= 0 {
			w.suspects = append(w.suspects, judge.Suspect{Observation: o, Hold: d.watched.hold, Index: len(w.accused)})
			w.accused = append(w.accused, d)
		}
	}
	if w.jam += passed; !closed || !judge.Jammed(w.suspects) {
		w.jam = 0
	}
	s.Jam = w.jam
	for i, d := range w.accused {
		w.suspects[i].Others = newest
		if d.watched.lastCommit.Ago(now) <= newest {
			w.suspects[i].Others = second
		}
	}
	if !answers || w.failed.Ago(now) < parkAgain {
		return
	}
	for _, found := range judge.Judge(w.suspects, s, limit.Limits) {
		d := w.accused[found.Index]
		r.workers.start(func() {
			defer d.contained()
			if err := r.park(d, found.Reason); err != nil { // which is logged
				w.failed.Set(time.Now())
			}
		})
	}
}

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
