package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication"
)

// fetchToast fills values that an UPDATE left in TOAST and that a step names, where the batch itself did not have the values: from the
// primary, by key, in one query a table.
//
// The primary may be ahead of the batch. A newer value is then applied a little early, and again in its turn. The delete of a missing row
// is still to come, so the upsert of the row is left out: the value no longer exists anywhere, cannot be written, and must not be written
// as NULL. Both hold only if the primary shows at least the transaction that made the row: else the value would be an older one, and a row
// whose key has changed would pass for deleted.
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
		found, now, err := d.current(ctx, r.Relation, keys, xids)
		if err != nil {
			return err
		}
		if err := failpoint.Fail(failpoint.LookedUp); err != nil {
			return err
		}
		if err := d.fillToast(ctx, table, r, found, now); err != nil {
			return err
		}
	}
	return nil
}

// current reads the tenant's rows from the primary by key: a row for each key, zero where the primary has no row. now is the table as the
// read rows describe the table. The primary shows at least the transactions xids.
func (d *Destination) current(ctx context.Context, rel *replication.Relation, keys []replication.Tuple, xids []uint32) ([]replication.Tuple, *replication.Relation, error) {
	d.lookups.Add(1) // the primary's time is not the destination's
	defer d.lookups.Add(-1)
	if d.session.conn.TxStatus() == 'T' { // with locks on the tenant's tables
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, openPatience)
		defer cancel()
	}
	found, now, err := d.lookUp(ctx, replication.Keys{Part: d.part(rel), Tuples: keys}, xids)
	switch {
	case errors.Is(err, replication.ErrNotVisible):
		return nil, nil, &Error{Table: rel.Table, Err: err, Remedy: "if it lasts: see which synchronous standby the primary waits for"}
	case sqlstate(err) == undefinedTable:
		return nil, nil, d.outdated(ctx, rel, err)
	case err != nil:
		return nil, nil, &Error{verdict: retryLong, SQLState: sqlstate(err), Err: fmt.Errorf("reading rows of %s from the primary: %w", rel, err)}
	}
	return found, now, nil
}

// The wait for a commit that is not visible yet: usually a matter of microseconds.
const (
	visiblePause = time.Millisecond // doubles
	visibleWait  = time.Second      // in all, about; then the batch is tried again later
)

func (d *Destination) lookUp(ctx context.Context, keys replication.Keys, xids []uint32) ([]replication.Tuple, *replication.Relation, error) {
	for pause := visiblePause; ; pause *= 2 {
		found, now, err := d.router.Rows(ctx, keys, xids)
		if !errors.Is(err, replication.ErrNotVisible) || pause > visibleWait/2 {
			return found, now, err
		}
		select {
		case <-time.After(pause):
		case <-d.router.stop:
			return nil, nil, context.Canceled
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// fillToast takes the missing values of rows from the found rows: a found row for each incomplete row, zero where the row is gone. now is
// the table as the found rows describe the table: where a column has another type by now all rows of the batch get the new type.
func (d *Destination) fillToast(ctx context.Context, table string, r *mapping.Rows, found []replication.Tuple, now *replication.Relation) error {
	at, typed := placesIn(r.Relation, now)
	kept := r.Upserts[:0]
	for _, row := range r.Upserts {
		if row.Tuple.HasUnchanged() && d.needs(table, r.Relation, row.Tuple) {
			current := found[0]
			found = found[1:]
			if current.IsZero() {
				continue
			}
			for i, c := range r.Relation.Columns {
				if at[i] < 0 && row.Tuple.Value(i).Presence == replication.Unchanged && d.names(table, r.Relation, c.Name) {
					return d.outdated(ctx, r.Relation, fmt.Errorf("its column %q is gone", c.Name))
				}
			}
			row.Tuple = row.Tuple.Complete(arranged(current, at))
		}
		kept = append(kept, row)
	}
	r.Upserts, r.Relation = kept, typed
	return nil
}

// outdated follows a look-up that finds another table than the known table, for example when a widened column is gone again.
func (d *Destination) outdated(ctx context.Context, rel *replication.Relation, cause error) error {
	if _, err := d.router.relearn(ctx, rel.Table); err != nil {
		return err
	}
	return &Error{verdict: outdated, Table: rel.Table, SQLState: sqlstate(cause), Err: fmt.Errorf("%s has changed on the primary: %w", rel, cause)}
}

// placesIn are the places of a relation's columns in another relation, -1 where the other relation lacks the column; typed is the relation
// with the column types of the other.
func placesIn(rel, in *replication.Relation) (places []int, typed *replication.Relation) {
	typed = rel
	for i, c := range rel.Columns {
		place := in.Column(c.Name)
		places = append(places, place)
		if place >= 0 && in.Columns[place].TypeOID != c.TypeOID {
			if typed == rel {
				clone := *rel
				clone.Columns = slices.Clone(rel.Columns)
				typed = &clone
			}
			typed.Columns[i] = in.Columns[place]
		}
	}
	return places, typed
}

func arranged(t replication.Tuple, places []int) replication.Tuple {
	all, values := t.Values(nil), make([]replication.Value, len(places))
	for i, place := range places {
		values[i].Presence = replication.Null
		if place >= 0 {
			values[i] = all[place]
		}
	}
	return replication.NewTuple(values)
}

// names reports whether a step names the column.
func (d *Destination) names(table string, rel *replication.Relation, column string) bool {
	for _, m := range d.mappings {
		if named, _ := m.Columns(table, rel.Names()); slices.Contains(named, column) {
			return true
		}
	}
	return false
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
