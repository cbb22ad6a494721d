package replication

import (
	"errors"
	"sync"
)

// errRestart ends a session because a caller wants the stream again from the flush LSN.
var errRestart = errors.New("the stream is read again")

// restart is the wish for the stream from the flush LSN again, and the stream that the wish interrupts. Safe for concurrent use.
type restart struct {
	mu      sync.Mutex
	current *stream // of the running session
	wanted  bool    // in the running session
}

// begin tells of a new session: a wish from before has come true.
func (r *restart) begin(s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current, r.wanted = s, false
}

// end tells that the session has ended.
func (r *restart) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = nil
}

// asked reports whether the running session is to end.
func (r *restart) asked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wanted
}

// Restart ends the current session; the next session starts at the flush LSN, so unacknowledged transactions come
// again. Safe for concurrent use; Restart does not wait.
func (r *Reader) Restart() {
	r.restart.mu.Lock()
	defer r.restart.mu.Unlock()
	r.restart.wanted = true
	if r.restart.current != nil {
		r.restart.current.interrupt()
	}
}
