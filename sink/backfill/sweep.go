package backfill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

// A sweep finds the rows that the external database holds and the primary no longer has: rows deleted while no process watched. The
// mapping's keys list the held rows, page by page; the primary says which rows exist; the missing rows go through the mappings' delete
// steps, merged like any other chunk.

// sweepItem is one query of a mapping's keys, for one source table.
type sweepItem struct {
	mapping *mapping.Mapping
	table   string
	query   string
}

// sweepItems are the queries of the group's keys, in the reverse order of the copy: referring rows go before the rows that they refer to.
func (bf *Backfill) sweepItems() []sweepItem {
	var items []sweepItem
	for _, i := range slices.Backward(bf.s.Order.Mappings) {
		m := bf.mappings[i]
		if !bf.group[i] {
			continue
		}
		for _, table := range slices.Backward(bf.s.Order.Tables) {
			if query, ok := m.Keys[table]; ok {
				items = append(items, sweepItem{m, table, query})
			}
		}
	}
	return items
}

// nextItem is the item of the cursor, and the item after; nil where there is none.
func (bf *Backfill) nextItem() (current, following *sweepItem) {
	items := bf.sweepItems()
	i := slices.IndexFunc(items, func(t sweepItem) bool {
		return t.mapping.Name == bf.cursor.Mapping && t.table == bf.cursor.Table
	})
	if bf.cursor.Mapping == "" {
		i = 0
	}
	if i >= 0 && i < len(items) {
		current = &items[i]
	}
	if i >= 0 && i+1 < len(items) {
		following = &items[i+1]
	}
	return current, following
}

// A sweep goes over a mapping's keys twice. First the sweep counts, which is all where nothing is to be removed; then the sweep removes.
// The counts tell a mapping whose keys cannot name the primary's rows, because the mapping stores another form of the keys: such a mapping
// would lose everything (see [tally.fault]).

// tally counts one table's keys in a mapping during the copy of the mapping.
type tally struct {
	Held  int64  `json:"held"`            // keys in the external database before the copy; -1 is not known
	Found int64  `json:"found,omitempty"` // keys counted by the sweep and present on the primary
	Gone  int64  `json:"gone,omitempty"`  // keys counted by the sweep and missing on the primary
	First string `json:"first,omitempty"` // of the gone keys, for people
}

// fault says why the gone keys must not be removed: "" is no fault. copied is how many rows of the table this copy has read.
//
// Every gone key was there before the copy: all rows that the copy wrote are on the primary, less the rows that the stream deleted since.
// And of the rows that the copy wrote at least half are found. A mapping that keeps few of the rows may leave less, but then there is less
// to remove, too.
func (t tally) fault(copied int64) string {
	switch {
	case t.Held >= 0 && t.Gone > t.Held:
		return fmt.Sprintf("the external database held %d keys before the copy", t.Held)
	case 2*t.Found < copied && 2*t.Gone > copied:
		return fmt.Sprintf("most of the %d rows that this copy has read", copied)
	}
	return ""
}

// countHeld notes how many keys the external database holds before the first row is copied. Where the count takes too long the number is
// not known.
func (bf *Backfill) countHeld(ctx context.Context) error {
	if bf.cursor.Phase != phaseCopy || bf.cursor.Table != "" || bf.cursor.Keys != nil {
		return nil
	}
	bf.cursor.Keys = map[string]tally{}
	for _, t := range bf.sweepItems() {
		held := int64(-1)
		err := bf.withKeys(ctx, &t, func(q *external.KeysQuery) error {
			n, err := bf.s.Count(ctx, q)
			if err == nil {
				held, err = strconv.ParseInt(n, 10, 64)
			}
			return err
		})
		if err != nil && !external.TimedOut(err) {
			bf.cursor.Keys = nil
			return err
		}
		bf.cursor.Keys[t.id()] = tally{Held: held}
	}
	return nil
}

func (t sweepItem) id() string { return t.mapping.Name + " " + t.table }

// withKeys opens a transaction, for the settings of the transaction, and ends the transaction.
func (bf *Backfill) withKeys(ctx context.Context, t *sweepItem, f func(*external.KeysQuery) error) error {
	if err := bf.s.Begin(ctx); err != nil {
		return err
	}
	defer bf.s.Rollback()
	q, err := bf.s.KeysOf(ctx, t.mapping, bf.relation(t.table))
	if err != nil {
		return err
	}
	return f(q)
}

// page is a page of a mapping's keys that the worker has read, for a question to the primary.
type page struct {
	item      sweepItem
	following *sweepItem
	query     *external.KeysQuery
	keys      []external.Key
	last      bool
	next      tableread.Place
	since     int // place among the tracked keys at the time of the read
}

