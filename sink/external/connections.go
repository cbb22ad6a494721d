package external

import (
	"context"
	"slices"
	"sync"
	"time"

	"outflow/internal/moment"
)

// dialsAtOnce bounds how many connections are being made at the same time, so that five hundred databases that come back together
// are met in turn.
const dialsAtOnce = 8

// Of the dials, some are left for destinations that are well, whatever the doubtful destinations do.
const (
	failedDials  = dialsAtOnce / 2 // to databases that failed the last time
	unknownDials = dialsAtOnce - 2 // to databases that have not answered since the start
)

// While a destination waits, a server may owe an answer for so long; then the place may be taken.
const (
	placePatience = time.Second            // of a destination that was well
	doubtPatience = 400 * time.Millisecond // of a doubtful destination; doubled with each failure in a row
	longPatience  = time.Minute
)

// lookEvery is how often the waiting destinations are looked at while a destination waits.
const lookEvery = 100 * time.Millisecond

// placeTurn is how long a working destination keeps its connection while others wait.
const placeTurn = time.Second

// Connections is the budget of connections to external databases. Destinations that were well go first. The doubtful destinations, which
// failed the last time or have not answered since the start, share a part of the places, and so do destinations whose servers do not answer.
// An idle connection is kept for a while, and given up early when another destination waits. Safe for concurrent use.
type Connections struct {
	limit int

	mu      sync.Mutex
	held    map[*Place]struct{}
	waiting []*Place // in the order in which places are given
	idle    []*Place // longest idle first
	looking bool     // a timer runs: see look
}

// Place is the right to hold a connection, or the wait for the right.
type Place struct {
	doubts   int           // failures in a row
	doubtful bool          // until the external database has answered
	dialing  bool          // until the connection is made, or given up
	pool     *Connections  // of which the place is a part
	given    chan struct{} // closed when the place is given
	since    time.Time     // when the place was given
	end      func(*Place)  // ends the work of the holder; nil: cannot be ended
	close    func()        // closes the idle connection; nil unless idle
	ended    bool
	owes     moment.Moment // since when the server owes an answer; none: owes none
}

// NewPlace is a place to be taken. doubts is the number of failures in a row; doubtful says that the external database has not answered lately.
// Where another destination needs the connection and the server owes an answer for too long, the budget calls end, without a lock held and
// from any goroutine: end ends the work of the holder, or spares the turn. With nil the work cannot be ended.
func NewPlace(doubts int, doubtful bool, end func(*Place)) *Place {
	return &Place{doubts: doubts, doubtful: doubtful, end: end}
}

// NewConnections is a budget of so many connections.
func NewConnections(limit int) *Connections {
	return &Connections{limit: limit, held: map[*Place]struct{}{}}
}

// ask is called when the external server is asked for something; answered, when the server has answered, or will not.
func (p *Place) ask()      { p.owes.Set(time.Now()) }
func (p *Place) answered() { p.owes.Clear() }

// Owing reports whether the server owes an answer.
func (p *Place) Owing() bool { return !p.owes.None() }

// owed is for how long the server has owed an answer.
func (p *Place) owed(now time.Time) time.Duration {
	if p.owes.None() {
		return 0
	}
	return p.owes.Ago(now)
}

// weak reports whether the place counts in the part of the doubtful.
func (p *Place) weak(now time.Time) bool { return p.doubtful || p.owed(now) > placePatience }

// patience is for how long the server of a doubtful destination may owe an answer while others in doubt wait.
func (p *Place) patience() time.Duration { return min(doubtPatience<<min(p.doubts, 10), longPatience) }

// before reports whether p is given a place before q.
func (p *Place) before(q *Place) bool {
	if p.doubtful != q.doubtful {
		return q.doubtful
	}
	return p.doubtful && p.doubts < q.doubts
}

