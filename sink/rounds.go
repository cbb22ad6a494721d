package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication"
)

// applyLarge brings one transaction into the external database in several rounds inside one external transaction. Its
// changes may still be arriving; those that were applied are let go of when the queue needs the room, and then a failure
// means reading the stream again.
func (d *Destination) applyLarge(ctx context.Context, b *batch) error {
	if err := d.open(ctx, b); err != nil {
		return err
	}
	for {
		changes, done, err := d.nextChanges(ctx, b.large)
		if err != nil {
			d.session.rollback()
			return err
		}
		d.session.backfill.trackChanges(b.large.xid, changes)
		if err := d.applyRound(ctx, b, changes); err != nil {
			d.session.rollback()
			return d.recoverLarge(ctx, b, err)
		}
		d.release(b.large)
		if done {
			break
		}
	}
	if err := d.close(ctx, b); err != nil {
		return d.recoverLarge(ctx, b, err)
	}
	return nil
}

// open begins an external transaction that takes several rounds.
func (d *Destination) open(ctx context.Context, b *batch) error {
	return d.exchange(ctx, func(_ context.Context, r *round) error {
		r.begin(b)
		return nil
	})
}

// close ends it: metadata and COMMIT.
func (d *Destination) close(ctx context.Context, b *batch) error {
	err := d.exchange(ctx, func(_ context.Context, r *round) error {
		r.advance(b)
		r.commit()
		return nil
	})
	if err == nil {
		d.committed(b)
	}
	return err
}

// exchange is one round trip.
func (d *Destination) exchange(ctx context.Context, fill func(context.Context, *round) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.router.Options.StatementTimeout+d.router.Options.LockTimeout)
	defer cancel()
	r := d.session.round(ctx)
	err := fill(ctx, r)
	if err == nil {
		err = r.flush()
	}
	if err != nil {
		_ = r.p.Close()
		return err
	}
	return r.receive()
}

