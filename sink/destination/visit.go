package destination

import (
	"time"

	"outflow/sink/lifecycle"
)

// Visits says when the last visit began, whether the visit waits for an answer, and whether a visit is due.
func (d *Destination) Visits() (last time.Time, waits, due bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reach.visited, d.life.Visiting, d.awaitsVisitLocked()
}

// Visit has the worker connect, where a visit is still due.
func (d *Destination) Visit() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.awaitsVisitLocked() {
		d.reach.visited = time.Now()
		d.happensLocked(lifecycle.Visited)
	}
}

// awaitsVisitLocked reports whether the external database was not reached since the start, or for long, and nothing else is about to reach the
// database.
func (d *Destination) awaitsVisitLocked() bool {
	l, pause := &d.life, d.shared.Options.RetryMax
	if l.Met {
		pause = d.shared.Options.VisitEvery
	}
	return (!l.Met || l.Current) && !l.Visiting && l.Work == lifecycle.Resting && l.Stream != lifecycle.Removed && l.Stream != lifecycle.Unread && !l.Unusable &&
		!l.Paused && d.queue.Empty() && time.Since(d.reach.visited) > pause
}
