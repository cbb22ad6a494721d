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
	PieceMin = 64 << 10 // the smallest
	pieceMax = 4 << 20
)

// Memory is memory for rows of the primary, in lanes that do not take from one another. One piece always passes: a request for more than there
// is takes everything, and waits until everything is free. Safe for concurrent use.
type Memory struct {
	Piece int64 // bytes of rows that a read takes, unless a row is larger

	size  int64 // of a lane
	lanes []*semaphore.Weighted
}

// NewMemory is a memory of lanes of so many bytes, each with room for a number of pieces at a time where the pieces are larger than PieceMin.
func NewMemory(size int64, lanes, pieces int) *Memory {
	b := &Memory{size: max(size, PieceMin), Piece: min(max(size/int64(pieces)/copies, PieceMin), pieceMax)}
	for range lanes {
		b.lanes = append(b.lanes, semaphore.NewWeighted(b.size))
	}
	return b
}

// Lane is a part of a memory.
type Lane int

// The lanes of look-ups, and of copies.
const (
	Quick Lane = iota
	Slow       // of destinations that kept the memory for longer than slowRound the last time, and of databases that were slow in the last chunk
)

// slowRound bounds how long slow external databases keep the memory of the others: once each.
const slowRound = time.Second

// Grant is memory taken from a [Memory]. The zero Grant is none. A Grant belongs to one goroutine at a time.
type Grant struct {
	Rows  int64     // bytes of rows that may be read
	Taken time.Time // when

	lane  *semaphore.Weighted
	bytes int64 // of the lane
}

// Held reports whether the grant has memory.
func (h *Grant) Held() bool { return h.lane != nil }

// Take waits for the memory of so many bytes of rows, until ctx is done. Take fails with the error of ctx only.
func (b *Memory) Take(ctx context.Context, rows int64, lane Lane) (Grant, error) {
	h := Grant{lane: b.lanes[lane], bytes: min(rows*copies, b.size), Rows: rows}
	if err := h.lane.Acquire(ctx, h.bytes); err != nil {
		return Grant{}, err
	}
	h.Taken = time.Now()
	return h, nil
}

// Free gives the memory back. Free may be called again.
func (h *Grant) Free() {
	if h.lane != nil {
		h.lane.Release(h.bytes)
	}
	*h = Grant{}
}
