package sink

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"
)

// copies is how many times a byte read from the primary is in memory until the external database has the byte: as read, in the row, in the
// parameter, in the message.
const copies = 4

// The size of a piece, in bytes of rows.
const (
	pieceMin = 64 << 10
	pieceMax = 4 << 20
)

// budget is memory for rows of the primary, in lanes that do not take from one another. One piece always passes: a request for more than there
// is takes everything, and waits until everything is free. Safe for concurrent use.
type budget struct {
	size  int64 // of a lane
	piece int64 // bytes of rows that a read takes, unless a row is larger
	lanes []*semaphore.Weighted
}

// newBudget is a budget of lanes of so many bytes, each with room for a number of pieces at a time where the pieces are larger than pieceMin.
func newBudget(size int64, lanes, pieces int) *budget {
	b := &budget{size: max(size, pieceMin), piece: min(max(size/int64(pieces)/copies, pieceMin), pieceMax)}
	for range lanes {
		b.lanes = append(b.lanes, semaphore.NewWeighted(b.size))
	}
	return b
}

// The lanes of look-ups, and of copies.
const (
	quick = iota
	slow  // of destinations that kept the memory for longer than slowRound the last time, and of databases that were slow in the last chunk
)

// slowRound bounds how long slow external databases keep the memory of the others: once each.
const slowRound = time.Second

// grant is memory taken from a budget. The zero grant is none. A grant belongs to one goroutine at a time.
type grant struct {
	lane  *semaphore.Weighted
	bytes int64 // of the lane
	rows  int64 // bytes of rows that may be read
	taken time.Time
}

// take waits for the memory of so many bytes of rows.
func (b *budget) take(ctx context.Context, rows int64, lane int) (grant, error) {
	h := grant{lane: b.lanes[lane], bytes: min(rows*copies, b.size), rows: rows}
	if err := h.lane.Acquire(ctx, h.bytes); err != nil {
		return grant{}, err
	}
	h.taken = time.Now()
	return h, nil
}

// free gives the memory back. It may be called again.
func (h *grant) free() {
	if h.lane != nil {
		h.lane.Release(h.bytes)
	}
	*h = grant{}
}
