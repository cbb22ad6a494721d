package sink

import (
	"slices"
	"sync"
)

// places bounds how many destinations copy rows from the primary at the same time: each has one short read at a time. The
// others wait.
type places struct {
	mu      sync.Mutex
	free    int
	holders map[*Destination]bool
	waiting []*Destination
	off     bool // nobody gets a place, or keeps one
}

func newPlaces(n int) *places { return &places{free: n, holders: map[*Destination]bool{}} }

// take gives d a place, or notes that it waits for one and is to be nudged.
func (p *places) take(d *Destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.holders[d] && !p.off:
		return true
	case p.free == 0 || p.off:
		if p.holders[d] {
			delete(p.holders, d)
			p.free++
		}
		if !slices.Contains(p.waiting, d) {
			p.waiting = append(p.waiting, d)
		}
		return false
	}
	p.waiting = slices.DeleteFunc(p.waiting, func(o *Destination) bool { return o == d })
	p.free--
	p.holders[d] = true
	p.nudgeNext()
	return true
}

// nudgeNext wakes who waits longest while a place is free. It is called with mu held, which comes before a destination's.
func (p *places) nudgeNext() {
	if p.free > 0 && len(p.waiting) > 0 && !p.off {
		p.waiting[0].nudge()
	}
}

// leave gives the place back and nudges who waits longest. A destination without a place only stops waiting.
func (p *places) leave(d *Destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = slices.DeleteFunc(p.waiting, func(o *Destination) bool { return o == d })
	if p.holders[d] {
		delete(p.holders, d)
		p.free++
	}
	p.nudgeNext()
}

// hold switches backfills off or on. Who has a place gives it up before the next chunk.
func (p *places) hold(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off == off {
		return
	}
	p.off = off
	p.nudgeNext()
}
