package destination

import (
	"context"
	"time"

	"outflow/internal/failpoint"
	"outflow/sink/external"
	"outflow/sink/lifecycle"
)

// A batch commits with synchronous_commit off: the answer comes without waiting for the external server's disk. The batch's
// transactions stay in the queue, and their tickets held, until the server reports its WAL flushed beyond the transactions. If
// the server crashes before, rows and metadata go back together, and the same transactions are taken from the queue again.

// flushPause is how often an idle destination asks whether its last commits are flushed. The server's WAL writer needs at
// most three of its rounds, 200 ms each by default (the Postgres manual, "Asynchronous Commit").
const flushPause = 100 * time.Millisecond

// mayLag decides whether a batch commits without waiting for the disk. A batch that would leave too many bytes waiting for the
// flush does wait for the disk, and flushes all commits before.
func (d *Destination) mayLag(b *batch) bool {
	if b.large != nil || !d.session.TellsPositions {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session.Place.Crowded() { // the connection is for others, and must not wait for the flush
		return false
	}
	return d.queue.MayLag(b.bytes, time.Now())
}

// flushed takes the external server's WAL positions, as just reported by the server; zero positions are none.
func (d *Destination) flushed(p external.Positions) {
	if p == (external.Positions{}) {
		return
	}
	d.mu.Lock()
	tickets := d.queue.Flushed(p.Insert, p.Flush, time.Now())
	d.mu.Unlock()
	if len(tickets) > 0 {
		failpoint.Hit(failpoint.Flushed)
	}
	d.shared.Acks.Release(tickets...)
}

// confirmFlush runs when a destination is idle and its last commits may not be flushed yet.
func (d *Destination) confirmFlush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = nil
	d.sendLocked(lifecycle.FlushDue, d.askFlush)
}

// askFlushNowAndThen asks once every flushPause while commits wait to be flushed.
func (d *Destination) askFlushNowAndThen(ctx context.Context) error {
	d.mu.Lock()
	waiting := d.queue.Applied() > 0
	d.mu.Unlock()
	if !waiting || time.Since(d.asked) < flushPause {
		return nil
	}
	d.asked = time.Now()
	return d.askFlush(ctx)
}

func (d *Destination) askFlush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.shared.Options.ConnectTimeout)
	defer cancel()
	if d.session.TellsPositions {
		p, err := d.session.AskPositions(ctx)
		if err != nil {
			return err
		}
		d.flushed(p)
	}
	d.mu.Lock()
	force, n := d.queue.Overdue(time.Now()) || d.queue.Applied() > 0 && !d.session.TellsPositions, d.queue.Applied() // commits of an earlier session may lag
	d.mu.Unlock()
	if !force {
		return nil
	}
	if err := d.session.FlushAll(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	tickets := d.queue.LetGo(n)
	d.mu.Unlock()
	d.shared.Acks.Release(tickets...)
	return nil
}

// Settle waits, at the end of the process, until the last commits are flushed, so that the next process need not read the
// transactions again. Transactions not flushed within the time of the server's defaults are read again and skipped.
func (d *Destination) Settle() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	tick := time.NewTicker(flushPause / 4)
	defer tick.Stop()
	for {
		d.mu.Lock()
		waiting := d.queue.Applied() > 0 && d.session != nil
		d.mu.Unlock()
		if !waiting || d.askFlush(ctx) != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
