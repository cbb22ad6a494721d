package sink

import (
	"testing"
	"time"
)

func TestCheckpointDue(t *testing.T) {
	now := time.Now()
	c := &checkpointer{last: now.Add(-time.Second)}
	for _, test := range []struct {
		name  string
		moved int
		ahead int64
		idle  time.Duration
		due   bool
	}{
		{"nothing has moved", 0, 0, 0, false},
		{"the flush LSN is behind the noted LSN", 0, -1, 0, false},
		{"a destination has moved", 1, 0, time.Hour, true},
		{"a few bytes, asked for", 0, 1, 0, true},
		{"a few bytes, soon after the last", 0, idleBytes - 1, 2 * time.Second, false},
		{"a few bytes, long after the last", 0, 1, time.Second, true},
		{"many bytes", 0, idleBytes, time.Hour, true},
	} {
		c.mu.Lock()
		if due := c.dueLocked(test.moved, test.ahead, test.idle, now); due != test.due {
			t.Errorf("%s: due is %v", test.name, due)
		}
		c.mu.Unlock()
	}
}

func TestCheckpointID(t *testing.T) {
	var c checkpointer
	if id := c.checkpointID(); id != "" {
		t.Errorf("before the first checkpoint the id is %q", id)
	}
	id := "1/2"
	c.id.Store(&id)
	if got := c.checkpointID(); got != id {
		t.Errorf("the id is %q", got)
	}
}
