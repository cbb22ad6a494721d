package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outflow/mapping"
	"outflow/replication"
)

// fetchToast fills values that an UPDATE left in TOAST and that a step names, where the batch itself did not have them: from
// the primary, by key, in one query a table.
//
// The primary may be ahead of the batch. A newer value is then applied a little early, and again in its turn. A row that is
// gone has its delete still to come, so its upsert is left out: a value that nobody has any more cannot be written, and must
// not be written as NULL. Both hold only if the primary shows at least the transaction that made the row: else the value
// would be an older one, and a row whose key has changed would pass for deleted.
func (d *Destination) fetchToast(ctx context.Context, transactions []*transaction, rows map[string]*mapping.Rows) error {
	for table, r := range rows {
		var keys []replication.Tuple
		from := map[int64]bool{}
		for i := range r.Upserts {
			if t := r.Upserts[i].Tuple; t.HasUnchanged() && d.needs(table, r.Relation, t) {
				keys = append(keys, t)
				from[r.Upserts[i].SequenceID] = true
			}
		}
		if len(keys) == 0 {
			continue
		}
		var xids []uint32
		for _, t := range transactions {
			if from[t.id] {
				xids = append(xids, t.xid)
			}
		}
		found, err := d.current(ctx, r.Relation, keys, xids)
		if err != nil {
			return err
		}
		d.fillToast(table, r, found)
	}
	return nil
}

// current reads rows from the primary by key, which shows at least those transactions.
func (d *Destination) current(ctx context.Context, rel *replication.Relation, keys []replication.Tuple, xids []uint32) ([]replication.Tuple, error) {
	found, err := d.lookUp(ctx, rel, keys, xids)
	switch {
	case errors.Is(err, replication.ErrNotVisible):
		return nil, &Error{Table: rel.Table, Err: err, Remedy: "if it lasts: see which synchronous standby the primary waits for"}
	case sqlstate(err) == undefinedColumn || sqlstate(err) == undefinedTable:
		if _, err := d.router.relearn(ctx, rel.Table); err != nil {
			return nil, err
		}
		return nil, &Error{verdict: outdated, Table: rel.Table, SQLState: sqlstate(err), Err: fmt.Errorf("%s has changed on the primary: %w", rel, err)}
	case err != nil:
		return nil, &Error{verdict: retryLong, SQLState: sqlstate(err), Err: fmt.Errorf("reading rows of %s from the primary: %w", rel, err)}
	}
	return found, nil
}

// How long a commit that is not visible yet is waited for: usually it is a matter of microseconds.
const (
	visiblePause = time.Millisecond // doubles
	visibleWait  = time.Second      // in all, about; then the batch is tried again later
)

func (d *Destination) lookUp(ctx context.Context, rel *replication.Relation, keys []replication.Tuple, xids []uint32) ([]replication.Tuple, error) {
	for pause := visiblePause; ; pause *= 2 {
		found, err := d.router.Rows(ctx, rel, keys, xids)
		if !errors.Is(err, replication.ErrNotVisible) || pause > visibleWait/2 {
			return found, err
		}
		select {
		case <-time.After(pause):
		case <-d.router.stop:
			return nil, context.Canceled
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (d *Destination) fillToast(table string, r *mapping.Rows, found []replication.Tuple) {
	byKey := make(map[string]replication.Tuple, len(found))
	var f fold
	for _, t := range found {
		byKey[string(f.keyOf(r.Relation, t))] = t
	}
	kept := r.Upserts[:0]
	for _, row := range r.Upserts {
		if row.Tuple.HasUnchanged() && d.needs(table, r.Relation, row.Tuple) {
			current, ok := byKey[string(f.keyOf(r.Relation, row.Tuple))]
			if !ok {
				continue
			}
			row.Tuple = row.Tuple.Complete(current)
		}
		kept = append(kept, row)
	}
	r.Upserts = kept
}

// needs reports whether a step names a column that the row lacks.
func (d *Destination) needs(table string, rel *replication.Relation, t replication.Tuple) bool {
	for _, m := range d.mappings {
		named, _ := m.Columns(table, rel.Names())
		for _, name := range named {
			if t.Value(rel.Column(name)).Presence == replication.Unchanged {
				return true
			}
		}
	}
	return false
}
