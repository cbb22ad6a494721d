package sink

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
)

// dialsAtOnce bounds how many connections are being made at the same time, so that five hundred databases that come back together
// are met in turn.
const dialsAtOnce = 8

// doubtfulAtOnce bounds the dials to databases that failed the last time: however long such databases keep a handshake waiting,
// there is room for others.
const doubtfulAtOnce = dialsAtOnce / 2

// connections is the budget of connections to external databases. An idle connection is kept for a while, and given up early when
// another destination waits for a connection.
type connections struct {
	open     *semaphore.Weighted
	dials    *semaphore.Weighted
	doubtful *semaphore.Weighted

	mu      sync.Mutex
	waiting int
	idle    []*Destination // longest idle first
}

func newConnections(limit int) *connections {
	return &connections{open: semaphore.NewWeighted(int64(limit)), dials: semaphore.NewWeighted(dialsAtOnce),
		doubtful: semaphore.NewWeighted(doubtfulAtOnce)}
}

// acquireFor waits for the right to hold a connection. A destination that failed the last time waits its turn before taking a
// place; admitted ends the turn, when the destination is connected or has failed.
func (c *connections) acquireFor(ctx context.Context, doubtful bool) (admitted func(), err error) {
	admitted = func() {}
	if doubtful {
		if err := c.doubtful.Acquire(ctx, 1); err != nil {
			return nil, err
		}
		admitted = func() { c.doubtful.Release(1) }
	}
	if err := c.acquire(ctx); err != nil {
		admitted()
		return nil, err
	}
	return admitted, nil
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

// rest notes an idle connection. The result is false when another destination waits and the connection should be closed at once.
func (c *connections) rest(d *Destination) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting > 0 {
		return false
	}
	c.idle = append(c.idle, d)
	return true
}

// busy takes a connection back from the idle connections.
func (c *connections) busy(d *Destination) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.idle, d); i >= 0 {
		c.idle = slices.Delete(c.idle, i, i+1)
	}
}
