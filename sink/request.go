package sink

import (
	"cmp"
	"context"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
)

// takeRequests carries out the requests on the primary.
func (r *Router) takeRequests(ctx context.Context) error {
	requests, err := r.State.requests(ctx)
	if err != nil || len(requests) == 0 {
		return err
	}
	failpoint.Hit(failpoint.RequestTaken)
	all := map[[2]string]*Destination{}
	for _, d := range r.Destinations() {
		all[[2]string{d.Tenant, d.Name}] = d
	}
	var reached []request
	for _, q := range requests {
		d := all[[2]string{q.note.tenant, q.note.name}]
		if d == nil {
			continue
		}
		d.carryOut(q)
		if q.until >= 0 && d.hasAll(q.until) {
			reached = append(reached, q)
		}
	}
	if len(reached) == 0 {
		return nil
	}
	return r.State.noteSynced(ctx, reached)
}

// carryOut carries out a request unless the destination has done so already. The next checkpoint notes the request as carried out.
func (d *Destination) carryOut(q request) {
	d.mu.Lock()
	if d.parking { // in an epoch of its own
		d.mu.Unlock()
		return
	}
	resync, retry := q.note.epoch > d.epoch, q.retries > d.retried
	d.retried = max(d.retried, q.retries)
	if resync { // the asking person has seen why the destination was halted
		d.epoch, d.caughtUp = q.note.epoch, false
		d.status.Copied, d.status.CopyTotal = 0, -1
		d.unhalt()
		d.observe()
	}
	d.mu.Unlock()
	switch {
	case resync:
		d.log.Info("a resync was asked for", zap.String("by", q.by), zap.String("reason", cmp.Or(q.why, q.note.reason)))
		d.restart()
	case retry:
		d.tryNow(q)
	}
}

// tryNow ends the pause after a failure.
func (d *Destination) tryNow(q request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log.Info("a try was asked for", zap.String("by", q.by), zap.String("reason", q.why), zap.Bool("waits", d.retryAt != nil))
	if d.retryAt != nil && !d.retryAt.Stop() {
		return
	}
	d.retryAt, d.due = nil, true
	d.backoff.reset()
	d.wake()
}

// hasAll reports whether the stream has brought the destination every change up to the sequence id.
func (d *Destination) hasAll(id int64) bool {
	position := d.router.SequenceID(d.router.Reader.Position()) // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if position < id || d.parked || d.gone || len(d.queue.kept) > 0 {
		return false
	}
	return d.queue.has(id)
}
