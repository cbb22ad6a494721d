package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

// ErrWaits says that the chunk in hand waits for a transaction on the primary.
var ErrWaits = errors.New("the copy waits")

// Merge applies the chunk in hand. The error is ErrWaits where the chunk has to be read again later.
func (bf *Backfill) Merge(ctx context.Context) error {
	bf.hand.mu.Lock()
	c := bf.hand.ready
	bf.hand.ready = nil
	bf.hand.mu.Unlock()
	defer c.held.Free()
	if c.Relation != nil {
		if bf.found == nil {
			bf.found = map[string]*wal.Relation{}
		}
		bf.found[c.table] = c.Relation
	}
	switch {
	case c.err != nil:
		return bf.unread(ctx, c)
	case c.read.number != bf.tracker.number:
		return bf.Advance(ctx)
	case bf.anotherKey(c):
		bf.trackAgain()
		return bf.Advance(ctx)
	}
	if c.suspects != nil {
		bf.tracker.suspects = c.suspects
	}
	if xid, waits := bf.tracker.unseen(c.Snapshot, bf.wait.xid); waits {
		bf.await(xid, c.holder)
		if err := bf.owner.AskFlush(ctx); err != nil {
			return err
		}
		return ErrWaits
	}
	bf.goesOn()
	if err := failpoint.Fail(failpoint.BeforeMerge); err != nil {
		return err
	}
	rows := &mapping.Rows{Relation: c.relation}
	switch {
	case c.swept != nil:
		var err error
		if rows.Deletes, err = bf.sweep(ctx, c); err != nil {
			return err
		}
	case c.relation != nil:
		var keys fold.Keyer
		rows.Upserts = fold.Merge(bf.rowsOf(c, c.Rows), func(r mapping.Row) string { return keys.Key(c.relation, r.Tuple) }, c.table, c.Snapshot, bf.tracker.changes, c.since())
	}
	bf.tracker.seen(c.Snapshot)
	return bf.applyChunk(ctx, c, rows)
}

// unread follows a failed read. A read that took too long is tried again with fewer rows.
func (bf *Backfill) unread(ctx context.Context, c *chunk) error {
	if errors.Is(c.err, tableread.ErrAnotherKey) { // the next page gives the new key
		return bf.Advance(ctx)
	}
	if external.TimedOut(c.err) && bf.pace.smaller(c.read.limit) {
		return bf.Advance(ctx)
	}
	if e := (*external.Error)(nil); errors.As(c.err, &e) {
		return e
	}
	e := &external.Error{Verdict: external.RetryLong, SQLState: external.SQLState(c.err), Err: fmt.Errorf("backfill: %w", c.err)}
	if external.TimedOut(c.err) {
		table, place, _ := bf.nextTable(&bf.cursor)
		e.Remedy = fmt.Sprintf("find out what keeps the primary from reading one row of %s after %q: a lock, or no index that begins with the tenant", table, place.After)
	}
	return e
}

// anotherKey reports whether a change that counts for the chunk came when the table had another key.
func (bf *Backfill) anotherKey(c *chunk) bool {
	if c.relation == nil {
		return false
	}
	for t := range bf.tracker.concerning(c) {
		if t.Relation != nil && t.Key != "" && !sameKey(t.Relation, c.relation) {
			return true
		}
	}
	return false
}

func sameKey(a, b *wal.Relation) bool {
	return a == b || slices.EqualFunc(a.Key, b.Key, func(i, j int) bool {
		x, y := a.Columns[i], b.Columns[j]
		return x.Name == y.Name && x.TypeOID == y.TypeOID && x.TypeMod == y.TypeMod
	})
}

// rowsOf gives a chunk's rows the id up to which the stream was applied: the rows are at least as new as the id.
func (bf *Backfill) rowsOf(c *chunk, tuples []wal.Tuple) []mapping.Row {
	rows := make([]mapping.Row, len(tuples))
	now, id := time.Now(), max(bf.s.Lowest(), bf.shared.appliedAt(c.Horizon))
	for i, t := range tuples {
		rows[i] = mapping.Row{Tuple: t, SequenceID: id, CommittedAt: now}
	}
	return rows
}
