package fold

import (
	"maps"
	"sync"

	"outflow/replication/wal"
)

// XIDs remembers which transactions the stream has shown: one bit for each of the last 2^24 transaction ids, 2 MiB. A backfill
// asks XIDs whether a transaction invisible to its first snapshot may have been applied before the backfill began to track keys.
// Safe for concurrent use.
type XIDs struct {
	mu     sync.Mutex
	seen   []uint64
	newest uint32
	any    bool
	// before are the transactions that were in progress when this process began to read: an earlier process may have applied
	// them.
	before map[uint32]bool
}

const xidWindow = 1 << 24

// NewXIDs returns an XIDs that has seen no transaction.
func NewXIDs() *XIDs {
	return &XIDs{seen: make([]uint64, xidWindow/64), before: map[uint32]bool{}}
}

// Add notes a transaction. Ids come nearly in order; the bits of ids that are passed over are cleared.
func (x *XIDs) Add(xid uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
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
			x.setLocked(x.newest, false)
		}
	}
	x.setLocked(xid, true)
}

// RanBefore adds the transactions that were in progress when this process began to read: an earlier process may have applied the transactions.
func (x *XIDs) RanBefore(all []uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, xid := range all {
		x.before[xid] = true
	}
}

func (x *XIDs) setLocked(xid uint32, on bool) {
	i := xid % xidWindow
	if on {
		x.seen[i/64] |= 1 << (i % 64)
	} else {
		x.seen[i/64] &^= 1 << (i % 64)
	}
}

// maybeLocked reports whether the transaction may have been in the stream; false is certain.
func (x *XIDs) maybeLocked(xid uint32) bool {
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

// Unseen are the transactions that may have been in the stream and are invisible to the snapshot. The snapshot's list of
// transactions in progress is not enough: the snapshot ends behind the newest visible transaction, and a commit waiting for a
// standby may well have a later id.
func (x *XIDs) Unseen(s wal.Snapshot) map[uint32]bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	unseen := map[uint32]bool{}
	for _, xid := range s.InProgress() {
		if x.maybeLocked(xid) {
			unseen[xid] = true
		}
	}
	for xid := s.End(); x.any && int32(x.newest-xid) >= 0; xid++ {
		if x.maybeLocked(xid) {
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
