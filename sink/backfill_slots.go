package sink

import (
	"slices"
	"sync"
	"time"
)

// backfillSlots bounds how many destinations copy rows from the primary at the same time: each has one short read at a time. The other
// destinations wait. A destination that has had a place for a turn lets the waiting destinations go first, and destinations without a turn
// yet go before all others, so that neither huge copies nor slow databases keep a small database from being filled. Databases which are slow in
// a chunk share a part of the places; while a database owes an answer for long, another destination has the place.
type backfillSlots struct {
	n    int
	turn time.Duration

	mu      sync.Mutex
	holders map[*Destination]*backfillSlot
	waiting []waiter // the longest waiting destination comes first
	off     bool     // no destination gets or keeps a place
}

// backfillSlot is a destination with a place.
type backfillSlot struct {
	since time.Time
	asked time.Time     // since when the external database works for the destination; zero: does not
	chunk bool          // with a chunk in hand, which is in memory
	took  time.Duration // what the database took so far for the chunk in hand
	slow  bool          // the database was slow in the last chunk
}

type waiter struct {
	d      *Destination
	slow   bool
	after  time.Time // until then the destination lets others go first; zero: has had no turn
	called bool      // the destination was woken to take a place, and has not come yet
}

const (
	copyTurn  = 2 * time.Second // at the most
	copyLate  = time.Second     // a database that takes longer than that for a chunk is slow
	copyCall  = watchEvery * 2  // a woken destination that has not come by then keeps no place free
	copiesMax = 4               // times the number of places: so many chunks there may be in memory, the late ones included
)

func newBackfillSlots(n int, turn time.Duration) *backfillSlots {
	return &backfillSlots{n: n, turn: min(turn, copyTurn), holders: map[*Destination]*backfillSlot{}}
}

// hasRoomLocked reports whether there is a place for a destination.
func (p *backfillSlots) hasRoomLocked(slow bool) bool {
	now, timely, chunks, slows := time.Now(), 0, 0, 0
	for _, h := range p.holders {
		late := !h.asked.IsZero() && now.Sub(h.asked) >= copyLate
		if !late {
			timely++
		}
		if !late || h.chunk {
			chunks++
		}
		if h.slow {
			slows++
		}
	}
	if slow {
		return len(p.holders) < p.n && slows < max(1, p.n/2)
	}
	return timely < p.n && chunks < copiesMax*p.n
}

// asks says that the external database of d begins to work: takes a chunk, answers a question about the copy, or takes live changes between the
// chunks. chunk says that a chunk may be in hand. The caller calls done when the work has ended. A destination without a place may call asks too.
func (p *backfillSlots) asks(d *Destination, chunk bool) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holders[d]
	if h == nil {
		return func() {}
	}
	h.asked, h.chunk = time.Now(), chunk
	late := d.after(copyLate, p.nudgeNext)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late.Stop()
		h.took, h.asked = h.took+time.Since(h.asked), time.Time{}
	}
}

// taken reports whether the external database of d was slow in the chunk in hand, which is done with.
func (p *backfillSlots) taken(d *Destination) (slow bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holders[d]
	if h == nil { // copies were switched off meanwhile
		return false
	}
	h.slow, h.took = h.took > copyLate, 0
	return h.slow
}

// take gives d a place, or notes that d waits for a place and is to be nudged. slow says that the database was slow to take the last chunk.
func (p *backfillSlots) take(d *Destination, slow bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, holds := p.holders[d]; holds && !p.off {
		return true
	}
	p.releaseLocked(d)
	at := slices.IndexFunc(p.waiting, func(w waiter) bool { return w.d == d })
	if !p.hasRoomLocked(slow) || p.off || (at >= 0 && len(p.waiting) > 1 && time.Now().Before(p.waiting[at].after)) {
		if at < 0 {
			p.waiting = append(p.waiting, waiter{d: d, slow: slow})
		} else {
			p.waiting[at].called = false
		}
		return false
	}
	p.stopWaitingLocked(d)
	p.holders[d] = &backfillSlot{since: time.Now(), slow: slow}
	p.nudgeNextLocked()
	return true
}

// yield gives up the place of a destination after a turn while others wait, and puts the destination at the end of the line.
func (p *backfillSlots) yield(d *Destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holders[d]
	if h == nil || len(p.waiting) == 0 || time.Since(h.since) < p.turn {
		return false
	}
	p.releaseLocked(d)
	p.waiting = append(p.waiting, waiter{d: d, slow: h.slow, after: time.Now().Add(p.turn)})
	d.after(p.turn, d.nudge) // the destinations ahead in the line may never come
	p.nudgeNextLocked()
	return true
}

// leave gives the place back and nudges the longest waiting destination. A destination without a place only stops waiting.
func (p *backfillSlots) leave(d *Destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopWaitingLocked(d)
	p.releaseLocked(d)
	p.nudgeNextLocked()
}

// hold switches backfills off or on. A destination with a place gives the place up before the next chunk.
func (p *backfillSlots) hold(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off == off {
		return
	}
	p.off = off
	p.nudgeNextLocked()
}

// releaseLocked takes d's place, if d has a place.
func (p *backfillSlots) releaseLocked(d *Destination) {
	delete(p.holders, d)
}

// stopWaitingLocked takes d out of the line.
func (p *backfillSlots) stopWaitingLocked(d *Destination) {
	p.waiting = slices.DeleteFunc(p.waiting, func(w waiter) bool { return w.d == d })
}

// nudgeNextLocked is nudgeNextLocked for a caller without mu.
func (p *backfillSlots) nudgeNext() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nudgeNextLocked()
}

// nudgeNextLocked wakes the next destination in the line while a place is free. The woken destination connects first, and its server may be silent by
// now: where the destination does not come soon, the next is woken too. The lock mu comes before a destination's.
func (p *backfillSlots) nudgeNextLocked() {
	if len(p.waiting) == 0 || p.off {
		return
	}
	now := time.Now()
	for _, goes := range []func(waiter) bool{
		func(w waiter) bool { return !w.slow && w.after.IsZero() },
		func(w waiter) bool { return !now.Before(w.after) },
		func(waiter) bool { return true },
	} {
		next := slices.IndexFunc(p.waiting, func(w waiter) bool { return !w.called && goes(w) && p.hasRoomLocked(w.slow) })
		if next < 0 {
			continue
		}
		p.waiting[next].called = true
		d := p.waiting[next].d
		d.nudge()
		d.after(copyCall, p.nudgeNext)
		return
	}
}
