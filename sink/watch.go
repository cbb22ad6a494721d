package sink

import (
	"math"
	"time"

	"outflow/internal/moment"
	"outflow/replication/wal"
	"outflow/sink/destination"
	"outflow/sink/judge"
)

// watchEvery is how often destinations are looked at for parking.
const watchEvery = 100 * time.Millisecond

// watch looks at the destinations every watchEvery, and has the destinations named by judge parked. One goroutine owns a watch.
type watch struct {
	router   *Router
	last     time.Time     // of the last look; zero before the first
	failed   moment.Moment // when a parking failed last
	wal      judge.Retention
	jam      time.Duration // see [judge.Situation]
	suspects []judge.Suspect
	accused  []*destination.Destination // by the index of a suspect
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
func (w *watch) look(all []*destination.Destination, now time.Time, answers bool) {
	passed := min(now.Sub(w.last), longestLook)
	if w.last.IsZero() || !answers {
		passed = 0
	}
	w.last = now
	r := w.router
	limit, closed := r.config.Options, r.shared.Gate.Closed()
	written := r.checkpointer.walEnd.Load()
	w.wal = w.wal.After(written-int64(r.config.Acks.Flush()), int64(limit.RetainedWAL), passed)
	s := judge.Situation{Read: r.config.SequenceID(r.config.Reader.Position()), Still: w.wal.Still, Excess: r.shared.Gate.Excess()}
	if written > 0 {
		s.Written = r.config.SequenceID(wal.LSN(written))
	}
	w.suspects, w.accused = w.suspects[:0], w.accused[:0]
	newest, second := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64) // since the last commits of two destinations
	for _, d := range all {
		o, hold := d.Look(closed, now, passed)
		if commit := d.SinceCommit(now); commit < newest {
			newest, second = commit, newest
		} else if commit < second {
			second = commit
		}
		if o.Oldest >= 0 {
			w.suspects = append(w.suspects, judge.Suspect{Observation: o, Hold: hold, Index: len(w.accused)})
			w.accused = append(w.accused, d)
		}
	}
	if w.jam += passed; !closed || !judge.Jammed(w.suspects) {
		w.jam = 0
	}
	s.Jam = w.jam
	for i, d := range w.accused {
		w.suspects[i].Others = newest
		if d.SinceCommit(now) <= newest {
			w.suspects[i].Others = second
		}
	}
	if !answers || w.failed.Ago(now) < parkAgain {
		return
	}
	for _, found := range judge.Judge(w.suspects, s, limit.Limits) {
		d := w.accused[found.Index]
		r.shared.Workers.Start(func() {
			defer d.Contained()
			if err := d.Park(found.Reason); err != nil { // which is logged
				w.failed.Set(time.Now())
			}
		})
	}
}