// readPage reads the next page of keys from the external database. The worker calls readPage: the connection belongs to the worker.
func (bf *Backfill) readPage(ctx context.Context) (p *page, err error) {
	current, following := bf.nextItem()
	if current == nil {
		return nil, nil
	}
	limit := bf.pace.size()
	err = bf.withKeys(ctx, current, func(q *external.KeysQuery) error {
		p = &page{item: *current, following: following, query: q, since: len(bf.tracker.changes)}
		var after []string
		p.next.Order = q.Signature()
		if bf.cursor.Mapping == current.mapping.Name && bf.cursor.Sort == p.next.Order {
			after = bf.cursor.After
		}
		var err error
		var more bool
		if p.keys, more, err = bf.s.ReadKeys(ctx, q, after, limit); err != nil {
			return err
		}
		if p.last = !more; more {
			p.next.After = p.keys[len(p.keys)-1].External
		}
		return nil
	})
	return p, err
}

// sweepPage asks the primary which keys of the page exist; the missing keys are the chunk.
func (r *chunkRead) sweepPage(ctx context.Context, copier *tableread.Copier) (*chunk, error) {
	p := r.page
	if p == nil {
		c, err := emptyChunk(ctx, copier, Cursor{Phase: phaseSweep, Rows: r.from.Rows})
		c.done = true
		return c, err
	}
	present, found, err := copier.Present(ctx, r.bf.keysOf(p.query, p.keys))
	c := &chunk{Chunk: found, table: p.item.table, relation: p.query.Relation, swept: p}
	if bad := (*tableread.KeyError)(nil); errors.As(err, &bad) {
		return nil, p.query.Fault(fmt.Errorf("the query returns %s, which is not a key of %s: %w", external.DescribeRow(p.query.Relation, p.keys[bad.Key].Tuple), p.item.table, bad.Err))
	}
	if err == nil {
		err = failpoint.Fail(failpoint.SweepMissingFound)
	}
	if err != nil {
		return c, err
	}
	for i, k := range p.keys {
		if !present[i].IsZero() {
			for _, v := range present[i].Values(nil)[:len(p.query.Columns)] {
				k.Primary = append(k.Primary, string(v.Text))
			}
			if slices.Equal(k.Primary, k.External) {
				continue
			}
		}
		c.gone = append(c.gone, k)
	}
	c.next = r.from
	c.next.Table, c.next.Mapping, c.next.After, c.next.Sort = p.item.table, p.item.mapping.Name, p.next.After, p.next.Order
	return c, nil
}

func (bf *Backfill) keysOf(q *external.KeysQuery, keys []external.Key) tableread.Keys {
	k := tableread.Keys{Part: tableread.Part{Relation: q.Relation, Tenant: q.Tenant, Value: bf.tenant}}
	for _, one := range keys {
		k.Tuples = append(k.Tuples, one.Tuple)
	}
	return k
}

// sweep finds the keys of a page to remove: keys without a change since, and still held. At the end of the counting sweep says whether the
// keys may be removed.
func (bf *Backfill) sweep(ctx context.Context, c *chunk) (deletes []mapping.Row, err error) {
	gone, err := bf.unchanged(ctx, c)
	if err == nil && len(gone) > 0 {
		gone, err = bf.held(ctx, c, gone)
	}
	if err != nil {
		return nil, err
	}
	p := c.swept
	id := p.item.id()
	t, ok := bf.cursor.Keys[id]
	if !ok {
		t.Held = -1
	}
	c.next.Keys = maps.Clone(bf.cursor.Keys)
	if !bf.cursor.Remove {
		t.Found += int64(len(p.keys) - len(slices.DeleteFunc(slices.Clone(c.gone), func(k external.Key) bool { return k.Primary != nil })))
		t.Gone += int64(len(gone))
		if t.First == "" && len(gone) > 0 {
			t.First = external.DescribeRow(p.query.Relation, gone[0].Tuple)
		}
		if c.next.Keys == nil {
			c.next.Keys = map[string]tally{}
		}
		c.next.Keys[id] = t
		judged := t
		if bf.cursor.PutOff > 0 || bf.shared.Quarantine { // a delete of the stream may have been left out
			judged.Held = -1
		}
		if why := judged.fault(bf.cursor.Copied[p.item.table]); why != "" && p.last {
			return nil, refusedSweep(p, t, why)
		}
	}
	switch {
	case !p.last:
	case !bf.cursor.Remove && t.Gone > 0:
		c.next.Remove, c.next.After = true, nil
	case p.following == nil:
		c.done = true
	default:
		c.next.Remove, c.next.After = false, nil
		c.next.Table, c.next.Mapping = p.following.table, p.following.mapping.Name
	}
	if !bf.cursor.Remove {
		return nil, nil
	}
	c.removed = gone
	tuples := make([]wal.Tuple, len(gone))
	for i, k := range gone {
		tuples[i] = k.Tuple
	}
	return bf.rowsOf(c, tuples), nil
}

