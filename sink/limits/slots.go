package limits

import (
	"slices"
	"sync"
	"time"
)

// Slots bounds how many destinations copy rows from the primary at the same time: each has one short read at a time. The other
// destinations wait. A destination that has had a slot for a turn lets the waiting destinations go first, and destinations without a turn
// yet go before all others, so that neither huge copies nor slow databases keep a small database from being filled. Databases which are slow in
// a chunk share a part of the slots; while a database owes an answer for long, another destination has the slot.
//
// Small copies pass beside the slots: a destination begins without a slot, and goes on as long as each chunk reads its table to the end. With
// the first larger table the destination gets into the line. The number of chunks in memory bounds the copies beside the slots. Safe for
// concurrent use.
type Slots struct {
	n    int
	turn time.Duration

	mu      sync.Mutex
	holders map[*SlotUser]*slot
	waiting []waiter // the longest waiting user comes first
	off     bool     // no user gets or keeps a slot
}

// SlotUser is a destination in the eyes of the slots. A user outlives the destination's sessions. Safe for concurrent use.
type SlotUser struct {
	slots *Slots
	nudge func()                                  // tells the destination that there may be a slot; may be called with the slots' lock held
	after func(time.Duration, func()) *time.Timer // [time.AfterFunc], or a kind that contains panics

	// The slots' lock guards both fields.
	slow  bool // the external database was slow in the last chunk
	large bool // a table of a copy was larger than a chunk
}

// slot is a slot that a user has.
type slot struct {
	beside bool // does not count among the slots
	since  time.Time
	asked  time.Time     // since when the external database works for the user; zero: does not
	chunk  bool          // with a chunk in hand, which is in memory
	took   time.Duration // what the database took so far for the chunk in hand
}

type waiter struct {
	user   *SlotUser
	slow   bool
	after  time.Time // until then the user lets others go first; zero: has had no turn
	called bool      // the user was nudged to take a slot, and has not come yet
}

// The measures of the slots. ChunksPerSlot times the number of slots is how many chunks there may be in memory, the late ones included.
const (
	copyTurn      = 2 * time.Second        // at most
	copyLate      = time.Second            // a database that takes longer than that for a chunk is slow
	copyCall      = 200 * time.Millisecond // a nudged user that has not come by then keeps no slot free
	ChunksPerSlot = 4
)

// NewSlots makes n slots. turn is how long a user keeps a slot while others wait, at most copyTurn.
func NewSlots(n int, turn time.Duration) *Slots {
	return &Slots{n: n, turn: min(turn, copyTurn), holders: map[*SlotUser]*slot{}}
}

// User returns a user without a slot.
func (s *Slots) User(nudge func(), after func(time.Duration, func()) *time.Timer) *SlotUser {
	return &SlotUser{slots: s, nudge: nudge, after: after}
}

// Hold switches backfills off or on. A user gives its slot up before the next chunk.
func (s *Slots) Hold(off bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off == off {
		return
	}
	s.off = off
	s.nudgeNextLocked()
}

// roomLocked reports whether there is a slot for a user, or, beside the slots, room for a small copy.
func (s *Slots) roomLocked(u *SlotUser) (room, beside bool) {
	now, timely, chunks, slows, holders := time.Now(), 0, 0, 0, 0
	for u, h := range s.holders {
		late := !h.asked.IsZero() && now.Sub(h.asked) >= copyLate
		if !h.beside {
			holders++
		}
		if !late && !h.beside {
			timely++
		}
		if !late || h.chunk {
			chunks++
		}
		if u.slow {
			slows++
		}
	}
	if u.slow {
		return holders < s.n && slows < max(1, s.n/2), false
	}
	all := ChunksPerSlot * s.n
	beside = !u.large && chunks+max(s.n-timely, 0) < all // a free slot keeps its chunk
	return beside || timely < s.n && chunks < all, beside
}

func (s *Slots) hasRoomLocked(u *SlotUser) bool {
	room, _ := s.roomLocked(u)
	return room
}

func (s *Slots) nudgeNext() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nudgeNextLocked()
}

