package limits

import (
	"testing"
	"time"
)

func TestWorkersDrain(t *testing.T) {
	w := NewWorkers()
	begun, end := make(chan struct{}), make(chan struct{})
	if !w.Start(func() { close(begun); <-end }) {
		t.Fatal("a worker is refused before the end")
	}
	<-begun
	drained := make(chan bool)
	go func() { drained <- w.Drain(time.Minute) }()
	<-w.Intake.Done() // waits end at once
	if !w.Stopping() || w.Ctx.Err() != nil {
		t.Error("the work in flight is cancelled before its time is over")
	}
	if w.Start(func() { t.Error("a worker began after the end of the intake") }) {
		t.Error("a worker is taken after the end of the intake")
	}
	close(end)
	if !<-drained {
		t.Error("the worker ended in time, and drain says it did not")
	}
	if !w.Drain(time.Minute) {
		t.Error("a second drain has nothing to wait for")
	}
}

func TestWorkersDrainCancels(t *testing.T) {
	w := NewWorkers()
	w.Start(func() { <-w.Ctx.Done() })
	if w.Drain(0) {
		t.Error("a worker that waits for its cancellation ended in time")
	}
	w.RollBack()
	if !w.Drain(time.Minute) {
		t.Error("a worker is left after the cancellation")
	}
}
