package sink

import (
	"cmp"
	"context"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// takeRequests carries out the requests on the primary.
func (r *Router) takeRequests(ctx context.Context) error {
	requests, err := r.Ledger.Requests(ctx)
	if err != nil || len(requests) == 0 {
		return err
	}
	failpoint.Hit(failpoint.RequestTaken)
	all := map[[2]string]*Destination{}
	for _, d := range r.Destinations() {
		all[[2]string{d.Tenant, d.Name}] = d
	}
	var reached []ledger.Request
	for _, q := range requests {
		d := all[[2]string{q.Note.Tenant, q.Note.Name}]
		if d == nil {
			continue
		}
		d.carryOut(q)
		if q.Until >= 0 && d.hasAll(q.Until) {
			reached = append(reached, q)
		}
	}
	if len(reached) == 0 {
		return nil
	}
	return r.Ledger.AnswerSync(ctx, reached)
}

// carryOut carries out a request unless the destination has done so already. The next checkpoint notes the request as carried out.
func (d *Destination) carryOut(q ledger.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Noting { // in an epoch of its own
		return
	}
	resync, retry := q.Note.Epoch > d.noted.epoch, q.Retries > d.noted.retried
	d.noted.retried = max(d.noted.retried, q.Retries)
	switch {
	case resync: // the asking person has seen why the destination was halted
		d.log.Info("a resync was requested", zap.String("by", q.By), zap.String("reason", cmp.Or(q.Why, q.Note.Reason)))
		d.raisedLocked(q.Note.Epoch)
		d.unhaltLocked()
		d.observeLocked()
		d.happensLocked(lifecycle.CopyAsked)
	case retry:
		d.log.Info("a retry was requested", zap.String("by", q.By), zap.String("reason", q.Why), zap.Bool("waits", d.life.Work == lifecycle.Waiting))
		d.tryNowLocked()
	}
}

// tryNowLocked ends the pause after a failure.
func (d *Destination) tryNowLocked() {
	d.failures.backoff.reset()
	d.happensLocked(lifecycle.TryAsked)
}

// hasAll reports whether the stream has brought the destination every change up to the sequence id.
func (d *Destination) hasAll(id int64) bool {
	position := d.router.SequenceID(d.router.Reader.Position()) // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if position < id || d.life.Stream == lifecycle.Detached || d.life.Stream == lifecycle.Removed || d.queue.AwaitsReplay() {
		return false
	}
	return d.queue.Has(id)
}
