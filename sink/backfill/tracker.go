package backfill

import (
	"iter"
	"slices"

	"outflow/replication/wal"
	"outflow/sink/fold"
)

// maxTracked is how many bytes the tracked keys may have at most, see [fold.Tracked.Bytes]. A transaction that changes more has the chunk
// in hand read again, when the transaction is visible.
const maxTracked = 48 << 20

// tracker remembers the keys that the stream has changed since a backfill got its slot, and the transactions that may have been applied before:
// rows that a chunk has read give way to their changes, see [fold.Merge]. The worker owns the tracker. The zero value has nothing.
type tracker struct {
	changes  []fold.Tracked
	bytes    int64           // of the changes
	number   int             // counts the beginnings: a chunk read for an earlier one is of no use
	suspects map[uint32]bool // transactions not visible when the tracking began, which may have been applied before; nil is not known yet
	keys     fold.Keyer
}

// begin forgets everything: every transaction invisible to the next snapshot may have been applied before.
func (t *tracker) begin() {
	t.number++
	t.changes, t.bytes, t.suspects = nil, 0, nil
}

// add tracks the keys of an applied change.
func (t *tracker) add(xid uint32, c *wal.Change) {
	if c.Kind == wal.Truncate {
		t.append(fold.Tracked{XID: xid, Table: c.Relation.Table, Key: "", Relation: c.Relation})
		return
	}
	for _, row := range []wal.Tuple{c.Old, c.New} {
		if !row.IsZero() {
			t.append(fold.Tracked{XID: xid, Table: c.Relation.Table, Key: t.keys.Key(c.Relation, row), Relation: c.Relation})
		}
	}
}

func (t *tracker) append(c fold.Tracked) {
	t.changes = append(t.changes, c)
	t.bytes += c.Bytes()
}

// full reports whether the changes have more bytes than a backfill may keep.
func (t *tracker) full() bool { return t.bytes > maxTracked }

// seen forgets the changes of transactions that later chunks see.
func (t *tracker) seen(snapshot wal.Snapshot) {
	t.changes = slices.DeleteFunc(t.changes, func(c fold.Tracked) bool {
		gone := snapshot.Sees(c.XID)
		if gone {
			t.bytes -= c.Bytes()
		}
		return gone
	})
}

// unseen is a suspect that is invisible to a chunk's snapshot: the chunk may hold older rows, and is read again. Suspects that the snapshot
// sees are suspects no longer: later chunks see them too. The awaited transaction (nil: none) comes first.
func (t *tracker) unseen(s wal.Snapshot, awaited *uint32) (xid uint32, found bool) {
	if awaited != nil && t.suspects[*awaited] && !s.Sees(*awaited) {
		return *awaited, true
	}
	for xid := range t.suspects {
		if !s.Sees(xid) {
			return xid, true
		}
		delete(t.suspects, xid)
	}
	return 0, false
}

// concerning are the changes that count for the rows of a chunk, a TRUNCATE included.
func (t *tracker) concerning(c *chunk) iter.Seq[fold.Tracked] {
	return func(yield func(fold.Tracked) bool) {
		for i, change := range t.changes {
			if change.Counts(i, c.table, c.Snapshot, c.since()) && !yield(change) {
				return
			}
		}
	}
}
