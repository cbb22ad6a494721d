package limits

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A destination's look-ups begin with the least memory, and take what earlier look-ups needed, in the lane of the destination's last round.
func TestAppetite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(16<<20, 2, 4) // pieces of 1 MiB
		var a Appetite
		var held Grant
		hold := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := a.Hold(ctx, m, &held); err != nil {
				t.Fatal(err)
			}
		}
		hold()
		if held.Rows != PieceMin || held.lane != m.lanes[Quick] {
			t.Fatalf("the first look-up takes %+v", held)
		}
		first := held.Taken
		time.Sleep(time.Millisecond)
		if hold(); held.Taken != first {
			t.Error("the memory is taken again, and there was enough")
		}
		a.Free(m, &held)
		a.Piece = 4 << 20 // a row may need more than a piece: here the whole lane
		if hold(); held.Rows != 4<<20 {
			t.Errorf("with a larger appetite %+v is held", held)
		}
		a.Piece = 5 << 20 // what is held must go back first
		if hold(); held.Rows != m.Piece || a.Piece != m.Piece {
			t.Errorf("behind the large row %+v is held", held)
		}
		a.Free(m, &held)
		a.Piece = 4 << 20
		hold()
		a.Has(1<<20, &held) // a quarter
		if a.Piece != 4<<20 || a.Spare(m) {
			t.Errorf("after a look-up that needed a quarter: %+v", a)
		}
		a.Has(1<<20-1, &held)
		if a.Piece != 2<<20 {
			t.Errorf("after a look-up that needed less than a quarter: %+v", a)
		}
		a.Used = m.Piece / 2
		if a.Spare(m) {
			t.Error("half of a piece is spare")
		}
		if a.Used--; !a.Spare(m) {
			t.Error("less than half of a piece is not spare")
		}
		a.Free(m, &held)
		if held.Held() || a.Piece != m.Piece || a.lane != Quick {
			t.Errorf("after the memory was given back: %+v, %+v", a, held)
		}

		hold()
		time.Sleep(slowRound + 1)
		if a.Free(m, &held); a.lane != Slow {
			t.Error("a destination that kept the memory stays in the quick lane")
		}
		if a.Free(m, &held); a.lane != Slow {
			t.Error("giving nothing back changes the lane")
		}
		if hold(); held.lane != m.lanes[Slow] {
			t.Error("the slow destination takes from the quick lane")
		}
		if a.Free(m, &held); a.lane != Quick {
			t.Error("a destination that is quick again stays in the slow lane")
		}
	})
}
