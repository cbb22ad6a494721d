package destination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"outflow/sink/backfill"
	"outflow/sink/external"
	"outflow/sink/lifecycle"
	"outflow/sink/limits"
)

// worker is what the goroutine that works for a destination knows. While there is no such goroutine, the lock of the destination guards all of it.
type worker struct {
	session    *session                    // set under the lock; nil: not connected
	more       chan struct{}               // wakes the worker that waits for more of a large transaction
	cancelWork context.CancelFunc          // of the current run
	errand     func(context.Context) error // what the next worker does first, nil mostly
	retryAt    *time.Timer                 // runs while the destination waits to try again; nil else
	idle       *time.Timer                 // runs while a connection is kept without work, or until the next look at the flushed WAL
	turnEnded  bool                        // the worker was stopped because others waited for the connection

	doing     work
	asked     time.Time        // when askFlush was last called beside a backfill
	conflicts bool             // rows new on the source were there already: from then on ON CONFLICT is kept
	careful   int64            // id of a large transaction with a refused row: see batch.careful
	lookup    limits.Appetite  // what the look-ups have learnt
	slot      *limits.SlotUser // of the backfill slots
	pace      backfill.Pace    // of copies
}

// work is the worker's loop: take queued transactions and apply them until nothing is left or something fails.
func (d *Destination) work(ctx context.Context) {
	for err := d.runErrand(ctx); ; err = d.step(ctx) {
		switch {
		case err == nil:
		case errors.Is(err, errNothing):
			if d.rest() {
				return
			}
		default:
			d.failed(external.AsError(err))
			return
		}
	}
}

// errGone ends a worker's work because its destination was removed.
var errGone = fmt.Errorf("the destination was removed: %w", context.Canceled)

// errNothing says that there is nothing to do.
var errNothing = errors.New("nothing is queued")

// step connects where needed, and does one piece of work: a chunk of a backfill whose time has come, a batch of live changes, or
// the next move of a backfill.
func (d *Destination) step(ctx context.Context) error {
	paused, err := d.refresh()
	if err != nil {
		return err
	}
	if d.shared.Workers.Stopping() || ctx.Err() != nil || paused {
		return cmp.Or(ctx.Err(), errNothing)
	}
	if d.session == nil {
		d.doing = opening
		if err := d.connect(ctx); err != nil {
			return err
		}
	}
	return d.advance(ctx)
}

// turnOverLocked reports whether the connection is to be given up for another destination. A chunk that is being read, or waits, is applied before.
// The worker calls turnOverLocked.
func (d *Destination) turnOverLocked() bool {
	s := d.session
	if s == nil || s.backfill != nil && s.backfill.Busy() {
		return false
	}
	return s.Place.TurnOver()
}

// refresh gives up a session that is out of date, with what the session's queue needs.
func (d *Destination) refresh() (paused bool, err error) {
	after, paused, err := d.renew()
	if err != nil {
		return false, err
	}
	if after.closing != nil {
		d.slot.Leave()
	}
	d.settleUp(after)
	return paused, nil
}

// renew is the part of refresh under the lock.
func (d *Destination) renew() (after aftermath, paused bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Stream == lifecycle.Removed {
		return after, false, errGone
	}
	if d.hasWorkLocked() && d.turnOverLocked() {
		d.happensLocked(lifecycle.TurnedOver)
	}
	d.queue.Grounded()
	return d.happensLocked(lifecycle.Stepped), d.life.Paused, nil
}

// advance does the most urgent work on the session: a chunk with nothing more to wait for, then the queue, then the next part of
// a copy. The result is errNothing where there is nothing to do.
func (d *Destination) advance(ctx context.Context) error {
	bf := d.session.backfill
	if bf != nil && bf.Mergeable() {
		d.doing = copying
		if err := bf.Merge(ctx); !errors.Is(err, backfill.ErrWaits) {
			return err
		}
		return errNothing
	}
	d.doing = applying
	if b := d.take(nil); b != nil {
		defer d.slot.AsksWithChunk()()
		if b.large != nil {
			return d.applyLarge(ctx, b)
		}
		return d.apply(ctx, b)
	}
	if bf != nil {
		d.doing = copying
		if err := bf.Advance(ctx); err != nil {
			return err
		}
		// The idle timer may never come to run out beside a waiting backfill.
		if err := d.askFlushNowAndThen(ctx); err != nil {
			return err
		}
	}
	return errNothing
}

// rest ends the worker when there is really nothing to do, and keeps the connection for a while.
func (d *Destination) rest() bool {
	ended, closed, paused := d.endWork()
	if closed != nil {
		closed.close()
	}
	if ended && paused {
		d.slot.Leave()
	}
	return ended
}

// endWork is the part of rest under the lock. closed is a connection to be closed, nil where the connection is kept.
func (d *Destination) endWork() (ended bool, closed *session, paused bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stopping := d.shared.Workers.Stopping()
	if !d.life.MayRest(d.queue.Ready(), stopping) {
		return false, nil, false
	}
	s, paused := d.session, d.life.Paused
	if paused || stopping || d.settledLocked() {
		d.happensLocked(lifecycle.Rested)
	} else {
		d.happensLocked(lifecycle.RestedUnsettled)
		d.waitLocked(settlePause)
	}
	switch {
	case s == nil || stopping:
	case d.queue.Applied() > 0:
		d.idle = d.after(flushPause, d.confirmFlush)
	case !paused && s.backfill != nil && s.backfill.HoldsSlot(): // the backfill's chunk comes
	case !paused && d.shared.Options.IdleClose > 0 && !s.Heavy() && s.Place.Rest(d.closeIdle):
		d.idle = d.after(d.shared.Options.IdleClose, d.closeIdle)
	default: // a backfill that waits for a slot is woken without a connection
		d.session, closed = nil, s
	}
	return true, closed, paused
}

// settlePause is how often a destination found halted by a restart looks whether the stream has brought the failed change.
const settlePause = 200 * time.Millisecond

// closeIdle gives up the connection unless a worker runs. Any goroutine may call closeIdle, the worker of another destination too.
func (d *Destination) closeIdle() {
	defer d.Contained()
	if s := d.takeIdle(); s != nil {
		s.close()
	}
}

func (d *Destination) takeIdle() (s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Work != lifecycle.Working && d.idle != nil {
		d.stirLocked()
		s, d.session = d.session, nil
	}
	return s
}

// Stop closes the rest after the router has stopped.
func (d *Destination) Stop() {
	d.mu.Lock()
	after := d.happensLocked(lifecycle.Ended)
	d.mu.Unlock()
	d.settleUp(after)
}
