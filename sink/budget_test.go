package sink

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(64<<20, 2, 4)
		if b.piece != 4<<20 {
			t.Errorf("a piece has %d bytes", b.piece)
		}
		take := func(rows int64, lane int) grant {
			t.Helper()
			h, err := b.take(t.Context(), rows, lane)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		all := take(16<<20, quick) // each byte of a row is in memory four times
		ctx, cancel := context.WithCancel(t.Context())
		waits := make(chan error)
		go func() {
			_, err := b.take(ctx, 1, quick)
			waits <- err
		}()
		synctest.Wait()
		other := take(1, slow) // a lane takes nothing from another
		other.free()
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("a wait whose caller gave up: %v", err)
		}
		all.free()
		if all.free(); all != (grant{}) {
			t.Errorf("a freed grant is %+v", all)
		}
		huge := take(1<<40, quick) // a row may be larger than the budget: it takes everything
		if huge.bytes != b.size || huge.rows != 1<<40 {
			t.Errorf("the grant is %+v", huge)
		}
		huge.free()
		again := take(16<<20, quick)
		again.free()
	})
	if small := newBudget(1, 1, 100); small.piece != pieceMin || small.size != pieceMin {
		t.Errorf("the smallest budget is %+v", small)
	}
}
