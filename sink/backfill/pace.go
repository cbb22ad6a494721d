package backfill

import "time"

// Pace is the size of a destination's chunks, which outlives the session: chunks adapt so that a chunk takes about chunkTime. The worker owns
// the pace. The zero pace begins with chunkRows.
type Pace struct {
	rows int // of the next chunk; 0 before the first
}

// size is the number of rows of the next chunk.
func (p *Pace) size() int {
	if p.rows == 0 {
		return chunkRows
	}
	return p.rows
}

// smaller makes the next chunks smaller than a chunk of so many rows; false means that there are no smaller chunks.
func (p *Pace) smaller(rows int) bool {
	p.rows = max(rows/2, 1)
	return rows > 1
}

// resize adapts the size of chunks to the time that a chunk took.
func (p *Pace) resize(took time.Duration) {
	switch {
	case took > 2*chunkTime:
		p.rows = max(p.size()/2, min(p.size(), chunkMin))
	case took < chunkTime:
		p.rows = min(p.size()*2, chunkMax)
	}
}
