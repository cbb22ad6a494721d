package limits

import (
	"math/rand/v2"
	"time"
)

// Pauses are the waits between tries: each is any time up to a bound, which doubles from try to try ("full jitter"), so that destinations which
// failed together do not come again together.
type Pauses struct {
	Least, Most time.Duration
	bound       time.Duration // of the last pause, 0 before the first
}

// Next is the next pause.
func (p *Pauses) Next() time.Duration {
	p.bound = min(max(2*p.bound, p.Least), p.Most)
	return rand.N(p.bound + 1)
}

// Reset begins with the shortest bound again.
func (p *Pauses) Reset() { p.bound = 0 }

// Spread is between half of a fixed pause and the whole.
func Spread(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
