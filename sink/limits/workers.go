package limits

import (
	"context"
	"sync"
	"time"
)

// Workers runs the goroutines that work for destinations, and ends the goroutines in two stages: first no work begins any more, then the work
// in flight is cancelled. Safe for concurrent use.
type Workers struct {
	Ctx    context.Context // of the work in flight: done when the work is to be rolled back
	Cancel context.CancelFunc
	Intake context.Context // done when no work begins any more: ends waits for memory, connections and changes
	close  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// NewWorkers makes the context of work, and runs nothing yet.
func NewWorkers() *Workers {
	w := &Workers{}
	w.Ctx, w.Cancel = context.WithCancel(context.Background())
	w.Intake, w.close = context.WithCancel(w.Ctx)
	return w
}

// Start runs f in a goroutine, unless no work begins any more.
func (w *Workers) Start(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.running.Go(f)
	return true
}

// Stopping reports whether no work begins any more.
func (w *Workers) Stopping() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// Drain ends the intake and waits until every goroutine has returned, for patience at most; false means that some goroutine still runs.
// Drain may be called again.
func (w *Workers) Drain(patience time.Duration) (inTime bool) {
	w.mu.Lock()
	w.closed = true
	w.close()
	w.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.running.Wait()
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// RollBack cancels the work in flight and waits until every goroutine has returned. No goroutine may begin any more: see Drain.
func (w *Workers) RollBack() {
	w.Cancel()
	w.running.Wait()
}
