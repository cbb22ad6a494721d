package backfill

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// waiter is the destination of a copy that waits.
type waiter struct {
	Destination
	pauses []time.Duration
	says   []string
}

func (w *waiter) Nudge() {}

func (w *waiter) After(wait time.Duration, _ func()) *time.Timer {
	w.pauses = append(w.pauses, wait)
	return nil
}

func (w *waiter) Waits(reason string) bool {
	w.says = append(w.says, reason)
	return false
}

// The looks at an awaited transaction become rarer, and another transaction is looked at soon again.
func TestWaitForATransaction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &waiter{}
		bf := &Backfill{owner: w, log: zap.NewNop()}
		bf.goesOn()
		if len(w.says) != 0 {
			t.Errorf("a copy that does not wait says %q", w.says)
		}
		for range 8 {
			bf.await(5, "")
		}
		if !slices.IsSorted(w.pauses) || w.pauses[0] != waitMin || w.pauses[1] != 2*waitMin || w.pauses[7] != waitMax || len(w.says) != 0 {
			t.Errorf("the pauses are %v; said is %q", w.pauses, w.says)
		}
		if *bf.wait.xid != 5 || !bf.wait.until.Equal(time.Now().Add(waitMax)) {
			t.Errorf("the wait is %+v", bf.wait)
		}
		bf.await(6, "transaction 6")
		if *bf.wait.xid != 6 || w.pauses[8] != waitMin || !slices.Equal(w.says, []string{"the copy waits for the end of transaction 6"}) {
			t.Errorf("for another transaction: %+v, said is %q", bf.wait, w.says)
		}
		bf.goesOn()
		if bf.wait != (wait{}) || w.says[1] != "" {
			t.Errorf("behind the wait: %+v, said is %q", bf.wait, w.says)
		}
	})
}
