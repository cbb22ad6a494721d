package backfill

import (
	"time"

	"go.uber.org/zap"
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

// await has the next look at the transaction come after a pause. holder describes the transaction, "" where nothing is known yet.
func (bf *Backfill) await(xid uint32, holder string) {
	w := &bf.wait
	if w.xid == nil || *w.xid != xid {
		*w = wait{xid: &xid}
	}
	w.pause = min(max(2*w.pause, waitMin), waitMax)
	w.until = time.Now().Add(w.pause)
	bf.owner.After(w.pause, bf.owner.Nudge)
	if holder == "" {
		return
	}
	if said := bf.owner.Waits("the copy waits for the end of " + holder); !said {
		bf.log.Warn("the copy waits for a transaction on the primary", zap.String("transaction", holder))
	}
}

// goesOn ends the wait.
func (bf *Backfill) goesOn() {
	if bf.wait.xid == nil {
		return
	}
	bf.wait = wait{}
	bf.owner.Waits("")
}