// Take waits for a place, until ctx is done or the process stops. The holder says when the connection was made, and gives the place back.
func (c *Connections) Take(ctx context.Context, stop <-chan struct{}, p *Place) error {
	p.pool, p.given, p.dialing = c, make(chan struct{}), true
	c.mu.Lock()
	at := slices.IndexFunc(c.waiting, p.before)
	if at < 0 {
		at = len(c.waiting)
	}
	c.waiting = slices.Insert(c.waiting, at, p)
	c.giveLocked(time.Now())
	victim := c.idlestLocked()
	c.mu.Unlock()
	if victim != nil {
		victim()
	}
	select {
	case <-p.given:
		return nil
	case <-stop:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = slices.DeleteFunc(c.waiting, func(q *Place) bool { return q == p })
	c.drop(p)
	return context.Canceled
}

// dialed says that the connection was made.
func (p *Place) dialed() {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.dialing = false
	p.answered()
	p.pool.giveLocked(time.Now())
}

// Trust says that the destination is well.
func (p *Place) Trust() {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.doubtful {
		p.doubtful = false
		p.pool.giveLocked(time.Now())
	}
}

// release gives the place back.
func (p *Place) release() {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.pool.drop(p)
}

// drop takes a place from the held and the idle places.
func (c *Connections) drop(p *Place) {
	c.stir(p)
	delete(c.held, p)
	c.giveLocked(time.Now())
}

// stir takes a place from the idle places.
func (c *Connections) stir(p *Place) {
	if i := slices.Index(c.idle, p); i >= 0 {
		c.idle = slices.Delete(c.idle, i, i+1)
	}
	p.close = nil
}

// Crowded reports whether a waiting destination would get the place, were the place given back. Destinations that wait for other things, as
// for a turn to dial, or for the part of the doubtful, gain nothing from the places of others.
func (p *Place) Crowded() bool {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	return p.pool.wantedLocked(p)
}

// TurnOver reports whether the holder of the place has had a turn, and another destination waits for the place.
func (p *Place) TurnOver() bool {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	return time.Since(p.since) > placeTurn && p.pool.wantedLocked(p)
}

// Rest notes that the connection of the place is idle. Where another destination needs the place later, the pool calls close, without a lock
// held and from any goroutine. The result is false when another destination waits for the place already, and the connection should be closed
// at once.
func (p *Place) Rest(close func()) bool {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.pool.wantedLocked(p) {
		return false
	}
	p.close = close
	p.pool.idle = append(p.pool.idle, p)
	return true
}

// Busy takes the connection back from the idle connections.
func (p *Place) Busy() {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.pool.stir(p)
}

// Spare lets a turn go on: the server has answered meanwhile.
func (p *Place) Spare() {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.ended = false
}

// wantedLocked is [Place.Crowded] for a holder of the lock. The place nil is the place of any destination that is well.
func (c *Connections) wantedLocked(p *Place) bool {
	if len(c.waiting) == 0 {
		return false
	}
	now := time.Now()
	n := c.countLocked(now)
	n.less(p, now)
	return slices.ContainsFunc(c.waiting, func(q *Place) bool { return n.fits(c, q) })
}

// idlestLocked takes the longest idle place from the idle places, where another destination waits for a connection, and returns the function that
// closes the connection; nil is none.
func (c *Connections) idlestLocked() (close func()) {
	if len(c.idle) == 0 || len(c.held) < c.limit || !c.wantedLocked(nil) {
		return nil
	}
	close = c.idle[0].close
	c.stir(c.idle[0])
	return close
}

// giveLocked gives places to the waiting destinations, in order.
func (c *Connections) giveLocked(now time.Time) {
	n := c.countLocked(now)
	c.waiting = slices.DeleteFunc(c.waiting, func(p *Place) bool {
		if !n.fits(c, p) {
			return false
		}
		c.held[p] = struct{}{}
		p.since = now
		p.owes.Set(now)
		n.add(p, now)
		close(p.given)
		return true
	})
	if len(c.waiting) > 0 && !c.looking {
		c.looking = true
		time.AfterFunc(lookEvery, c.look)
	}
}

// shareLocked is how many places the doubtful may have.
func (c *Connections) shareLocked() int { return max(1, c.limit/2) }

// census counts the held places.
type census struct{ held, weak, dialing, weakDialing int }

func (c *Connections) countLocked(now time.Time) (n census) {
	for p := range c.held {
		n.add(p, now)
	}
	return n
}

func (n *census) add(p *Place, now time.Time) {
	n.held++
	if p.weak(now) {
		n.weak++
	}
	if p.dialing {
		n.dialing++
		if p.doubtful {
			n.weakDialing++
		}
	}
}

// less takes an idle or working place out of the count.
func (n *census) less(p *Place, now time.Time) {
	n.held--
	if p != nil && p.weak(now) {
		n.weak--
	}
}

// fits reports whether there is a place for p.
func (n *census) fits(c *Connections, p *Place) bool {
	if n.held >= c.limit || n.dialing >= dialsAtOnce {
		return false
	}
	return !p.doubtful || n.weak < c.shareLocked() && n.weakDialing < p.dials()
}

// dials is how many doubtful dials there may be at a time for p to dial.
func (p *Place) dials() int {
	if p.doubts > 0 {
		return failedDials
	}
	return unknownDials
}

// look makes room for the destinations at the head of the line, again and again while a destination waits.
func (c *Connections) look() {
	c.mu.Lock()
	now := time.Now()
	c.looking = false
	c.giveLocked(now)
	victim, late := c.idlestLocked(), c.lateLocked(now)
	c.mu.Unlock()
	if victim != nil {
		victim()
	}
	for _, p := range late {
		p.end(p)
	}
}

// lateLocked are the places whose turn ends for the destinations that wait first: a place for each, the longest owed first.
func (c *Connections) lateLocked(now time.Time) (late []*Place) {
	n, ending := c.countLocked(now), 0
	for p := range c.held {
		if p.ended {
			ending++
			n.weak--
		}
	}
	for i, p := range c.waiting[:min(len(c.waiting), dialsAtOnce)] {
		if i < ending {
			continue // a place is on its way
		}
		var longest *Place
		for h := range c.held {
			if h.due(c, p, n, now) && (longest == nil || h.owed(now) > longest.owed(now)) {
				longest = h
			}
		}
		if longest == nil {
			break
		}
		longest.ended = true
		late, ending, n.weak = append(late, longest), ending+1, n.weak-1
	}
	return late
}

// due reports whether the turn of h ends for p. Only a place in the part of the doubtful is ever due: a server that answers keeps the place
// until the end of the batch.
func (h *Place) due(c *Connections, p *Place, n census, now time.Time) bool {
	owed := h.owed(now)
	if h.ended || h.end == nil || owed <= doubtPatience || !h.weak(now) {
		return false
	}
	full := n.held >= c.limit
	dials := n.dialing >= dialsAtOnce || p.doubtful && n.weakDialing >= p.dials()
	crowded := full && n.weak > min(c.shareLocked(), c.limit-1) // the doubtful have more than their part
	switch {
	case dials && !h.dialing:
		return false
	case crowded:
		return true
	case !p.doubtful:
		return dials
	}
	return owed > h.patience() || h.doubts > p.doubts
}
