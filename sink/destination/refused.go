package destination

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

// A round of a careful transaction that the external database refuses goes change by change, in source order. A refused change then waits
// for the others, with all later changes of the same row: a row may only be deleted after the referring rows, and the source may have
// written the rows in another order. The changes left at the end are tried as a whole, with deferrable constraints deferred. Only a change
// that the database refuses even then is at fault: the change is put off to the running copy, or set aside, or halts the destination.

// applyGuarded applies some changes of a transaction: of a careful one behind a savepoint, and change by change where the round fails.
func (d *Destination) applyGuarded(ctx context.Context, b *batch, changes []wal.Change) error {
	if !b.careful {
		return d.applyRound(ctx, b, changes)
	}
	if !b.refused.Concern(changes) {
		refusal, err := d.attempt(ctx, b, changes)
		if err == nil && refusal == nil && len(changes) > 0 && changes[0].Kind == wal.Truncate {
			err = d.retryRefused(ctx, b) // perhaps a table refers to the truncated table: the referring table must be empty before rows come
		}
		if err != nil || refusal == nil {
			return err
		}
		d.log.Info("applying a transaction change by change, because it is refused as a whole", zap.Error(refusal))
	}
	for i := range changes {
		if !d.reads[changes[i].Relation.Table] {
			continue
		}
		for _, c := range fold.SplitKeyChange(&changes[i]) {
			if err := d.applyOne(ctx, b, &b.refused, &c); err != nil {
				return err
			}
		}
	}
	if len(b.refused.Changes) > d.shared.Options.BatchRows {
		return &external.Error{Verdict: external.Outdated, Err: fmt.Errorf("the external database refuses more than %d changes of a transaction in the primary's order",
			d.shared.Options.BatchRows)}
	}
	return nil
}

// applyOne applies one change, unless the change has to wait.
func (d *Destination) applyOne(ctx context.Context, b *batch, waiting *fold.Waiting, c *wal.Change) error {
	if waiting.Waits(c) {
		waiting.Add(c)
		return nil
	}
	refusal, err := d.attempt(ctx, b, []wal.Change{*c})
	if refusal != nil {
		waiting.Add(c)
	}
	return err
}

// attempt applies changes behind a savepoint. A refusal is a row fault, after which the external transaction is as before the attempt.
func (d *Destination) attempt(ctx context.Context, b *batch, changes []wal.Change) (refusal *external.Error, err error) {
	applied := b.changes
	truncate := len(changes) > 0 && changes[0].Kind == wal.Truncate // of many round trips
	if truncate {
		if err := d.session.Exec(ctx, "SAVEPOINT outflow_round"); err != nil {
			return nil, fmt.Errorf("SAVEPOINT: %w", err)
		}
	}
	b.guarded, d.session.KeepOpen = !truncate, true
	err = d.applyRound(ctx, b, changes)
	b.guarded, d.session.KeepOpen = false, false
	if err == nil {
		if truncate {
			err = d.session.Exec(ctx, "RELEASE SAVEPOINT outflow_round")
		}
		return nil, err
	}
	e := external.AsError(err)
	if e.Verdict != external.RowFault || !d.session.Refused() {
		return nil, err
	}
	b.changes = applied
	if err := d.session.Exec(ctx, "ROLLBACK TO SAVEPOINT outflow_round"); err != nil {
		return nil, fmt.Errorf("rolling back to a savepoint: %w", err)
	}
	return e, nil
}

// retryRefused applies the waiting changes that the external database takes now.
func (d *Destination) retryRefused(ctx context.Context, b *batch) error {
	for before := 0; len(b.refused.Changes) > 0 && len(b.refused.Changes) != before; {
		before = len(b.refused.Changes)
		var left fold.Waiting
		for i := range b.refused.Changes {
			if err := d.applyOne(ctx, b, &left, &b.refused.Changes[i]); err != nil {
				return err
			}
		}
		b.refused = left
	}
	return nil
}

// settleRefused decides on the waiting changes, when all others of the transaction are applied.
func (d *Destination) settleRefused(ctx context.Context, b *batch) error {
	if err := d.retryRefused(ctx, b); err != nil {
		return err
	}
	if err := d.settleDeferred(ctx, b); err != nil {
		return err
	}
	changes := b.refused.Changes
	for i := range changes {
		c := &changes[i]
		refusal, err := d.attempt(ctx, b, changes[i:i+1])
		if err == nil && refusal != nil {
			err = d.refuse(ctx, b, c, refusal)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settleDeferred tries the waiting changes with deferrable constraints deferred to the end: rows may refer to each other in a circle.
func (d *Destination) settleDeferred(ctx context.Context, b *batch) error {
	if len(b.refused.Changes) < 2 {
		return nil
	}
	for _, sql := range []string{"SAVEPOINT outflow_settle", "SET CONSTRAINTS ALL DEFERRED"} {
		if err := d.session.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	var left fold.Waiting
	for i := range b.refused.Changes {
		if err := d.applyOne(ctx, b, &left, &b.refused.Changes[i]); err != nil {
			return err
		}
	}
	err := d.session.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE")
	if err == nil {
		b.refused = left
		err = d.session.Exec(ctx, "RELEASE SAVEPOINT outflow_settle")
		return err
	}
	if external.AsError(err).Verdict == external.RowFault {
		err = d.session.Exec(ctx, "ROLLBACK TO SAVEPOINT outflow_settle")
	}
	return err
}

// refuse decides on a change that the external database takes in no order.
func (d *Destination) refuse(ctx context.Context, b *batch, c *wal.Change, e *external.Error) error {
	named := e
	if c.Kind != wal.Truncate {
		named = external.OfRow(e, c.Relation, fold.RowOf(c))
	}
	putOff, err := d.session.backfill.PutOffLive(ctx, b.mappings, b.cursor, named)
	if putOff != nil {
		b.cursor = putOff
	}
	if putOff != nil || err != nil {
		return err
	}
	if d.shared.Options.Quarantines() && c.Kind != wal.Truncate {
		return d.session.Quarantine(ctx, external.Quarantined{Relation: c.Relation, Op: c.Kind.String(), Row: fold.RowOf(c), SequenceID: b.last, Err: named})
	}
	return named
}
