package destination

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outflow/internal/failpoint"
	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

// fetchToast fills values that an UPDATE left in TOAST and that a step names, where the batch itself did not have the values: from the
// primary, by key. The values count in b.fetched until the batch is done with. Where the batch needs more than a piece of the memory, the
// error is a [*tooWide], and nothing was changed; a batch with one such row is given the memory that the row needs.
//
// The primary may be ahead of the batch. A newer value is then applied a little early, and again in its turn. The delete of a missing row
// is still to come, so the upsert of the row is left out: the value no longer exists anywhere, cannot be written, and must not be written
// as NULL. Both hold only if the primary shows at least the transaction that made the row: else the value would be an older one, and a row
// whose key has changed would pass for deleted.
func (d *Destination) fetchToast(ctx context.Context, b *batch, rows map[string]*mapping.Rows) error {
	wanted, keys := fold.FindMissing(rows, d.db.Mappings)
	if keys == 0 {
		return nil
	}
	for {
		if err := d.lookup.Hold(ctx, d.shared.Lookups, &b.fetched); err != nil {
			return err
		}
		read, large, err := d.fetch(ctx, b, wanted, b.fetched.Rows)
		if err != nil {
			return err
		}
		used, fit := int64(0), 0
		for _, f := range read {
			for _, t := range f.Rows {
				used += int64(t.Bytes())
			}
			fit += len(f.Rows)
		}
		piece := int64(0)
		switch {
		case fit == keys:
			d.lookup.Has(used, &b.fetched)
			return d.fillAll(ctx, wanted, read)
		case b.fetched.Rows < d.shared.Lookups.Piece:
			piece = min(2*b.fetched.Rows, d.shared.Lookups.Piece)
		case keys > 1:
			d.lookup.Free(d.shared.Lookups, &b.fetched)
			return &tooWide{fit: fit, keys: keys}
		default:
			piece = tableread.Enough(large)
		}
		d.lookup.Free(d.shared.Lookups, &b.fetched)
		d.lookup.Piece = piece
	}
}

// tooWide tells of a batch whose missing values are more than may be in memory at a time: of so many rows only the first ones fit.
type tooWide struct{ fit, keys int }

func (e *tooWide) Error() string {
	return fmt.Sprintf("the values of %d of %d rows fit in the memory of look-ups", e.fit, e.keys)
}

// part is how many of n changes may fit.
func (e *tooWide) part(n int) int { return max(1, min(n-1, n*e.fit/e.keys)) }

// fetch reads the missing values, bound bytes at most. The last answer may have the first rows only; large is the size of the row
// behind where it does not fit alone.
func (d *Destination) fetch(ctx context.Context, b *batch, wanted []fold.Missing, bound int64) (read []tableread.Found, large int64, err error) {
	for _, m := range wanted {
		found, err := d.current(ctx, m.Rows.Relation, tableread.Look{Keys: tableread.Keys{Tuples: m.Keys}, Columns: m.Columns, After: b.xidsOf(m.From), Bytes: bound})
		if err != nil {
			return nil, 0, err
		}
		read = append(read, found)
		if len(found.Rows) < len(m.Keys) {
			return read, found.Large, nil
		}
		for _, t := range found.Rows {
			bound -= int64(t.Bytes())
		}
		bound = max(bound, 0)
	}
	return read, 0, nil
}

// fillAll takes the missing values from the answers to all look-ups.
func (d *Destination) fillAll(ctx context.Context, wanted []fold.Missing, read []tableread.Found) error {
	if err := failpoint.Fail(failpoint.LookedUp); err != nil {
		return err
	}
	for i := range wanted {
		rel := wanted[i].Rows.Relation
		if gone := wanted[i].Fill(read[i].Rows, read[i].Relation); gone != "" {
			return d.outdated(ctx, rel, fmt.Errorf("the column %q is gone", gone))
		}
	}
	return nil
}

// current reads the tenant's rows of a table from the primary.
func (d *Destination) current(ctx context.Context, rel *wal.Relation, look tableread.Look) (tableread.Found, error) {
	d.watched.lookups.Add(1) // the primary's time is not the destination's
	defer d.watched.lookups.Add(-1)
	if d.session.InTransaction() { // with locks on the tenant's tables
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, openPatience+time.Duration(look.Bytes>>20)*time.Second) // a large row comes at a megabyte a second at least
		defer cancel()
	}
	look.Part = d.part(rel)
	found, err := d.lookUp(ctx, look)
	switch {
	case errors.Is(err, tableread.ErrNotVisible):
		return found, &external.Error{Table: rel.Table, Err: err, Remedy: "if this lasts: find the synchronous standby that the primary waits for"}
	case external.SQLState(err) == pgerror.UndefinedTable:
		return found, d.outdated(ctx, rel, err)
	case err != nil:
		return found, &external.Error{Verdict: external.RetryLong, SQLState: external.SQLState(err), Err: fmt.Errorf("reading rows of %s from the primary: %w", rel, err)}
	}
	return found, nil
}

// The wait for a commit that is not visible yet: usually a matter of microseconds.
const (
	visiblePause = time.Millisecond // doubles
	visibleWait  = time.Second      // in all, about; then the batch is tried again later
	visibleAgain = 2 * time.Second  // then
)

func (d *Destination) lookUp(ctx context.Context, look tableread.Look) (tableread.Found, error) {
	for pause := visiblePause; ; pause *= 2 {
		found, err := d.shared.Rows(ctx, look)
		if !errors.Is(err, tableread.ErrNotVisible) || pause > visibleWait/2 {
			return found, err
		}
		select {
		case <-time.After(pause):
		case <-d.shared.Workers.Intake.Done():
			return found, context.Canceled
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
}

// outdated follows a look-up that finds another table than the known table, for example when a widened column is gone again.
func (d *Destination) outdated(ctx context.Context, rel *wal.Relation, cause error) error {
	if _, err := d.shared.Schemas.Relearn(ctx, rel.Table); err != nil {
		return err
	}
	return &external.Error{Verdict: external.Outdated, Table: rel.Table, SQLState: external.SQLState(cause), Err: fmt.Errorf("%s has changed on the primary: %w", rel, cause)}
}
