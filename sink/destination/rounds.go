package destination

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
	"outflow/sink/queue"
)

// applyLarge brings one transaction into the external database in several rounds inside one external transaction. The changes may still be
// arriving; applied changes are let go of when the queue needs the room, and then a failure means reading the stream again.
//
// Where the external database refuses a row, the transaction is applied again carefully: each round stands behind a savepoint, and a
// refused round goes change by change (see refused.go).
func (d *Destination) applyLarge(ctx context.Context, b *batch) error {
	b.careful = b.careful || d.careful == b.large.ID
	err := d.applyInRounds(ctx, b)
	if err == nil {
		err = d.commitRounds(ctx, b)
	}
	if err == nil {
		return nil
	}
	d.session.Rollback()
	if b.careful || external.AsError(err).Verdict != external.RowFault {
		return err
	}
	d.careful = b.large.ID
	if !d.restarted(b.large) {
		return &external.Error{Verdict: external.Conflict, SQLState: external.SQLState(err), Err: fmt.Errorf("a row was refused; the transaction is read again to find the row: %w", err)}
	}
	if err := d.reconnect(ctx); err != nil {
		return err
	}
	b.changes = 0
	return d.applyLarge(ctx, b)
}

// restarted has the changes of a transaction applied from the first one on, and reports whether all changes are here.
func (d *Destination) restarted(t *queue.Transaction) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queue.Restart(t)
}

// applyInRounds applies all changes of a transaction within an external transaction, and leaves the external transaction open.
func (d *Destination) applyInRounds(ctx context.Context, b *batch) error {
	if err := d.beginRounds(ctx, b); err != nil {
		return err
	}
	limit := d.shared.Options.BatchRows
	for done := false; !done; {
		var changes []wal.Change
		var err error
		if changes, done, err = d.nextChanges(ctx, b.large); err != nil {
			return err
		}
		d.session.backfill.Track(b.large.XID, changes)
		if limit, err = d.applyPieces(ctx, b, changes, limit); err != nil {
			return err
		}
		if err := failpoint.Fail(failpoint.RoundApplied); err != nil {
			return err
		}
		d.shed(b.large)
	}
	return d.settleRefused(ctx, b)
}

// applyPieces applies changes in one round or in several: in as many as their missing values need, see [tooWide]. limit is the size of the
// last round, in changes, and then of the next one.
func (d *Destination) applyPieces(ctx context.Context, b *batch, changes []wal.Change, limit int) (next int, err error) {
	for len(changes) > 0 {
		n := min(len(changes), limit)
		d.lookup.Used = 0
		err := d.applyGuarded(ctx, b, changes[:n])
		if wide := (*tooWide)(nil); errors.As(err, &wide) {
			limit = wide.part(n)
			continue
		}
		if err != nil {
			return limit, err
		}
		if changes = changes[n:]; n == limit && d.lookup.Spare(d.shared.Lookups) {
			limit *= 2
		}
	}
	return limit, nil
}

// beginRounds begins an external transaction with several rounds. A careful one has its deferred constraints checked after each statement, so
// that a refusal has a row.
func (d *Destination) beginRounds(ctx context.Context, b *batch) error {
	return d.exchange(ctx, func(_ context.Context, r *external.Round) error {
		if err := r.Begin(); err != nil {
			return err
		}
		if b.careful {
			r.Exec("SET CONSTRAINTS", "outflow_constraints", "SET CONSTRAINTS ALL IMMEDIATE")
		}
		return nil
	})
}

// commitRounds ends the external transaction: metadata and COMMIT.
func (d *Destination) commitRounds(ctx context.Context, b *batch) error {
	err := d.exchange(ctx, func(_ context.Context, r *external.Round) error {
		return r.Advance(b.mappings, b.last, d.shared.Router.CheckpointID())
	})
	if err == nil {
		d.committed(b)
	}
	return err
}

// exchange is one round trip.
func (d *Destination) exchange(ctx context.Context, fill func(context.Context, *external.Round) error) error {
	positions, err := d.session.Exchange(ctx, fill)
	d.flushed(positions)
	return err
}

// openPatience is how long an external transaction stays open while something of the primary does not come.
const openPatience = 5 * time.Second

