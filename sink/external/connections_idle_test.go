package external

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// mustTake takes a place for a destination that is well, or that failed as often as doubts says.
func (c *Connections) mustTake(t *testing.T, doubts int, end func(*Place)) *Place {
	t.Helper()
	p := NewPlace(doubts, doubts > 0, end)
	if err := c.Take(t.Context(), nil, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// The longest idle connection is closed for a destination that waits, and no connection is closed while there are places.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := NewConnections(3)
		var closed []int
		idle := make([]*Place, 3)
		for i := range idle {
			p := pool.mustTake(t, 0, nil)
			p.dialed()
			idle[i] = p
			if !p.Rest(func() {
				closed = append(closed, i)
				p.release()
			}) {
				t.Fatalf("connection %d may not rest", i)
			}
		}
		idle[0].Busy() // works again: connection 1 is the longest idle one
		first := pool.mustTake(t, 0, nil)
		first.dialed()
		if len(closed) != 1 || closed[0] != 1 {
			t.Fatalf("closed are %v", closed)
		}
		idle[0].release()
		second := pool.mustTake(t, 0, nil)
		second.dialed()
		if len(closed) != 1 {
			t.Errorf("closed are %v, and there was a place", closed)
		}
		idle[2].release() // closed by its destination: no longer among the idle connections
		pool.mustTake(t, 0, nil).dialed()
		if len(closed) != 1 {
			t.Errorf("closed are %v, the last one after its place was given back", closed)
		}
		if len(pool.idle) > 0 || len(pool.held) != 3 {
			t.Errorf("%d are idle, %d are held", len(pool.idle), len(pool.held))
		}
	})
}

// A holder has had its turn after a while, and only where another destination gains the place.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := NewConnections(1)
		p := pool.mustTake(t, 0, nil)
		p.dialed()
		time.Sleep(2 * placeTurn)
		if p.TurnOver() || p.Crowded() {
			t.Error("the turn is over, and no destination waits")
		}
		got := make(chan *Place)
		go func() { got <- pool.mustTake(t, 0, nil) }()
		synctest.Wait()
		if !p.TurnOver() || !p.Crowded() {
			t.Error("the turn is not over, and a destination waits")
		}
		if p.Rest(func() {}) {
			t.Error("the connection may rest, and a destination waits")
		}
		p.release()
		next := <-got
		go func() { got <- pool.mustTake(t, 0, nil) }()
		synctest.Wait()
		if next.TurnOver() || !next.Crowded() {
			t.Error("a turn is over that has just begun, or no destination waits")
		}
		next.release()
		(<-got).release()
	})
}

// The work of a holder is ended where the server owes an answer for too long while others wait. A server that answers again and again is left
// alone, and a server that has answered meanwhile is spared.
func TestTurnOfASilentServer(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]bool{"silent": false, "answers": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				pool := NewConnections(1)
				ended := make(chan *Place, 100)
				p := pool.mustTake(t, 0, func(p *Place) { ended <- p })
				p.dialed()
				p.ask()
				waits := make(chan error, 1)
				go func() { waits <- pool.Take(t.Context(), nil, NewPlace(0, false, nil)) }()
				for range 30 {
					time.Sleep(placePatience / 10)
					if answers {
						p.answered()
						p.ask()
					}
				}
				if n := len(ended); (n == 0) != answers || n > 1 {
					t.Fatalf("the work was ended %d times", n)
				}
				if !answers {
					p.answered()
					p.Spare()
					p.ask()
					time.Sleep(2 * placePatience)
					if len(ended) != 2 {
						t.Errorf("after it was spared, the work was ended %d times", len(ended)-1)
					}
				}
				p.release()
				if err := <-waits; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A wait ends with the process, or with the destination's work.
func TestWaitThatEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := NewConnections(1)
		p := pool.mustTake(t, 0, nil)
		stop := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- pool.Take(t.Context(), stop, NewPlace(0, false, nil)) }()
		go func() { done <- pool.Take(ctx, nil, NewPlace(0, false, nil)) }()
		synctest.Wait()
		close(stop)
		cancel()
		for range 2 {
			if err := <-done; !IsCanceled(err) {
				t.Errorf("%v", err)
			}
		}
		p.release()
		if len(pool.waiting) > 0 || len(pool.held) > 0 {
			t.Errorf("%d wait, %d are held", len(pool.waiting), len(pool.held))
		}
	})
}
