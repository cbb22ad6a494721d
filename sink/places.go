package sink

import (
	"slices"
	"sync"
	"time"
)

// places bounds how many destinations copy rows from the primary at the same time: each has one short read at a time. The other
// destinations wait. A destination that has had a place for a turn lets the waiting destinations go first, and destinations without a turn
// yet go before all others, so that neither huge copies nor slow databases keep a small database from being filled. Databases which are slow to
// take a chunk share a part of the places; while a database takes a chunk for long, another destination has the place.
type places struct {
	n    int
	turn time.Duration

	mu      sync.Mutex
	holders map[*Destination]*copyPlace
	waiting []waiter // the longest waiting destination comes first
	off     bool     // no destination gets or keeps a place
}

// copyPlace is a destination with a place.
type copyPlace struct {
	since    time.Time
	applying time.Time // since when the external database takes a chunk; zero: takes none
	slow     bool      // the database was slow to take the last chunk
}

type waiter struct {
	d     *Destination
	slow  bool
	after time.Time // until then the destination lets others go first; zero: has had no turn
}

const (
	copyTurn  = 2 * time.Second // at the most
	copyLate  = time.Second     // a chunk that takes longer than that is slow
	copiesMax = 4               // times the number of places: so many chunks there may be in memory, the late ones included
)

func newPlaces(n int, turn time.Duration) *places {
	return &places{n: n, turn: min(turn, copyTurn), holders: map[*Destination]*copyPlace{}}
}

// room reports whether there is a place for a destination. It is called with mu held.
func (p *places) room(slow bool) bool {
	now, timely, slows := time.Now(), 0, 0
	for _, h := range p.holders {
		if h.applying.IsZero() || now.Sub(h.applying) < copyLate {
			timely++
		}
		if h.slow {
			slows++
		}
	}
	if slow {
		return len(p.holders) < p.n && slows < max(1, p.n/2)
	}
	return timely < p.n && len(p.holders) < copiesMax*p.n
}

// apply says that d's external database begins to take a chunk. The caller calls done when the chunk is taken; done reports whether the
// database was slow.
func (p *places) apply(d *Destination) (done func() (slow bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holders[d]
	if h == nil { // copies were switched off meanwhile
		return func() bool { return false }
	}
	h.applying = time.Now()
	late := time.AfterFunc(copyLate, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.nudgeNext()
	})
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		late.Stop()
		h.slow, h.applying = time.Since(h.applying) > copyLate, time.Time{}
		return h.slow
	}
}

// take gives d a place, or notes that d waits for a place and is to be nudged. slow says that the database was slow to take the last chunk.
func (p *places) take(d *Destination, slow bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, holds := p.holders[d]; holds && !p.off {
		return true
	}
	p.release(d)
	at := slices.IndexFunc(p.waiting, func(w waiter) bool { return w.d == d })
	if !p.room(slow) || p.off || (at >= 0 && len(p.waiting) > 1 && time.Now().Before(p.waiting[at].after)) {
		if at < 0 {
			p.waiting = append(p.waiting, waiter{d: d, slow: slow})
		}
		return false
	}
	p.forget(d)
	p.holders[d] = &copyPlace{since: time.Now(), slow: slow}
	p.nudgeNext()
	return true
}

// yield gives up the place of a destination after a turn while others wait, and puts the destination at the end of the line.
func (p *places) yield(d *Destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holders[d]
	if h == nil || len(p.waiting) == 0 || time.Since(h.since) < p.turn {
		return false
	}
	p.release(d)
	p.waiting = append(p.waiting, waiter{d, h.slow, time.Now().Add(p.turn)})
	d.after(p.turn, d.nudge) // the destinations ahead in the line may never come
	p.nudgeNext()
	return true
}

// leave gives the place back and nudges the longest waiting destination. A destination without a place only stops waiting.
func (p *places) leave(d *Destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(d)
	p.release(d)
	p.nudgeNext()
}

// hold switches backfills off or on. A destination with a place gives the place up before the next chunk.
func (p *places) hold(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off == off {
		return
	}
	p.off = off
	p.nudgeNext()
}

// release takes d's place, if d has a place. It is called with mu held, like the functions below.
func (p *places) release(d *Destination) {
	delete(p.holders, d)
}

// forget takes d out of the line.
func (p *places) forget(d *Destination) {
	p.waiting = slices.DeleteFunc(p.waiting, func(w waiter) bool { return w.d == d })
}

// nudgeNext wakes the next destination in the line while a place is free. The lock mu comes before a destination's.
func (p *places) nudgeNext() {
	if len(p.waiting) == 0 || p.off {
		return
	}
	now := time.Now()
	for _, goes := range []func(waiter) bool{
		func(w waiter) bool { return !w.slow && w.after.IsZero() },
		func(w waiter) bool { return !now.Before(w.after) },
		func(waiter) bool { return true },
	} {
		if next := slices.IndexFunc(p.waiting, func(w waiter) bool { return goes(w) && p.room(w.slow) }); next >= 0 {
			p.waiting[next].d.nudge()
			return
		}
	}
}