// nextChanges waits for unapplied changes of t and returns the changes, at most a batch, of one shape, a TRUNCATE by itself. done says
// that the changes are the last of t.
func (d *Destination) nextChanges(ctx context.Context, t *queue.Transaction) (changes []wal.Change, done bool, err error) {
	// The open external transaction is kept alive: the server ends an idle transaction, in order to notice a dead client.
	alive, look := time.NewTicker(d.shared.Options.LockTimeout/2), time.NewTicker(openPatience/10)
	defer alive.Stop()
	defer look.Stop()
	defer d.awaits(nothing)
	for began := time.Now(); ; {
		d.mu.Lock()
		changes, done, come := d.queue.Next(t)
		d.mu.Unlock()
		if come {
			return changes, done, nil
		}
		d.awaits(changesToCome)
		select {
		case <-d.more:
		case <-alive.C:
			if err := d.session.Exec(ctx, "SELECT 1"); err != nil {
				return nil, false, err
			}
		case <-look.C:
			if d.shared.stalled(began) {
				return nil, false, d.postpone(t)
			}
		case <-d.shared.Workers.Intake.Done(): // the rest will not come
			return nil, false, context.Canceled
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// errPostponed ends an external transaction without a failure: the stream brings the source transaction again.
var errPostponed = errors.New("the rest of a large transaction does not arrive while the primary is down")

// postpone has the stream bring a transaction again from its first change. An external transaction must not stay open, with locks on the
// tenant's tables, until the primary is back.
func (d *Destination) postpone(t *queue.Transaction) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue.Postpone(t)
	d.log.Warn("rolled back: the rest of a large transaction does not arrive; the stream brings the transaction again", zap.Int64("sequence_id", t.ID))
	return errPostponed
}

// shed makes room in the queue where the queue needs room.
func (d *Destination) shed(t *queue.Transaction) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue.Shed(t)
}

// applyRound brings some changes of a transaction into the open external transaction.
func (d *Destination) applyRound(ctx context.Context, b *batch, changes []wal.Change) error {
	if len(changes) == 1 && changes[0].Kind == wal.Truncate {
		return d.truncate(ctx, b, changes[0].Relation)
	}
	changes, err := d.withoutEarlierLives(ctx, b.large, changes)
	if err != nil {
		return err
	}
	var f fold.Fold
	d.fold(&f, b.large, changes)
	rows := f.Rows()
	d.shared.Schemas.Widen(rows)
	if err := d.applyRows(ctx, b, rows); err != nil {
		return err
	}
	for _, r := range rows {
		b.changes += r.Len(mapping.Any)
	}
	return nil
}

func (d *Destination) applyRows(ctx context.Context, b *batch, rows map[string]*mapping.Rows) error {
	defer d.lookup.Free(d.shared.Lookups, &b.fetched)
	if err := d.fetchToast(ctx, b, rows); err != nil {
		return err
	}
	if err := d.session.Compile(ctx, rows); err != nil {
		return err
	}
	return d.exchange(ctx, func(ctx context.Context, r *external.Round) error {
		if b.guarded {
			r.Exec("SAVEPOINT", "outflow_savepoint", "SAVEPOINT outflow_round")
		}
		if err := r.Steps(ctx, b.mappings, rows); err != nil {
			return err
		}
		if b.guarded {
			r.Exec("RELEASE", "outflow_release", "RELEASE SAVEPOINT outflow_round")
		}
		return nil
	})
}

// applyAgain follows a failed batch. A row error sends the transactions of the batch again one by one, in source order.
func (d *Destination) applyAgain(ctx context.Context, b *batch, err error) error {
	if external.AsError(err).Verdict != external.RowFault {
		return err
	}
	d.log.Info("a folded batch failed; applying its transactions one by one", zap.Error(err))
	b.careful = true
	return d.oneByOne(ctx, b)
}

// oneByOne applies the transactions of a batch in source order, each in an external transaction of its own, in rounds, and carefully where the
// batch is to be applied carefully.
func (d *Destination) oneByOne(ctx context.Context, b *batch) error {
	for _, t := range b.transactions {
		if err := d.reconnect(ctx); err != nil {
			return err
		}
		one := &batch{transactions: []*queue.Transaction{t}, mappings: b.mappings, last: t.ID, large: t, careful: b.careful}
		if err := d.applyLarge(ctx, one); err != nil {
			return err
		}
	}
	return nil
}
