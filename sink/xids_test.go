package sink

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"outflow/replication"
)

// TestXIDs compares the bits with a map, over ids that come round at 2^32 and jump by more than the window. An id that was
// in the stream is never denied; one that was not is denied wherever the window is exact.
func TestXIDs(t *testing.T) {
	x := newXIDs()
	rapid.Check(t, func(t *rapid.T) {
		clear(x.seen) // 2 MiB: one for all runs
		*x = xids{seen: x.seen, before: map[uint32]bool{}}
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
			x.add(xid)
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
	x := newXIDs()
	first := uint32(math.MaxUint32 - 1)
	for _, xid := range []uint32{first, first + 5, first + 70} {
		x.add(xid)
	}
	newest := first + xidWindow - 1
	x.add(newest)
	for xid, want := range map[uint32]bool{first: true, first + 1: false, 3: true, 4: false, 68: true, 69: false, newest: true,
		newest - 1: false, newest + 1: false, first - 1: true /* too old to say */} {
		if x.maybe(xid) != want {
			t.Errorf("maybe(%d) is %v; the newest is %d", xid, !want, newest)
		}
	}
}

// What ran when this process began is not denied, until no snapshot can miss it any more.
func TestXIDsBefore(t *testing.T) {
	x := newXIDs()
	x.before[100], x.before[120] = true, true
	if x.maybe(99) || !x.maybe(100) {
		t.Error("before any stream, only what ran before may have been applied")
	}
	x.add(130)
	x.add(128)
	found := x.unseen(snapshotOf(t, "100:115:100,110"))
	if want := map[uint32]bool{100: true, 120: true, 128: true, 130: true}; fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("unseen are %v; expected %v", found, want)
	}
	if found := x.unseen(snapshotOf(t, "131:131:")); len(found) > 0 {
		t.Errorf("unseen are %v, and the snapshot sees all", found)
	}
	if x.maybe(100) {
		t.Error("what a snapshot has seen is still remembered")
	}
	// Two thousand million transactions later the same id is in the future, and must not be waited for.
	x.before[200] = true
	for n := uint32(1); n <= 4; n++ {
		x.add(130 + n<<29)
	}
	if x.before[200] {
		t.Error("an id of two thousand million transactions ago is still remembered")
	}
}

func snapshotOf(t *testing.T, text string) replication.Snapshot {
	t.Helper()
	s, err := replication.ParseSnapshot(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSnapshotSees compares the low halves, in a circle, with whole ids.
func TestSnapshotSees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end := rapid.SampledFrom([]uint64{100, 1 << 31, 1<<32 - 2, 1 << 32, 1<<32 + 5, 7<<32 + 1<<31, 9<<32 - 1}).Draw(t, "end") +
			rapid.Uint64Range(0, 20).Draw(t, "more")
		var running []uint64
		var texts []string
		for _, back := range rapid.SliceOfNDistinct(rapid.Uint64Range(1, 90), 0, 8, rapid.ID[uint64]).Draw(t, "running") {
			running = append(running, end-back)
			texts = append(texts, fmt.Sprint(end-back))
		}
		s, err := replication.ParseSnapshot(fmt.Sprintf("%d:%d:%s", end-90, end, strings.Join(texts, ",")))
		if err != nil {
			t.Fatal(err)
		}
		if s.End() != uint32(end) || len(s.InProgress()) != len(running) {
			t.Fatalf("the snapshot ends at %d with %v in progress", s.End(), s.InProgress())
		}
		distance := rapid.OneOf(rapid.Int64Range(-100, 100), rapid.Int64Range(-1<<31, 1<<31-1)).Draw(t, "distance")
		xid := int64(end) + distance
		if xid < 3 {
			return // no transaction has such an id
		}
		if want := distance < 0 && !slices.Contains(running, uint64(xid)); s.Sees(uint32(xid)) != want {
			t.Fatalf("Sees(%d) is %v with the end %d and %v in progress", xid, !want, end, running)
		}
	})
}

func TestParseSnapshot(t *testing.T) {
	for text, want := range map[string]string{
		"10:20:":                           "20 []",
		"10:20:10,14,15":                   "20 [10 14 15]",
		"4294967290:4294967299:4294967290": "3 [4294967290]",
		"18446744073709551614:18446744073709551615:": "4294967295 []",
	} {
		if s := snapshotOf(t, text); fmt.Sprint(s.End(), s.InProgress()) != want {
			t.Errorf("%s: %v %v; expected %s", text, s.End(), s.InProgress(), want)
		}
	}
	for _, text := range []string{"", ":", "::", "10:20", "10:x:", "10:-1:", "10:20:a", "10:20:1:2", "10:20:1;2", "10: 20:", "10:18446744073709551616:"} {
		if s, err := replication.ParseSnapshot(text); err == nil {
			t.Errorf("%q is taken for the snapshot %v", text, s)
		}
	}
}

func FuzzParseSnapshot(f *testing.F) {
	for _, text := range []string{"", "10:20:", "10:20:10,14,15", "4294967290:4294967299:4294967290", "a:b:c", "::,,"} {
		f.Add(text, uint32(14))
	}
	f.Fuzz(func(t *testing.T, text string, xid uint32) {
		s, err := replication.ParseSnapshot(text)
		if err != nil {
			if len(s.InProgress()) > 0 || s.End() != 0 {
				t.Errorf("an error and a snapshot")
			}
			return
		}
		if s.Sees(s.End()) {
			t.Errorf("%q: it sees where it ends", text)
		}
		if s.Sees(xid) && slices.Contains(s.InProgress(), xid) {
			t.Errorf("%q: %d is in progress and seen", text, xid)
		}
	})
}
