package queue

import (
	"testing"
)

// opened reports whether a channel of the gate lets the reader go on.
func opened(c <-chan struct{}) bool {
	if c == nil {
		return true
	}
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestGate(t *testing.T) {
	g := &Gate{Limit: 100}
	g.Add(100, 0)
	if !opened(g.Full()) || g.Closed() || g.Excess() != 0 {
		t.Error("the gate is closed at its limit")
	}
	g.Add(1, 0)
	waits := g.Full()
	if opened(waits) || !g.Closed() || g.Excess() != 26 {
		t.Errorf("the gate is open above its limit, or the excess is wrong: %d", g.Excess())
	}
	g.Add(-25, 0)
	if opened(waits) || opened(g.Full()) || g.Excess() != 1 {
		t.Error("the gate flutters: it opens just below its limit")
	}
	g.Add(-1, 0)
	if !opened(waits) || !opened(g.Full()) || g.Closed() || g.Excess() != 0 {
		t.Error("the gate is closed at three quarters of its limit")
	}
	g.Add(0, 2)
	waits = g.Full()
	g.Add(0, -1)
	if opened(waits) || g.Excess() != 0 {
		t.Error("the gate is open, and a destination is over its own bound")
	}
	if g.Add(0, -1); !opened(waits) {
		t.Error("the gate is closed, and no destination is over its bound")
	}
}

func TestGateHold(t *testing.T) {
	g := &Gate{Limit: 100}
	if g.Held() != nil {
		t.Error("reading is off at the start")
	}
	g.Hold(true)
	waits := g.Held()
	if g.Hold(true); opened(waits) || g.Held() != waits {
		t.Error("reading is on after it was switched off twice")
	}
	if !opened(g.Full()) {
		t.Error("a gate that is held is full")
	}
	if g.Hold(false); !opened(waits) || g.Held() != nil {
		t.Error("reading is off after it was switched on")
	}
	g.Hold(false)
}
