// Package moment keeps times for questions of the kind "how long ago" that many goroutines ask. A change of the machine's clock moves no such
// time. The package imports nothing of Outflow's.
package moment

import (
	"math"
	"sync/atomic"
	"time"
)

// Moment is a time kept for a question of the kind "how long ago". A change of the machine's clock does not move a moment: a clock put back by
// an hour would otherwise have every server answer "lately", and nothing be parked, for an hour. The zero moment is none. Safe for concurrent use.
type Moment struct{ ns atomic.Int64 } // since started; 0 is none

// started is where moments count from. Differences of two times of this process come from the monotonic clock (package time).
var started = time.Now().Add(-1)

// Set notes a time of this process.
func (m *Moment) Set(now time.Time) { m.ns.Store(int64(now.Sub(started))) }

// Clear makes the moment none.
func (m *Moment) Clear() { m.ns.Store(0) }

// None reports whether there is no time.
func (m *Moment) None() bool { return m.ns.Load() == 0 }

// Ago is for how long the moment has passed, the longest duration where there is none.
func (m *Moment) Ago(now time.Time) time.Duration {
	ns := m.ns.Load()
	if ns == 0 {
		return math.MaxInt64
	}
	return now.Sub(started) - time.Duration(ns)
}
