package sink

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
)

// dialsAtOnce bounds how many connections are being made at the same time, so that five hundred databases that come back
// together are met in turn.
const dialsAtOnce = 8

// connections is the budget of connections to external databases. An idle connection is kept for a while, and given up
// early when another destination waits for one.
type connections struct {
	open  *semaphore.Weighted
	dials *semaphore.Weighted

	mu      sync.Mutex
	waiting int
	idle    []*Destination // longest idle first
}

func newConnections(limit int) *connections {
	return &connections{open: semaphore.NewWeighted(int64(limit)), dials: semaphore.NewWeighted(dialsAtOnce)}
}

// acquire waits for the right to hold a connection.
func (c *connections) acquire(ctx context.Context) error {
	if c.open.TryAcquire(1) {
		return nil
	}
	c.mu.Lock()
	c.waiting++
	var victim *Destination
	if len(c.idle) > 0 {
		victim, c.idle = c.idle[0], c.idle[1:]
	}
	c.mu.Unlock()
	if victim != nil {
		victim.closeIdle()
	}
	err := c.open.Acquire(ctx, 1)
	c.mu.Lock()
	c.waiting--
	c.mu.Unlock()
	return err
}

func (c *connections) release() { c.open.Release(1) }

// rest notes an idle connection. It returns false when somebody waits and it should be closed at once.
func (c *connections) rest(d *Destination) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting > 0 {
		return false
	}
	c.idle = append(c.idle, d)
	return true
}

// busy takes a connection back from the idle ones.
func (c *connections) busy(d *Destination) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.idle, d); i >= 0 {
		c.idle = slices.Delete(c.idle, i, i+1)
	}
}
