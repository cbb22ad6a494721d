package destination

import (
	"context"
	"outflow/sink/limits"
	"time"
)

// appetite is how much memory a destination's look-ups take, as earlier look-ups have shown. The worker owns the appetite. The zero appetite takes
// the least.
type appetite struct {
	piece int64 // bytes of rows that the next look-up takes
	used  int64 // bytes of rows of the last look-up
	lane  limits.Lane
}

// hold takes the memory of the next look-up, unless held has it.
func (a *appetite) hold(ctx context.Context, m *limits.Memory, held *limits.Grant) (err error) {
	if a.piece = max(a.piece, limits.PieceMin); held.Rows >= a.piece {
		return nil
	}
	a.free(m, held)
	*held, err = m.Take(ctx, a.piece, a.lane)
	return err
}

// free gives the memory of fetched values back.
func (a *appetite) free(m *limits.Memory, held *limits.Grant) {
	if !held.Held() {
		return
	}
	if a.lane = limits.Quick; time.Since(held.Taken) > limits.SlowRound {
		a.lane = limits.Slow
	}
	a.piece = min(a.piece, m.Piece)
	held.Free()
}

// has notes the bytes of rows of a look-up whose rows all fitted into held.
func (a *appetite) has(used int64, held *limits.Grant) {
	if a.used = used; used < held.Rows/4 {
		a.piece /= 2
	}
}

// spare reports whether the last look-up took less than half of a piece.
func (a *appetite) spare(m *limits.Memory) bool { return a.used < m.Piece/2 }
