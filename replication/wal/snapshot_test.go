package wal

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func snapshotOf(t *testing.T, text string) Snapshot {
	t.Helper()
	s, err := ParseSnapshot(text)
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
		s, err := ParseSnapshot(fmt.Sprintf("%d:%d:%s", end-90, end, strings.Join(texts, ",")))
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
		if s, err := ParseSnapshot(text); err == nil {
			t.Errorf("%q is taken for the snapshot %v", text, s)
		}
	}
}

func FuzzParseSnapshot(f *testing.F) {
	for _, text := range []string{"", "10:20:", "10:20:10,14,15", "4294967290:4294967299:4294967290", "a:b:c", "::,,"} {
		f.Add(text, uint32(14))
	}
	f.Fuzz(func(t *testing.T, text string, xid uint32) {
		s, err := ParseSnapshot(text)
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