// nextChanges waits for changes of t that were not applied yet and returns them, at most a batch, of one shape, a TRUNCATE
// by itself. done says that they are the last ones.
func (d *Destination) nextChanges(ctx context.Context, t *transaction) (changes []replication.Change, done bool, err error) {
	// The open external transaction is kept alive: the server ends one that is idle, and would notice a dead client so.
	alive := time.NewTicker(d.router.Options.LockTimeout / 2)
	defer alive.Stop()
	for {
		d.mu.Lock()
		rest := t.changes[t.next:]
		if len(rest) > 0 || t.complete {
			n := d.sameShape(rest[:min(len(rest), d.limit)])
			t.next += n
			done = t.complete && t.next == len(t.changes)
			d.mu.Unlock()
			return rest[:n], done, nil
		}
		d.mu.Unlock()
		select {
		case <-d.more:
		case <-alive.C:
			if _, err := d.session.exec(ctx, "SELECT 1"); err != nil {
				return nil, false, err
			}
		case <-d.router.stop: // the rest will not come
			return nil, false, context.Canceled
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// sameShape is how many of the changes, from the first, can be folded together.
func (d *Destination) sameShape(changes []replication.Change) int {
	shapes := map[string]*replication.Relation{}
	for i := range changes {
		rel := changes[i].Relation
		if changes[i].Kind == replication.Truncate {
			return max(i, 1)
		}
		if known := shapes[rel.Table]; known != nil && !known.SameShape(rel) {
			return i
		}
		shapes[rel.Table] = rel
	}
	return len(changes)
}

// release lets go of applied changes when the queue is filling up.
func (d *Destination) release(t *transaction) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.next == 0 || (d.bytes <= d.router.Options.QueueBytes/4 && !d.router.gate.closed()) {
		return
	}
	var freed int64
	for i := range t.changes[:t.next] {
		freed += t.changes[i].Bytes()
	}
	t.changes = slices.Clone(t.changes[t.next:])
	t.next, t.dropped = 0, true
	t.bytes -= freed
	d.account(-freed)
}

// applyRound brings some changes of a transaction into the open external transaction.
func (d *Destination) applyRound(ctx context.Context, b *batch, changes []replication.Change) error {
	if len(changes) == 1 && changes[0].Kind == replication.Truncate {
		return d.truncate(ctx, b, changes[0].Relation)
	}
	var f fold
	d.fold(&f, b.large, changes)
	rows := d.net(&f)
	for _, r := range rows {
		b.changes += r.Len(mapping.Any)
	}
	return d.applyRows(ctx, b, rows)
}

func (d *Destination) applyRows(ctx context.Context, b *batch, rows map[string]*mapping.Rows) error {
	if err := d.fetchToast(ctx, b.transactions, rows); err != nil {
		return err
	}
	if err := d.session.compile(ctx, rows); err != nil {
		return err
	}
	return d.exchange(ctx, func(ctx context.Context, r *round) error { return r.steps(ctx, b, rows) })
}

// recover follows a failed batch. A row error sends its transactions again one by one, in source order; the first that
// fails again goes change by change, which finds the row.
func (d *Destination) recover(ctx context.Context, b *batch, err error) error {
	if newError(err).verdict != rowFault {
		return err
	}
	d.log.Info("a folded batch failed; applying its transactions one by one")
	for _, t := range b.transactions {
		one := &batch{transactions: []*transaction{t}, mappings: b.mappings, last: t.id, large: t}
		if len(b.transactions) > 1 {
			err = d.together(ctx, one)
			if err == nil {
				continue
			}
			if newError(err).verdict != rowFault {
				return err
			}
		}
		if err = d.changeByChange(ctx, one, err); err != nil {
			return err
		}
	}
	return nil
}

// together applies one transaction folded.
func (d *Destination) together(ctx context.Context, one *batch) error {
	if err := d.reconnect(ctx); err != nil {
		return err
	}
	if err := d.open(ctx, one); err != nil {
		return err
	}
	if err := d.applyRound(ctx, one, one.large.changes); err != nil {
		d.session.rollback()
		return err
	}
	return d.close(ctx, one)
}

// recoverLarge follows a failed large transaction. Where all its changes are still here they are applied one by one.
func (d *Destination) recoverLarge(ctx context.Context, b *batch, err error) error {
	d.mu.Lock()
	whole := b.large.complete && !b.large.dropped
	d.mu.Unlock()
	if !whole || newError(err).verdict != rowFault || truncates(b.large) {
		return err
	}
	return d.changeByChange(ctx, b, err)
}

// changeByChange applies a transaction in source order, each change by itself, and names the one that fails; with
// OnError quarantine that one is set aside and the rest goes on. cause is why the transaction failed as a whole.
func (d *Destination) changeByChange(ctx context.Context, b *batch, cause error) error {
	if err := d.reconnect(ctx); err != nil {
		return err
	}
	if err := d.open(ctx, b); err != nil {
		return err
	}
	b.changes = 0
	for i := range b.large.changes {
		if err := d.oneChange(ctx, b, b.large.changes[i:i+1]); err != nil {
			d.session.rollback()
			return err
		}
	}
	if err := d.close(ctx, b); err != nil {
		return err // a deferred constraint: it is the transaction that fails, no single row
	}
	d.log.Info("applied a transaction change by change, which failed when folded", zap.Error(cause))
	return nil
}

// oneChange applies one change within the open external transaction, behind a savepoint where it may be set aside.
func (d *Destination) oneChange(ctx context.Context, b *batch, change []replication.Change) error {
	c := &change[0]
	aside := d.router.Options.Quarantine && c.Kind != replication.Truncate && d.reads[c.Relation.Table]
	if aside {
		if _, err := d.session.exec(ctx, "SAVEPOINT outflow_change"); err != nil {
			return err
		}
	}
	d.session.keepOpen = aside
	err := d.applyRound(ctx, b, change)
	d.session.keepOpen = false
	if err == nil {
		return nil
	}
	e := newError(err)
	if e.verdict != rowFault {
		return err
	}
	named := *e
	named.Table, named.Key = c.Relation.Table, describeKey(c)
	if !aside || d.session.conn.IsClosed() {
		return &named
	}
	if _, err := d.session.exec(ctx, "ROLLBACK TO SAVEPOINT outflow_change"); err != nil {
		return err
	}
	return d.session.quarantine(ctx, quarantined{relation: c.Relation, op: c.Kind.String(), row: rowOf(c), sequenceID: b.last, err: &named})
}

// rowOf is the row that a change is about.
func rowOf(c *replication.Change) replication.Tuple {
	if c.New.IsZero() {
		return c.Old
	}
	return c.New
}

// reconnect makes sure of a usable session that is where the queue is.
func (d *Destination) reconnect(ctx context.Context) error {
	if d.session.usable() {
		return nil
	}
	s := d.session
	d.mu.Lock()
	d.session = nil
	d.mu.Unlock()
	held := s.held
	s.close()
	if err := d.connect(ctx); err != nil {
		return err
	}
	if !slices.Equal(held, d.session.held) {
		return &Error{verdict: conflict, Err: errors.New("the metadata moved while this process reconnected")}
	}
	return nil
}

// describeKey names a row for an operator: key columns only, no other value.
func describeKey(c *replication.Change) string {
	row, s := rowOf(c), ""
	for _, i := range c.Relation.Key {
		v := row.Value(i)
		text := "NULL"
		if v.Presence == replication.Text {
			text = string(v.Text[:min(len(v.Text), 64)])
		}
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%s=%s", c.Relation.Columns[i].Name, text)
	}
	return s
}
