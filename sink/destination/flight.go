package destination

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outflow/internal/pgerror"
	"outflow/sink/external"
	"outflow/sink/fold"
	"outflow/sink/lifecycle"
)

// Two batches may be in flight on a connection: the second is sent while the server works on the first, so that the server need
// not wait for this process in between. No further protection is needed: the second batch's compare-and-set expects the result of
// the first, so when the first fails the second fails too, and both are taken from the queue again.

// flight is a pipeline that several batches go through, one after the other.
type flight struct {
	d       *Destination
	p       *external.Pipeline
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timeout *time.Timer // ends ctx when the server does not answer
}

func (d *Destination) takeOff(ctx context.Context) *flight {
	f := &flight{d: d}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	f.timeout = d.after(d.shared.Options.AnswerTimeout(), func() {
		f.cancel(fmt.Errorf("the external server has not answered for %s", d.shared.Options.AnswerTimeout()))
	})
	f.p = d.session.Pipeline(f.ctx)
	return f
}

// land ends the pipeline. Answers not yet read are read and passed over.
func (f *flight) land() error {
	err := f.p.Close()
	f.timeout.Stop()
	f.cancel(nil)
	return err
}

// apply brings batches into the external database, the given one first, each in one external transaction.
func (d *Destination) apply(ctx context.Context, b *batch) error {
	defer func() { d.lookup.Free(d.shared.Lookups, &b.fetched) }()
	if err := d.prepareBatch(ctx, b); err != nil {
		if wide := (*tooWide)(nil); errors.As(err, &wide) {
			return d.oneByOne(ctx, b)
		}
		return err
	}
	f := d.takeOff(ctx)
	sent, err := f.send(b)
	for err == nil {
		next, ahead := d.prefetch(b), (*external.Round)(nil)
		if next != nil && d.session.Compiled(next.rows) && d.whole(next) {
			if ahead, err = f.send(next); err != nil {
				break // the connection is lost, and b too
			}
		}
		if failed := f.receive(sent); failed != nil {
			_ = f.land()
			sent.Failed()
			if ahead != nil {
				ahead.Failed()
			}
			if sent.PlainInsert && conflicts(failed) { // or the unchanged batch fails again
				d.conflicts = true
				return d.reconnect(ctx)
			}
			d.lookup.Free(d.shared.Lookups, &b.fetched)
			return d.applyAgain(ctx, b, failed)
		}
		d.lookup.Free(d.shared.Lookups, &b.fetched)
		d.committed(b)
		if ahead == nil {
			return f.land()
		}
		b, sent = next, ahead
	}
	_ = f.land()
	return err
}

// receive reads a batch's answers.
func (f *flight) receive(r *external.Round) error {
	f.timeout.Reset(f.d.shared.Options.AnswerTimeout())
	err := r.Read()
	f.d.flushed(r.Positions)
	if cause := context.Cause(f.ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// prepareBatch does the work that needs the connection, or the primary, before the pipeline begins.
func (d *Destination) prepareBatch(ctx context.Context, b *batch) error {
	if err := d.fetchToast(ctx, b, b.rows); err != nil {
		return err
	}
	return d.session.Compile(ctx, b.rows)
}

// whole reports whether a batch needs no look-up: a batch that does waits until the batch in flight has given its memory back.
func (d *Destination) whole(b *batch) bool {
	_, keys := fold.FindMissing(b.rows, d.db.Mappings)
	return keys == 0
}

// send writes a batch to the connection.
func (f *flight) send(b *batch) (*external.Round, error) {
	b.async = f.d.mayLag(b)
	r := f.p.Round()
	r.Async, r.PlainInsert = b.async, !f.d.conflicts && f.d.session.backfill == nil
	if err := r.Begin(); err != nil {
		return nil, err
	}
	if err := r.Steps(f.ctx, b.mappings, b.rows); err != nil {
		return nil, err
	}
	if err := r.Advance(b.mappings, b.last, f.d.shared.Router.CheckpointID()); err != nil {
		return nil, err
	}
	f.d.session.Expect(b.mappings, b.last)
	return r, r.Flush()
}

// conflicts reports whether an INSERT met a row that was there.
func conflicts(err error) bool {
	state := external.AsError(err).SQLState
	return state == pgerror.UniqueViolation || state == pgerror.ExclusionViolation
}

// prefetchChanges is how many changes must wait to be worth sending early; fewer changes are better gathered until the server is
// free.
const prefetchChanges = 1000

// prefetch takes the batch behind b, which is in flight, where enough changes wait; nil where not.
func (d *Destination) prefetch(b *batch) *batch {
	if d.session.backfill != nil || d.shared.Workers.Stopping() {
		return nil // chunks are merged between batches
	}
	d.mu.Lock()
	waiting := d.queue.Behind(len(b.transactions), prefetchChanges)
	paused := d.life.Paused || d.life.Renew != lifecycle.Keep
	d.mu.Unlock()
	if waiting < prefetchChanges || paused {
		return nil
	}
	return d.take(b)
}
