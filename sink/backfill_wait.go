package sink

import (
	"context"
	"time"

	"go.uber.org/zap"

	"outflow/replication/tableread"
	"outflow/replication/wal"
)

// wait is a copy's wait for a transaction on the primary whose changes may have been applied already, and which no snapshot sees yet. The
// zero wait is none.
type wait struct {
	xid   *uint32
	pause time.Duration // before the next look; doubles
	until time.Time     // when the next look is due
}

// The pause between looks at an awaited transaction.
const (
	waitMin = 100 * time.Millisecond
	waitMax = 5 * time.Second
)

// unseen is a transaction that was applied before keys were tracked, and is invisible to a chunk: the chunk may hold older rows, and is read
// again. Transactions that the chunk sees are suspects no longer: later chunks see them too. The awaited transaction comes first.
func (bf *backfill) unseen(s wal.Snapshot) (xid uint32, waits bool) {
	if w := bf.wait.xid; w != nil && bf.suspects[*w] && !s.Sees(*w) {
		return *w, true
	}
	for xid := range bf.suspects {
		if !s.Sees(xid) {
			return xid, true
		}
		delete(bf.suspects, xid)
	}
	return 0, false
}

// await has the next look at the transaction come after a pause. holder describes the transaction, "" where nothing is known yet.
func (bf *backfill) await(xid uint32, holder string) {
	d, w := bf.d, &bf.wait
	if w.xid == nil || *w.xid != xid {
		*w = wait{xid: &xid}
	}
	w.pause = min(max(2*w.pause, waitMin), waitMax)
	w.until = time.Now().Add(w.pause)
	d.after(w.pause, d.nudge)
	if holder == "" {
		return
	}
	reason := "the copy waits for the end of " + holder
	d.mu.Lock()
	said := d.status.Reason == reason
	d.status.Reason = reason
	d.observeLocked()
	d.mu.Unlock()
	if !said {
		d.log.Warn("the copy waits for a transaction on the primary", zap.String("transaction", holder))
	}
}

// goesOn ends the wait.
func (bf *backfill) goesOn() {
	if bf.wait.xid == nil {
		return
	}
	bf.wait = wait{}
	d := bf.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.Reason = ""
	d.observeLocked()
}

// awaits is the chunk read instead of rows while snapshots do not see the awaited transaction; nil when they do, and where none is awaited.
func (bf *backfill) awaits(ctx context.Context, copier *tableread.Copier, xid *uint32) (*chunk, error) {
	if xid == nil {
		return nil, nil
	}
	now, err := copier.Now(ctx)
	if err != nil || now.Snapshot.Sees(*xid) {
		return nil, err
	}
	holder, err := copier.Holder(ctx, *xid)
	return &chunk{Chunk: now, holder: holder}, err
}
