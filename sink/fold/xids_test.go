package fold

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"outflow/replication/wal"
)

// TestXIDs compares the bits with a map, over ids that come round at 2^32 and jump by more than the window. An id that was
// in the stream is never denied; one that was not is denied wherever the window is exact.
func TestXIDs(t *testing.T) {
	x := NewXIDs()
	rapid.Check(t, func(t *rapid.T) {
		clear(x.seen) // 2 MiB: one for all runs
		*x = XIDs{seen: x.seen, before: map[uint32]bool{}}
		next := rapid.SampledFrom([]uint32{3, 1 << 24, 1 << 31, math.MaxUint32 - 3, math.MaxUint32 - xidWindow}).Draw(t, "first")
		seen, exact := map[uint32]bool{}, true
		newest := next
		for range rapid.IntRange(1, 60).Draw(t, "transactions") {
			step := rapid.SampledFrom([]uint32{0, 1, 2, 3, 63, 64, 65, 1000, xidWindow, xidWindow + 1, 3*xidWindow + 7}).Draw(t, "ahead")
			back := rapid.SampledFrom([]uint32{0, 0, 0, 1, 2, 5, 64, 1000}).Draw(t, "behind") // commits are not in the order of ids
			if step >= xidWindow {
				back = 0 // a step that is just within the window takes time: see TestXIDsWithinTheWindow
			}
			xid := newest + step - back
			x.Add(xid)
			seen[xid] = true
			if int32(xid-newest) > 0 {
				newest = xid
			}
			exact = exact && newest-xid < xidWindow
			if !x.maybe(xid) {
				t.Fatalf("%d is denied right after it came", xid)
			}
		}
		for xid := range seen {
			if !x.maybe(xid) {
				t.Fatalf("%d was in the stream and is denied; the newest is %d", xid, newest)
			}
			for _, near := range []uint32{xid - 1, xid + 1, xid + 64, xid + xidWindow} {
				ahead := int32(near-newest) > 0
				if ahead && x.maybe(near) {
					t.Fatalf("%d is ahead of the newest, %d, and is not denied", near, newest)
				}
				if exact && !ahead && newest-near < xidWindow && x.maybe(near) != seen[near] {
					t.Fatalf("maybe(%d) is %v; the newest is %d", near, x.maybe(near), newest)
				}
			}
		}
	})
}

// A step over nearly the whole window forgets what it passes over, and nothing else.
func TestXIDsWithinTheWindow(t *testing.T) {
	x := NewXIDs()
	first := uint32(math.MaxUint32 - 1)
	for _, xid := range []uint32{first, first + 5, first + 70} {
		x.Add(xid)
	}
	newest := first + xidWindow - 1
	x.Add(newest)
	for xid, want := range map[uint32]bool{first: true, first + 1: false, 3: true, 4: false, 68: true, 69: false, newest: true,
		newest - 1: false, newest + 1: false, first - 1: true /* too old to say */} {
		if x.maybe(xid) != want {
			t.Errorf("maybe(%d) is %v; the newest is %d", xid, !want, newest)
		}
	}
}

// What ran when this process began is not denied, until no snapshot can miss it any more.
func TestXIDsBefore(t *testing.T) {
	x := NewXIDs()
	x.before[100], x.before[120] = true, true
	if x.maybe(99) || !x.maybe(100) {
		t.Error("before any stream, only what ran before may have been applied")
	}
	x.Add(130)
	x.Add(128)
	found := x.Unseen(snapshotOf(t, "100:115:100,110"))
	if want := map[uint32]bool{100: true, 120: true, 128: true, 130: true}; fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("unseen are %v; expected %v", found, want)
	}
	if found := x.Unseen(snapshotOf(t, "131:131:")); len(found) > 0 {
		t.Errorf("unseen are %v, and the snapshot sees all", found)
	}
	if x.maybe(100) {
		t.Error("what a snapshot has seen is still remembered")
	}
	// Two thousand million transactions later the same id is in the future, and must not be waited for.
	x.before[200] = true
	for n := uint32(1); n <= 4; n++ {
		x.Add(130 + n<<29)
	}
	if x.before[200] {
		t.Error("an id of two thousand million transactions ago is still remembered")
	}
}

func snapshotOf(t *testing.T, text string) wal.Snapshot {
	t.Helper()
	s, err := wal.ParseSnapshot(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// maybe is maybeLocked for a goroutine without the lock.
func (x *XIDs) maybe(xid uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.maybeLocked(xid)
}
