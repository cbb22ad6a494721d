package queue

import "sync"

// Gate tells the reader whether to go on: while all queues together are within the memory budget, and no destination is over its
// own bound.
type Gate struct {
	mu    sync.Mutex
	Limit int64 // bytes for all queues together
	used  int64
	over  int // destinations over their own bound
	room  chan struct{}

	resumed chan struct{} // not nil while reading is switched off
}

// Add accounts for bytes queued (n > 0) or done with (n < 0), and for destinations that went over or under.
func (g *Gate) Add(n int64, over int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used += n
	g.over += over
	if g.room != nil && g.over == 0 && g.used <= g.Limit/4*3 {
		close(g.room)
		g.room = nil
	}
}

// Full returns nil when there is room, else a channel that is closed when there is. A closed gate opens again at a lower mark, so
// as not to flutter.
func (g *Gate) Full() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.room == nil && (g.over > 0 || g.used > g.Limit) {
		g.room = make(chan struct{})
	}
	if g.room == nil {
		return nil
	}
	return g.room
}

// Excess is how many bytes must go until the reader goes on, where the memory for all queues is used up; else 0.
func (g *Gate) Excess() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used > g.Limit || (g.room != nil && g.used > g.Limit/4*3) {
		return g.used - g.Limit/4*3
	}
	return 0
}

// Used is how many bytes all queues together hold.
func (g *Gate) Used() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used
}

// Closed reports whether the reader waits.
func (g *Gate) Closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.room != nil
}

// Hold switches reading off or on.
func (g *Gate) Hold(off bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case off && g.resumed == nil:
		g.resumed = make(chan struct{})
	case !off && g.resumed != nil:
		close(g.resumed)
		g.resumed = nil
	}
}

// Held is a channel that is closed when reading is switched on again, nil while reading is on.
func (g *Gate) Held() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.resumed == nil {
		return nil
	}
	return g.resumed
}
