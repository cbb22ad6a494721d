package limits

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
	PieceMin = 64 << 10
	pieceMax = 4 << 20
)

// Memory is memory for rows of the primary, in lanes that do not take from one another. One piece always passes: a request for more than there
// is takes everything, and waits until everything is free. Safe for concurrent use.
type Memory struct {
	size  int64 // of a lane
	Piece int64 // bytes of rows that a read takes, unless a row is larger
	lanes []*semaphore.Weighted
}

// NewMemory is a budget of lanes of so many bytes, each with room for a number of pieces at a time where the pieces are larger than PieceMin.
func NewMemory(size int64, lanes, pieces int) *Memory {
	b := &Memory{size: max(size, PieceMin), Piece: min(max(size/int64(pieces)/copies, PieceMin), pieceMax)}
	for range lanes {
		b.lanes = append(b.lanes, semaphore.NewWeighted(b.size))
	}
	return b
}

// The lanes of look-ups, and of copies.
const (
	Quick = iota
	Slow  // of destinations that kept the memory for longer than SlowRound the last time, and of databases that were slow in the last chunk
)

// SlowRound bounds how long slow external databases keep the memory of the others: once each.
const SlowRound = time.Second

// Grant is memory taken from a budget. The zero grant is none. A grant belongs to one goroutine at a time.
type Grant struct {
	Lane  *semaphore.Weighted
	bytes int64 // of the lane
	Rows  int64 // bytes of rows that may be read
	Taken time.Time
}

// Take waits for the memory of so many bytes of rows.
func (b *Memory) Take(ctx context.Context, rows int64, lane int) (Grant, error) {
	h := Grant{Lane: b.lanes[lane], bytes: min(rows*copies, b.size), Rows: rows}
	if err := h.Lane.Acquire(ctx, h.bytes); err != nil {
		return Grant{}, err
	}
	h.Taken = time.Now()
	return h, nil
}

// Free gives the memory back. It may be called again.
func (h *Grant) Free() {
	if h.Lane != nil {
		h.Lane.Release(h.bytes)
	}
	*h = Grant{}
}
