package destination

import (
	"math/rand/v2"
	"time"
)

// pauses are the waits between tries: each is any time up to a bound, which doubles from try to try ("full jitter"), so that destinations which
// failed together do not come again together.
type pauses struct {
	least, most time.Duration
	bound       time.Duration // of the last pause, 0 before the first
}

func (p *pauses) next() time.Duration {
	p.bound = min(max(2*p.bound, p.least), p.most)
	return rand.N(p.bound + 1)
}

func (p *pauses) reset() { p.bound = 0 }

// spread is between half of a fixed pause and the whole.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
