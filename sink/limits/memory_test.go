package limits

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewMemory(64<<20, 2, 4)
		if b.Piece != 4<<20 {
			t.Errorf("a piece has %d bytes", b.Piece)
		}
		take := func(rows int64, lane Lane) Grant {
			t.Helper()
			h, err := b.Take(t.Context(), rows, lane)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		all := take(16<<20, Quick) // each byte of a row is in memory four times
		ctx, cancel := context.WithCancel(t.Context())
		waits := make(chan error)
		go func() {
			_, err := b.Take(ctx, 1, Quick)
			waits <- err
		}()
		synctest.Wait()
		other := take(1, Slow) // a lane takes nothing from another
		other.Free()
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("a wait whose caller gave up: %v", err)
		}
		all.Free()
		if all.Free(); all != (Grant{}) {
			t.Errorf("a freed grant is %+v", all)
		}
		huge := take(1<<40, Quick) // a row may be larger than the budget: it takes everything
		if huge.bytes != b.size || huge.Rows != 1<<40 {
			t.Errorf("the grant is %+v", huge)
		}
		huge.Free()
		again := take(16<<20, Quick)
		again.Free()
	})
	if small := NewMemory(1, 1, 100); small.Piece != PieceMin || small.size != PieceMin {
		t.Errorf("the smallest budget is %+v", small)
	}
}
