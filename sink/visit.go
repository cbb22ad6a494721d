package sink

import (
	"time"

	"outflow/sink/destination"
)

// A destination without work has no connection, so an external database emptied, replaced or gone would show at the tenant's next change
// only. The router therefore visits each destination after a start, and again after Options.VisitEvery without a new connection: the
// destination connects, and the connection compares the metadata with the primary's notes. Visits are slow, and a silent database is visited
// again after all others: ten thousand dead databases must not take the places of databases with work.

// visitsAtOnce bounds how many visits have waited for an answer for less than visitPatience: a silent database does not keep the others from
// being visited. Each tick of the watch begins one visit at most.
const (
	visitsAtOnce  = 2
	visitPatience = time.Second
)

// visit begins the next visit, if there are a next destination and a place for the visit.
func (r *Router) visit(all []*destination.Destination) {
	var next *destination.Destination
	var oldest time.Time
	under := 0
	for _, d := range all {
		switch visited, waits, due := d.Visits(); {
		case waits && time.Since(visited) < visitPatience:
			under++
		case due && (next == nil || visited.Before(oldest)):
			next, oldest = d, visited
		}
	}
	if next == nil || under >= visitsAtOnce {
		return
	}
	next.Visit()
}