// nudgeNextLocked nudges the next user in the line while a slot is free. The user's destination connects first, and its server may be silent by
// now: where the user does not come soon, the next user is nudged too.
func (s *Slots) nudgeNextLocked() {
	if len(s.waiting) == 0 || s.off {
		return
	}
	now := time.Now()
	for _, goes := range []func(waiter) bool{
		func(w waiter) bool { return !w.slow && w.after.IsZero() },
		func(w waiter) bool { return !now.Before(w.after) },
		func(waiter) bool { return true },
	} {
		next := slices.IndexFunc(s.waiting, func(w waiter) bool { return !w.called && goes(w) && s.hasRoomLocked(w.user) })
		if next < 0 {
			continue
		}
		s.waiting[next].called = true
		u := s.waiting[next].user
		u.nudge()
		u.after(copyCall, s.nudgeNext)
		return
	}
}

// Take gives the user a slot, or notes that the user waits for a slot and is to be nudged.
func (u *SlotUser) Take() bool {
	s := u.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, holds := s.holders[u]; holds && !s.off {
		return true
	}
	delete(s.holders, u)
	at := slices.IndexFunc(s.waiting, func(w waiter) bool { return w.user == u })
	room, beside := s.roomLocked(u)
	if !room || s.off || (at >= 0 && len(s.waiting) > 1 && time.Now().Before(s.waiting[at].after)) {
		if at < 0 {
			s.waiting = append(s.waiting, waiter{user: u, slow: u.slow})
		} else {
			s.waiting[at].called = false
		}
		return false
	}
	u.stopWaitingLocked()
	s.holders[u] = &slot{since: time.Now(), beside: beside}
	s.nudgeNextLocked()
	return true
}

// Asks says that the external database begins to answer a question about the copy, with no chunk in hand. The caller calls done when the database
// has answered. A user without a slot may call Asks too.
func (u *SlotUser) Asks() (done func()) { return u.asks(false) }

// AsksWithChunk is Asks where a chunk may be in hand: the external database takes the chunk, or live changes between the chunks.
func (u *SlotUser) AsksWithChunk() (done func()) { return u.asks(true) }

func (u *SlotUser) asks(chunk bool) (done func()) {
	s := u.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[u]
	if h == nil {
		return func() {}
	}
	h.asked, h.chunk = time.Now(), chunk
	late := u.after(copyLate, s.nudgeNext)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late.Stop()
		h.took, h.asked = h.took+time.Since(h.asked), time.Time{}
	}
}

// ChunkDone ends the chunk in hand. From then on the user counts as slow where its database was slow in the chunk.
func (u *SlotUser) ChunkDone() {
	s := u.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[u]
	if u.slow = h != nil && h.took > copyLate; h != nil { // else copies were switched off meanwhile
		h.took = 0
	}
}

// Slow reports whether the external database was slow in the last chunk.
func (u *SlotUser) Slow() bool {
	u.slots.mu.Lock()
	defer u.slots.mu.Unlock()
	return u.slow
}

// Yield gives up the slot after a turn while others wait, and puts the user at the end of the line. within says that the copy is within a table,
// so that the copy is large: a user beside the slots then takes a slot, or yields at once, and so does a user whose database was slow.
func (u *SlotUser) Yield(within bool) bool {
	s := u.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	u.large = u.large || within
	h := s.holders[u]
	switch {
	case h == nil:
		return false
	case h.beside && (u.large || u.slow):
		delete(s.holders, u)
		if s.hasRoomLocked(u) {
			s.holders[u] = h
			h.beside, h.since = false, time.Now()
			return false
		}
	case len(s.waiting) == 0 || time.Since(h.since) < s.turn:
		return false
	default:
		delete(s.holders, u)
	}
	s.waiting = append(s.waiting, waiter{user: u, slow: u.slow, after: time.Now().Add(s.turn)})
	u.after(s.turn, u.nudge) // the users ahead in the line may never come
	s.nudgeNextLocked()
	return true
}

// Leave gives the slot back and nudges the longest waiting user. A user without a slot only stops waiting.
func (u *SlotUser) Leave() {
	s := u.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	u.stopWaitingLocked()
	delete(s.holders, u)
	s.nudgeNextLocked()
}

// stopWaitingLocked takes the user out of the line.
func (u *SlotUser) stopWaitingLocked() {
	u.slots.waiting = slices.DeleteFunc(u.slots.waiting, func(w waiter) bool { return w.user == u })
}
