package sink

import (
	"slices"
	"sync"
	"time"
)

// places bounds how many destinations copy rows from the primary at the same time: each has one short read at a time. The other
// destinations wait. A destination that has had a place for a turn lets the waiting destinations go first, so that slow databases do not
// keep all others from being filled.
type places struct {
	turn time.Duration

	mu      sync.Mutex
	free    int
	holders map[*Destination]time.Time // since when
	waiting []waiter                   // the longest waiting destination comes first
	off     bool                       // no destination gets or keeps a place
}

type waiter struct {
	d     *Destination
	after time.Time // until then the destination lets others go first
}

func newPlaces(n int, turn time.Duration) *places {
	return &places{turn: turn, free: n, holders: map[*Destination]time.Time{}}
}

// take gives d a place, or notes that d waits for a place and is to be nudged.
func (p *places) take(d *Destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, holds := p.holders[d]; holds && !p.off {
		return true
	}
	p.release(d)
	at := slices.IndexFunc(p.waiting, func(w waiter) bool { return w.d == d })
	if p.free == 0 || p.off || (at >= 0 && len(p.waiting) > 1 && time.Now().Before(p.waiting[at].after)) {
		if at < 0 {
			p.waiting = append(p.waiting, waiter{d: d})
		}
		return false
	}
	p.forget(d)
	p.free--
	p.holders[d] = time.Now()
	p.nudgeNext()
	return true
}

// yield gives up the place of a destination after a turn while others wait, and puts the destination at the end of the line.
func (p *places) yield(d *Destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since, holds := p.holders[d]
	if !holds || len(p.waiting) == 0 || time.Since(since) < p.turn {
		return false
	}
	p.release(d)
	p.waiting = append(p.waiting, waiter{d, time.Now().Add(p.turn)})
	time.AfterFunc(p.turn, d.nudge) // the destinations ahead in the line may never come
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
	if _, holds := p.holders[d]; holds {
		delete(p.holders, d)
		p.free++
	}
}

// forget takes d out of the line.
func (p *places) forget(d *Destination) {
	p.waiting = slices.DeleteFunc(p.waiting, func(w waiter) bool { return w.d == d })
}

// nudgeNext wakes the next destination in the line while a place is free. The lock mu comes before a destination's.
func (p *places) nudgeNext() {
	if p.free == 0 || len(p.waiting) == 0 || p.off {
		return
	}
	now := time.Now()
	next := max(0, slices.IndexFunc(p.waiting, func(w waiter) bool { return !now.Before(w.after) }))
	p.waiting[next].d.nudge()
}
