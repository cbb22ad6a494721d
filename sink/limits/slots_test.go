package limits

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// line is a number of users of slots, and the users nudged so far.
type line struct {
	slots  *Slots
	users  []*SlotUser
	mu     sync.Mutex // guards nudged: a timer nudges without the slots' lock
	nudged []int
}

// newLine has users with large copies.
func newLine(n, users int) *line {
	l := &line{slots: NewSlots(n, time.Second)}
	for i := range users {
		l.users = append(l.users, l.slots.User(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.nudged = append(l.nudged, i)
		}, time.AfterFunc))
		l.users[i].large = true
	}
	return l
}

// small makes users unknown ones, whose copies may be small.
func (l *line) small(users ...int) {
	for _, i := range users {
		l.users[i].large = false
	}
}

// take has users ask for a slot, in this order, and returns the users that got one.
func (l *line) take(users ...int) (got []int) {
	for _, i := range users {
		if l.users[i].Take() {
			got = append(got, i)
		}
	}
	return got
}

// calls are the users nudged since the last call.
func (l *line) calls() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := l.nudged
	l.nudged = nil
	return calls
}

func want(t *testing.T, what string, got []int, expected ...int) {
	t.Helper()
	if !slices.Equal(got, expected) {
		t.Errorf("%s: %v; expected %v", what, got, expected)
	}
}

func TestBackfillSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(2, 5)
		want(t, "the first", l.take(0, 1, 2, 3), 0, 1)
		want(t, "a holder keeps the slot", l.take(0), 0)
		want(t, "no slot is free", l.calls())
		l.users[0].Leave()
		want(t, "the longest waiting", l.calls(), 2)
		want(t, "the nudged user comes", l.take(2), 2)
		l.users[3].Leave() // waits no more
		l.users[1].Leave()
		want(t, "no user waits", l.calls())

		// A nudged user that does not come keeps no slot free.
		want(t, "a free slot", l.take(0, 3, 4), 0)
		l.users[2].Leave()
		want(t, "the longest waiting", l.calls(), 3)
		time.Sleep(copyCall)
		synctest.Wait()
		want(t, "the next", l.calls(), 4)
		want(t, "the next comes", l.take(4), 4)
		want(t, "too late", l.take(3))
	})
}

func TestBackfillSlotsYield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1, 3)
		want(t, "the first", l.take(0, 1), 0)
		if l.users[0].Yield(false) {
			t.Error("a slot is given up before the end of a turn")
		}
		time.Sleep(time.Second)
		if !l.users[0].Yield(false) {
			t.Error("a slot is kept after a turn, and another user waits")
		}
		want(t, "the waiting user", l.calls(), 1)
		want(t, "a user that had a turn waits for its next turn", l.take(0, 1), 1)
		want(t, "a user without a turn waits behind", l.take(2))
		l.users[1].Leave()
		want(t, "users without a turn go first", l.calls(), 2)
		if l.users[2].Yield(false) {
			t.Error("a user without a slot yields")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// A database that owes an answer keeps no slot from the others, and no more chunks are in memory than there may be.
func TestLateBackfills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = ChunksPerSlot + 3
		l := newLine(1, users)
		for i := range ChunksPerSlot {
			want(t, fmt.Sprintf("slot %d", i), l.take(i), i)
			l.users[i].AsksWithChunk()
			want(t, "the slot is taken", l.take(i+1))
			time.Sleep(copyLate)
			synctest.Wait()
		}
		want(t, "as many chunks are in memory as there may be", l.take(ChunksPerSlot))
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// A database that was slow in a chunk has a part of the slots only.
func TestSlowBackfills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(2, 4)
		for _, u := range l.users[:3] {
			if !u.Take() {
				t.Fatal("there is no slot")
			}
			done := u.AsksWithChunk()
			time.Sleep(copyLate + 1)
			done()
			if u.ChunkDone(); !u.Slow() {
				t.Error("a database that took long is not slow")
			}
			u.Leave()
		}
		want(t, "one slot of two is for slow databases", l.take(0, 1, 2, 3), 0, 3)
		l.users[0].Leave()
		want(t, "the slot goes to the next slow database", l.take(1), 1)
		done := l.users[1].AsksWithChunk()
		done()
		if l.users[1].ChunkDone(); l.users[1].Slow() {
			t.Error("a database stays slow for good")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

func TestBackfillsSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1, 2)
		want(t, "the first", l.take(0), 0)
		l.slots.Hold(true)
		want(t, "off", l.take(0, 1))
		l.users[0].Asks()()
		l.users[0].ChunkDone()
		l.slots.Hold(false)
		want(t, "on", l.calls(), 0)
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// Small copies pass beside large ones, as many as there may be chunks in memory. A copy that proves large gets into the line behind the others, or
// takes a free slot, and never passes again.
func TestSmallBackfillsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = ChunksPerSlot + 3
		l := newLine(1, users)
		l.small(2, 3, 4, 5, 6)
		want(t, "the slot", l.take(0, 1), 0)
		want(t, "beside the slot", l.take(2, 3, 4, 5, 6), 2, 3, 4)
		time.Sleep(time.Second)
		want(t, "large copies wait for a slot", l.take(1))
		if l.users[2].Yield(false) != true {
			t.Error("a copy keeps its place for longer than a turn, and others wait")
		}
		want(t, "a small copy without a turn goes first", l.calls(), 5)
		want(t, "it comes", l.take(5), 5)
		if !l.users[3].Yield(true) {
			t.Error("a copy that proves large stays beside the slot")
		}
		want(t, "the next small copy", l.calls(), 6)
		want(t, "the large one waits now", l.take(3))
		l.users[0].Leave()
		want(t, "the slot goes to a large copy without a turn", l.calls(), 1)
		want(t, "it comes", l.take(6, 3, 1), 6, 1)
		l.users[1].Leave()
		if l.users[4].Yield(true) {
			t.Error("a copy that proves large does not take the free slot")
		}
		want(t, "the slot is taken", l.take(3, 1))
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// A database that was slow in a chunk passes no others, and chunks that wait for late databases bound the copies beside the slots.
func TestSlowSmallBackfills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1, ChunksPerSlot+2)
		l.small(1, 2, 3, 4, 5)
		l.users[1].slow = true
		want(t, "the slot, and beside the slot", l.take(0, 1, 2, 3), 0, 2, 3)
		for _, i := range []int{0, 2, 3} {
			l.users[i].AsksWithChunk()
		}
		time.Sleep(copyLate)
		synctest.Wait()
		want(t, "the last chunk is for the free slot", l.take(4, 5), 4)
		l.users[3].slow = true
		if !l.users[3].Yield(false) {
			t.Error("a database that was slow stays beside the slots")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}
