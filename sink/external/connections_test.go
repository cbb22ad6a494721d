package external

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// holder takes a place for a time, or until its turn is ended. The result is how long the holder waited.
func (c *Connections) holder(t *testing.T, p *Place, d time.Duration, hangs bool) (waited time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.end = func(*Place) { cancel() }
	began := time.Now()
	if c.Take(t.Context(), nil, p) != nil {
		return // the test is over
	}
	waited = time.Since(began)
	if !hangs {
		p.dialed()
		p.Trust()
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	p.release()
	return waited
}

func TestPlacesAreShared(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit, bad int
		doubts     int  // of the bad
		answered   bool // the bad were well before they hung
		good       func() *Place
		within     time.Duration
	}{
		"three hung, which were well":   {3, 3, 0, true, func() *Place { return &Place{} }, 1500 * time.Millisecond},
		"one place":                     {1, 1, 0, true, func() *Place { return &Place{} }, 1500 * time.Millisecond},
		"eighty silent, one well":       {200, 80, 0, false, func() *Place { return &Place{} }, 0},
		"eighty silent, one not known":  {200, 80, 0, false, func() *Place { return &Place{doubtful: true} }, 10 * time.Second},
		"eighty that failed, one new":   {200, 80, 3, false, func() *Place { return &Place{doubtful: true} }, 0},
		"eighty that failed, one again": {200, 80, 5, false, func() *Place { return &Place{doubtful: true, doubts: 1} }, time.Second},
		"three that failed, few places": {3, 9, 2, false, func() *Place { return &Place{} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				pool := NewConnections(c.limit)
				for range c.bad {
					go pool.holder(t, &Place{doubts: c.doubts, doubtful: !c.answered}, time.Minute, true)
				}
				time.Sleep(50 * time.Millisecond)
				good := c.good()
				if took := pool.holder(t, good, time.Millisecond, false); took > c.within+200*time.Millisecond {
					t.Errorf("it waited for %s", took)
				}
			})
		})
	}
}

// However many come, there are never more places than the limit, nor more dials at a time, and each gets its place.
func TestPlacesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := NewConnections(20)
		var done atomic.Int32
		for i := range 300 {
			go func() {
				pool.holder(t, &Place{doubts: i % 3, doubtful: i%2 == 0}, time.Duration(i%7)*100*time.Millisecond, i%5 == 0)
				done.Add(1)
			}()
		}
		for done.Load() < 300 {
			time.Sleep(10 * time.Millisecond)
			pool.mu.Lock()
			n := pool.countLocked(time.Now())
			pool.mu.Unlock()
			if n.held > 20 || n.dialing > dialsAtOnce {
				t.Fatalf("%+v", n)
			}
		}
		if len(pool.held) > 0 || len(pool.waiting) > 0 {
			t.Errorf("%d are held, %d wait", len(pool.held), len(pool.waiting))
		}
	})
}

// Destinations that wait to dial gain nothing from the connection of another destination: the connection rests, and commits need not wait for
// the disk. Where a place is wanted the connection is given up.
func TestWhoWaitsToDialTakesNoConnections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit, bad int
		good       bool // another destination that is well waits
		crowded    bool
	}{
		"dead, more than may dial":     {200, 20, false, false},
		"dead, few places":             {4, 20, false, false},
		"dead, which have their part":  {9, 20, false, false},
		"a destination that is well":   {1, 0, true, true},
		"nobody":                       {1, 0, false, false},
		"dead, and one that is well":   {2, 20, true, true},
		"dead, and there are places":   {200, 20, true, false},
		"dead, none of them can dial":  {200, 3, false, false},
		"one place, and the dead wait": {1, 3, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				pool, p := NewConnections(c.limit), &Place{}
				if err := pool.Take(t.Context(), nil, p); err != nil {
					t.Fatal(err)
				}
				p.dialed()
				for range c.bad {
					go pool.holder(t, &Place{doubts: 3, doubtful: true}, 10*time.Second, true)
				}
				if c.good {
					go pool.holder(t, &Place{}, time.Second, false)
				}
				time.Sleep(50 * time.Millisecond)
				if got := p.Crowded(); got != c.crowded {
					t.Errorf("crowded: %v", got)
				}
				if got := p.Rest(func() {}); got == c.crowded {
					t.Errorf("the connection rests: %v", got)
				}
				p.release()
			})
		})
	}
}
