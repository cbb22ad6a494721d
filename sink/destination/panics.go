package destination

import (
	"context"
	"time"

	"go.uber.org/zap"

	"outflow/sink/external"
	"outflow/sink/lifecycle"
)

// A panic is the fault of a single destination where the goroutine works for the destination: the worker, a read of a chunk, a parking, a
// timer. An external server may send an unforeseen answer, and such an answer must not end the process for all others. The parts shared by all
// destinations (the reader, the router, checkpoints) have no recover: a panic there ends the process, and a standby takes over.
//
// A lock still locked behind a panic would hold up every goroutine at the destination, the reader first. Code that may
// panic therefore holds a lock with defer; where a lock is not free all the same, the process ends with the panic.

// lockPatience is how long a goroutine waits behind a panic for the destination's lock.
const lockPatience = 10 * time.Second

// panicked is the fault of the destination behind a panic. panicked ends the process where the destination's lock was left locked.
func (d *Destination) panicked(cause any) *external.Error {
	d.log.Error("a bug in Outflow", zap.Any("panic", cause), zap.Stack("stack"))
	for deadline := time.Now().Add(lockPatience); !d.mu.TryLock(); time.Sleep(lockPatience / 1000) {
		if time.Now().After(deadline) {
			panic(cause)
		}
	}
	d.mu.Unlock()
	return external.Panicked(cause)
}

// recovered turns a panic of the worker into a failure of the destination. The worker defers the call.
func (d *Destination) recovered() {
	if cause := recover(); cause != nil {
		d.failed(d.panicked(cause))
	}
}

// Contained turns a panic of a goroutine beside the worker into a failure of the destination, or into a line of the log where the worker
// runs and goes on. The goroutine defers the call.
func (d *Destination) Contained() {
	cause := recover()
	if cause == nil {
		return
	}
	fault := d.panicked(cause)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sendLocked(lifecycle.Panicked, func(context.Context) error { return fault })
}

// after calls f when the time has passed, and contains a panic of f.
func (d *Destination) after(wait time.Duration, f func()) *time.Timer {
	return time.AfterFunc(wait, func() {
		defer d.Contained()
		f()
	})
}
