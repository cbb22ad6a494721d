package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
)

// wanted are source rows, by key, for a mapping to apply again.
type wanted struct {
	mapping  int
	relation *wal.Relation
	query    *external.KeysQuery
	keys     []external.Key
}

const (
	repairRows     = 1000            // keys in one transaction
	repairAttempts = 5               // at one transaction, where the live worker was in the way
	repairPatience = 5 * time.Second // for open transactions of the primary, while the metadata is locked
)

// sourceKeys finds the source rows of the differing rows: each mapping's keys, asked while the mapping's tables hold only the differing
// rows, first the expected rows and then the actual rows. sourceKeys uses up the look's temporary tables.
func (c *comparison) sourceKeys(ctx context.Context, l look) ([]wanted, error) {
	all := c.nothingWanted()
	for _, side := range []func(context.Context, *seen) error{c.onlyExpected, c.onlyHere} {
		for _, s := range l {
			if err := side(ctx, s); err != nil {
				return nil, fmt.Errorf("finding the source rows of %s: %w", s.name, err)
			}
		}
		for i := range all {
			if err := c.askKeys(ctx, &all[i]); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// nothingWanted has a place for each query of the mappings' keys, in the order of a batch: mapping by mapping.
func (c *comparison) nothingWanted() []wanted {
	var all []wanted
	for mi, m := range c.db.Mappings {
		for _, table := range m.Tables() {
			if _, ok := m.Keys[table]; ok {
				all = append(all, wanted{mapping: mi, relation: c.v.Tables.Relation(table)})
			}
		}
	}
	return all
}

func (c *comparison) onlyExpected(ctx context.Context, s *seen) error {
	id, _ := s.identity()
	err := c.s.Exec(ctx, fmt.Sprintf(`DELETE FROM pg_temp.%s AS "_row" WHERE %s NOT IN (SELECT unnest($1::text[]))`,
		external.QuoteIdentifier(s.name), id), external.TextArray(s.settledIDs()))
	return err
}

func (c *comparison) onlyHere(ctx context.Context, s *seen) error {
	id, _ := s.identity()
	columns := make([]string, len(s.columns))
	for i, name := range s.columns {
		columns[i] = external.QuoteIdentifier(name)
	}
	name, list := external.QuoteIdentifier(s.name), strings.Join(columns, ", ")
	err := c.s.Exec(ctx, `DELETE FROM pg_temp.`+name)
	if err == nil {
		err = c.s.Exec(ctx, fmt.Sprintf(`INSERT INTO pg_temp.%s (%s) SELECT %s FROM public.%s AS "_row" WHERE %s IN (SELECT unnest($1::text[]))`,
			name, list, list, name, id), external.TextArray(s.settledIDs()))
	}
	return err
}

// askKeys adds the present answer of a mapping's keys, each key once.
func (c *comparison) askKeys(ctx context.Context, w *wanted) error {
	q, err := c.s.KeysOf(ctx, c.db.Mappings[w.mapping], w.relation)
	if err != nil {
		return err
	}
	var keys []external.Key
	for more, after := true, []string(nil); more && len(keys) < 2*differencesMax; {
		var page []external.Key
		if page, more, err = c.s.ReadKeys(ctx, q, after, 2*differencesMax); err != nil {
			return err
		}
		if keys = append(keys, page...); more {
			after = page[len(page)-1].External
		}
	}
	w.query = q
	have := map[string]bool{}
	for _, k := range w.keys {
		have[k.ID()] = true
	}
	for _, k := range keys {
		if !have[k.ID()] {
			have[k.ID()] = true
			w.keys = append(w.keys, k)
		}
	}
	return nil
}

// repair corrects the differing rows and compares again, a few times where a corrected row makes another row wrong.
func (c *comparison) repair(ctx context.Context, found Comparison) (Comparison, error) {
	now := found
	for range repairsMax {
		if err := c.repairWanted(ctx); err != nil {
			return found, fmt.Errorf("repairing: %w", err)
		}
		before := now.Different()
		var err error
		if now, err = c.compare(ctx); err != nil {
			return found, fmt.Errorf("comparing after the repair: %w", err)
		}
		if now.Different() == 0 || now.Different() >= before {
			break
		}
	}
	for i := range now.Tables {
		now.Tables[i].Repaired = max(0, found.Tables[i].Different()-now.Tables[i].Different())
	}
	return now, nil
}

// repairWanted repairs all wanted rows, a batch at a time.
func (c *comparison) repairWanted(ctx context.Context) error {
	for _, w := range c.wanted {
		for len(w.keys) > 0 {
			n := 0
			err := within(ctx, readPatience, func(ctx context.Context) (err error) {
				n, err = c.repairRetrying(ctx, wanted{w.mapping, w.relation, w.query, w.keys[:min(len(w.keys), repairRows)]})
				return err
			})
			if err != nil {
				return err
			}
			w.keys = w.keys[n:]
		}
	}
	return nil
}

// repairRetrying tries a few times: the live worker holds rows first and the metadata then, so the two may meet in a deadlock.
func (c *comparison) repairRetrying(ctx context.Context, w wanted) (repaired int, err error) {
	for attempt := 1; ; attempt++ {
		repaired, err := c.repairBatch(ctx, w)
		if err == nil {
			return repaired, nil
		}
		c.s.Rollback()
		if e := external.AsError(err); e.Verdict != external.Retry || attempt == repairAttempts || !c.s.Usable() {
			return 0, err
		}
		c.v.Log.Info("the repair conflicted with the live worker and tries again", zap.Stringer("destination", c.db), zap.Error(err))
	}
}

// repairBatch gives a mapping rows of the primary again, in one transaction: existing rows as upserts, the others as deletes. repaired is the
// number of keys from the first one on: all, unless the rows are wide.
//
// The lock on the metadata keeps the live worker from committing, so the external database stays at one id, E. The rows are read after the
// lock, from a snapshot that sees every transaction with an id up to E. A transaction outside the snapshot has an id above E, so the
// transaction is still to come in the stream and wins over the rows written here: a row deleted on the primary after the read is deleted
// here when the DELETE comes. Transactions beyond E in the snapshot are only early: the stream brings the rows of E+1, E+2, ... once more
// and ends at the same. The id does not move.
//
// The keys were read before the lock. The keys that the primary lacks are asked for again under the lock: see StillHeld.
//
// A commit is in the WAL, and may have been applied here, before the commit is visible to snapshots (with synchronous replication long
// before). Such a transaction runs, as far as snapshots tell, when the lock is taken. So only a snapshot counts in which all transactions
// running then have ended. The place in the WAL, pg_current_wal_insert_lsn, could not tell the end of a transaction.
func (c *comparison) repairBatch(ctx context.Context, w wanted) (repaired int, err error) {
	if err := c.s.Begin(ctx); err != nil {
		return 0, err
	}
	if err := c.s.Exec(ctx, `SELECT FROM "_stack_sync_metadata" WHERE "tenant" = $1 AND "source" = $2 AND "mapping_name" = ANY ($3::text[]) ORDER BY "mapping_name" FOR UPDATE`,
		c.db.Tenant, c.v.SourceID, external.TextArray(mapping.Names(c.db.Mappings))); err != nil {
		return 0, fmt.Errorf("locking _stack_sync_metadata: %w", err)
	}
	found, err := c.present(ctx, w)
	if err != nil {
		return 0, err
	}
	rows, err := c.wantedRows(ctx, w, found)
	if err != nil {
		return 0, err
	}
	only := make([]bool, len(c.db.Mappings))
	only[w.mapping] = true
	if err := c.apply(ctx, only, rows); err != nil {
		return 0, err
	}
	if !c.s.InTransaction() {
		return 0, &external.Error{Mapping: c.db.Mappings[w.mapping].Name, Verdict: external.NeedsHuman, Err: errors.New("a step ended the transaction that it ran in")}
	}
	err = c.s.Commit(ctx)
	return len(found.Rows), err
}

// wantedRows are the found rows as upserts, and the keys of the others, as far as still held, as deletes.
func (c *comparison) wantedRows(ctx context.Context, w wanted, found tableread.Chunk) (*mapping.Rows, error) {
	var gone []external.Key
	var upserts, deletes []wal.Tuple
	for i, row := range found.Rows {
		if row.IsZero() {
			gone = append(gone, w.keys[i])
		} else {
			upserts = append(upserts, row)
		}
	}
	if len(gone) > 0 {
		still, err := c.s.StillHeld(ctx, w.query, gone)
		if err != nil {
			return nil, err
		}
		at, _ := fold.Places(found.Relation, w.relation)
		for _, k := range gone {
			if still[k.ID()] {
				deletes = append(deletes, fold.Arrange(k.Tuple, at))
			}
		}
	}
	return &mapping.Rows{Relation: found.Relation, Upserts: c.rows(upserts), Deletes: c.rows(deletes)}, nil
}

// present reads the rows from a snapshot in which every transaction running at the call of present has ended.
func (c *comparison) present(ctx context.Context, w wanted) (tableread.Chunk, error) {
	before, err := c.copier.Unfinished(ctx)
	if err != nil {
		return tableread.Chunk{}, err
	}
	deadline := time.Now().Add(min(repairPatience, c.v.Options.LockTimeout/2)) // the live worker waits for the repair
	tick := time.NewTicker(streamPause)
	defer tick.Stop()
	for running := before; len(running) > 0; {
		now, err := c.copier.Unfinished(ctx)
		if err != nil {
			return tableread.Chunk{}, err
		}
		running = slices.DeleteFunc(slices.Clone(before), func(xid uint32) bool { return !slices.Contains(now, xid) })
		if len(running) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return tableread.Chunk{}, &external.Error{Verdict: external.NeedsHuman, Err: fmt.Errorf("%d transactions on the primary, among them %d, run for longer than a repair can wait",
				len(running), running[0]), Remedy: "repair after they have ended: see pg_locks and pg_prepared_xacts on the primary"}
		}
		select {
		case <-ctx.Done():
			return tableread.Chunk{}, ctx.Err()
		case <-tick.C:
		}
	}
	keys := tableread.Keys{Part: c.part(w.relation)}
	for _, k := range w.keys {
		keys.Tuples = append(keys.Tuples, k.Tuple)
	}
	return c.copier.Find(ctx, keys, readBytes)
}