func refusedSweep(p *page, t tally, why string) error {
	return &external.Error{Mapping: p.item.mapping.Name, Table: p.item.table, Verdict: external.NeedsHuman,
		Err: p.item.mapping.KeysFault(p.item.table, "the query returns %d keys that the primary does not have, such as %s, and %d that it has; %s. Nothing was removed",
			t.Gone, t.First, t.Found, why),
		Remedy: fmt.Sprintf("correct the mapping: the query must return the keys of %s in the form that the primary has; if the primary really deleted the rows, delete them in the external database and resync",
			p.item.table)}
}

// unchanged are the gone keys of a chunk, less the keys that a change concerns. Where the texts of two keys differ, the primary says
// whether the keys are equal.
func (bf *Backfill) unchanged(ctx context.Context, c *chunk) ([]external.Key, error) {
	var texts fold.Keyer
	gone := fold.Merge(c.gone, func(k external.Key) string { return texts.Key(c.relation, k.Tuple) }, c.table, c.Snapshot, bf.tracker.changes, c.swept.since)
	if len(gone) == 0 { // for one reason, after a TRUNCATE: that concerns every key
		return nil, nil
	}
	others := bf.changes(c)
	if len(others) == 0 {
		return gone, nil
	}
	ctx, cancel := context.WithTimeout(ctx, bf.shared.AnswerTimeout)
	defer cancel()
	copier := &tableread.Copier{Tables: bf.shared.Tables}
	defer copier.Close()
	equal, err := copier.Equal(ctx, bf.keysOf(c.swept.query, gone), others)
	if err != nil {
		return nil, &external.Error{Verdict: external.RetryLong, SQLState: external.SQLState(err), Err: fmt.Errorf("backfill: %w", err)}
	}
	var left []external.Key
	for i, k := range gone {
		if !equal[i] {
			left = append(left, k)
		}
	}
	return left, nil
}

// changes are the keys that changed since the chunk was read, as rows of the chunk's relation: a column that has nothing to do with the key
// may have come or gone since. No TRUNCATE counts for the chunk.
func (bf *Backfill) changes(c *chunk) (keys []wal.Tuple) {
	seen := map[string]bool{}
	for t := range bf.tracker.concerning(c) {
		if !seen[t.Key] {
			seen[t.Key] = true
			keys = append(keys, fold.KeyTuple(c.relation, t.Key))
		}
	}
	return keys
}

// held are the keys that the external database still holds. A key that the primary has counts only where another form of the key is held.
func (bf *Backfill) held(ctx context.Context, c *chunk, keys []external.Key) ([]external.Key, error) {
	if err := bf.s.Begin(ctx); err != nil {
		return nil, err
	}
	defer bf.s.Rollback()
	doubles, err := bf.s.Doubles(ctx, c.swept.query, keys)
	if err != nil {
		return nil, err
	}
	held := slices.DeleteFunc(slices.Clone(keys), func(k external.Key) bool { return k.Primary != nil && !doubles[k.ID()] })
	if len(held) == 0 {
		return nil, nil
	}
	still, err := bf.s.StillHeld(ctx, c.swept.query, held)
	if err != nil {
		return nil, err
	}
	held = slices.DeleteFunc(held, func(k external.Key) bool { return !still[k.ID()] })
	for _, k := range held {
		if k.Primary != nil && (bf.cursor.Pass > 0 || slices.Equal(k.Primary, c.swept.query.KeyOf(k.Tuple))) {
			return nil, doubled(c.swept, k)
		}
	}
	return held, nil
}

// doubled says that no delete step can remove one of two rows.
func doubled(p *page, k external.Key) error {
	return &external.Error{Mapping: p.item.mapping.Name, Table: p.item.table, Verdict: external.NeedsHuman,
		Err: p.item.mapping.KeysFault(p.item.table, "the query returns both %q and %q, which are one key of %s for the primary, and the delete steps do not remove the first one",
			k.External, k.Primary, p.item.table),
		Remedy: "delete the first one in the external database and resync; give the key the same type as on the primary"}
}
