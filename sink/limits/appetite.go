package limits

import (
	"context"
	"time"
)

// Appetite is how much memory a destination's look-ups take, as earlier look-ups have shown. The worker owns the appetite. The zero appetite takes
// the least.
type Appetite struct {
	Piece int64 // bytes of rows that the next look-up takes
	Used  int64 // bytes of rows of the last look-up
	lane  Lane
}

// Hold takes the memory of the next look-up, unless held has it.
func (a *Appetite) Hold(ctx context.Context, m *Memory, held *Grant) (err error) {
	if a.Piece = max(a.Piece, PieceMin); held.Rows >= a.Piece {
		return nil
	}
	a.Free(m, held)
	*held, err = m.Take(ctx, a.Piece, a.lane)
	return err
}

// Free gives the memory of fetched values back.
func (a *Appetite) Free(m *Memory, held *Grant) {
	if !held.Held() {
		return
	}
	if a.lane = Quick; time.Since(held.Taken) > slowRound {
		a.lane = Slow
	}
	a.Piece = min(a.Piece, m.Piece)
	held.Free()
}

// Has notes the bytes of rows of a look-up whose rows all fitted into held.
func (a *Appetite) Has(used int64, held *Grant) {
	if a.Used = used; used < held.Rows/4 {
		a.Piece /= 2
	}
}

// Spare reports whether the last look-up took less than half of a piece.
func (a *Appetite) Spare(m *Memory) bool { return a.Used < m.Piece/2 }
