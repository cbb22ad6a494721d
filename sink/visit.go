package sink

import (
	"time"

	"outflow/sink/lifecycle"
)

// A destination without work has no connection, so an external database emptied, replaced or gone would show at the tenant's next change
// only. The router therefore visits each destination after a start, and again after Options.VisitEvery without a new connection: the
// destination connects, and the connection compares the metadata with the primary's notes. Visits are slow, and a silent database is visited
// again after all others: ten thousand dead databases must not take the places of databases with work.

// visitsAtOnce bounds how many visits have waited for an answer for less than visitPatience: a silent database does not keep the others from
// being visited. Each tick of the watch begins one visit at the most.
const (
	visitsAtOnce  = 2
	visitPatience = time.Second
)

// visit begins the next visit, if there are a next destination and a place for the visit.
func (r *Router) visit(all []*Destination) {
	var next *Destination
	var oldest time.Time
	under := 0
	for _, d := range all {
		d.mu.Lock()
		if d.life.Visiting {
			if time.Since(d.reach.visited) < visitPatience {
				under++
			}
		} else if d.awaitsVisitLocked(r.Options.RetryMax) && (next == nil || d.reach.visited.Before(oldest)) {
			next, oldest = d, d.reach.visited
		}
		d.mu.Unlock()
	}
	if next == nil || under >= visitsAtOnce {
		return
	}
	next.mu.Lock()
	defer next.mu.Unlock()
	if next.awaitsVisitLocked(r.Options.RetryMax) {
		next.reach.visited = time.Now()
		next.happensLocked(lifecycle.Visited)
	}
}

// awaitsVisitLocked reports whether the external database was not reached since the start, or for long, and nothing else is about to reach the
// database.
func (d *Destination) awaitsVisitLocked(pause time.Duration) bool {
	l := &d.life
	if l.Met {
		pause = d.router.Options.VisitEvery
	}
	return (!l.Met || l.Current) && !l.Visiting && l.Work == lifecycle.Resting && l.Stream != lifecycle.Removed && l.Stream != lifecycle.Unread && !l.Unusable &&
		!l.Paused && d.queue.Empty() && time.Since(d.reach.visited) > pause
}
