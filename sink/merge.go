package sink

import (
	"maps"

	"outflow/replication"
)

// tracked is a key changed by a transaction of the stream while a backfill runs.
type tracked struct {
	xid      uint32
	table    string
	key      string // "" is every key: a TRUNCATE
	relation *replication.Relation
}

// bytes is about how much memory the key takes. The text of a key is no longer than a page of an index, unless the text can be compressed.
func (c tracked) bytes() int64 { return trackedOverhead + int64(len(c.key)) }

// counts reports whether the change concerns the rows read from the table.
func (c tracked) counts(i int, table string, snapshot replication.Snapshot, since int) bool {
	return c.table == table && (i >= since || !snapshot.Sees(c.xid))
}

// merge is the rule for placing rows read from a table among the changes of the stream: a row may be applied unless a transaction
// invisible to the read has changed the row's key. Such a transaction has been applied, since the stream has passed the read's
// horizon, and its result is newer than the row.
//
// A sweep deletes keys that a page of the external database held and the primary lacks. A delete step may name less than the
// whole key, so the delete of a key that a row has left would take the row under its new key. From since on, where the page was
// read, every change therefore counts, whether the read saw the change or not. A read of rows has no such place: since is
// len(changes).
//
// Visibility is compared by transaction id, not by LSN: a commit can be in the WAL, and decoded, before the commit is visible.
// With synchronous replication the gap lasts seconds, and a rule comparing positions in the WAL would put the old row over the
// new row.
func merge[T any](rows []T, keyOf func(T) string, table string, snapshot replication.Snapshot, changes []tracked, since int) []T {
	newer := map[string]bool{}
	for i, c := range changes {
		if c.counts(i, table, snapshot, since) {
			newer[c.key] = true
		}
	}
	if newer[""] {
		return nil
	}
	if len(newer) == 0 {
		return rows
	}
	kept := rows[:0:0]
	for _, row := range rows {
		if !newer[keyOf(row)] {
			kept = append(kept, row)
		}
	}
	return kept
}

// xids remembers which transactions the stream has shown: one bit for each of the last 2^24 transaction ids, 2 MiB. A backfill
// asks xids whether a transaction invisible to its first snapshot may have been applied before the backfill began to track keys.
type xids struct {
	seen   []uint64
	newest uint32
	any    bool
	// before are the transactions that were in progress when this process began to read: an earlier process may have applied
	// them.
	before map[uint32]bool
}

const xidWindow = 1 << 24

func newXIDs() *xids {
	return &xids{seen: make([]uint64, xidWindow/64), before: map[uint32]bool{}}
}

// add notes a transaction. Ids come nearly in order; the bits of ids that are passed over are cleared.
func (x *xids) add(xid uint32) {
	if !x.any {
		x.newest, x.any = xid-1, true
	}
	ahead := int32(xid - x.newest)
	if x.newest/xidWindow != xid/xidWindow { // seldom: no old bit may be taken for a later id when ids come round again
		maps.DeleteFunc(x.before, func(old uint32, _ bool) bool { return int32(xid-old) > 1<<30 })
	}
	if ahead >= xidWindow {
		clear(x.seen)
		x.newest = xid
	} else {
		for range ahead {
			x.newest++
			x.bit(x.newest, false)
		}
	}
	x.bit(xid, true)
}

func (x *xids) bit(xid uint32, on bool) {
	i := xid % xidWindow
	if on {
		x.seen[i/64] |= 1 << (i % 64)
	} else {
		x.seen[i/64] &^= 1 << (i % 64)
	}
}

// maybe reports whether the transaction may have been in the stream; false is certain.
func (x *xids) maybe(xid uint32) bool {
	if x.before[xid] {
		return true
	}
	if !x.any || int32(xid-x.newest) > 0 {
		return false
	}
	if x.newest-xid >= xidWindow {
		return true
	}
	i := xid % xidWindow
	return x.seen[i/64]&(1<<(i%64)) != 0
}

// unseen are the transactions that may have been in the stream and are invisible to the snapshot. The snapshot's list of
// transactions in progress is not enough: the snapshot ends behind the newest visible transaction, and a commit waiting for a
// standby may well have a later id.
func (x *xids) unseen(s replication.Snapshot) map[uint32]bool {
	unseen := map[uint32]bool{}
	for _, xid := range s.InProgress() {
		if x.maybe(xid) {
			unseen[xid] = true
		}
	}
	for xid := s.End(); x.any && int32(x.newest-xid) >= 0; xid++ {
		if x.maybe(xid) {
			unseen[xid] = true
		}
	}
	for xid := range x.before {
		if s.Sees(xid) {
			delete(x.before, xid) // and every later snapshot sees xid
		} else {
			unseen[xid] = true
		}
	}
	return unseen
}
