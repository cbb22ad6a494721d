package sink

import (
	"cmp"
	"context"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/sink/ledger"
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
	if d.parking { // in an epoch of its own
		d.mu.Unlock()
		return
	}
	resync, retry := q.Note.Epoch > d.epoch, q.Retries > d.retried
	d.retried = max(d.retried, q.Retries)
	if resync { // the asking person has seen why the destination was halted
		d.epoch, d.caughtUp = q.Note.Epoch, false
		d.status.Copied, d.status.CopyTotal = 0, -1
		d.unhaltLocked()
		d.observeLocked()
	}
	d.mu.Unlock()
	switch {
	case resync:
		d.log.Info("a resync was requested", zap.String("by", q.By), zap.String("reason", cmp.Or(q.Why, q.Note.Reason)))
		d.restart()
	case retry:
		d.tryNow(q)
	}
}

// tryNow ends the pause after a failure.
func (d *Destination) tryNow(q ledger.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log.Info("a retry was requested", zap.String("by", q.By), zap.String("reason", q.Why), zap.Bool("waits", d.retryAt != nil))
	if d.retryAt != nil && !d.retryAt.Stop() {
		return
	}
	d.retryAt, d.due = nil, true
	d.backoff.reset()
	d.wakeLocked()
}

// hasAll reports whether the stream has brought the destination every change up to the sequence id.
func (d *Destination) hasAll(id int64) bool {
	position := d.router.SequenceID(d.router.Reader.Position()) // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if position < id || d.parked || d.gone || len(d.queue.Kept) > 0 {
		return false
	}
	return d.queue.Has(id)
}
