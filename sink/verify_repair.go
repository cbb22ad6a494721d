package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication"
)

// wanted are source rows, by key, that one mapping is to be given again.
type wanted struct {
	mapping  int
	relation *replication.Relation
	keys     []replication.Tuple
}

const (
	repairRows     = 1000 // keys in one transaction
	repairAttempts = 5    // at one transaction, where the live worker was in the way
	openPatience   = 5 * time.Second
)

// sourceKeys finds which source rows the differing rows come from: each mapping's keys, asked while its tables hold only
// what differs, first as it should be and then as it is. It uses up the look's temporary tables.
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
	for mi, m := range c.d.mappings {
		for _, table := range m.Tables() {
			if _, ok := m.Keys[table]; ok {
				all = append(all, wanted{mapping: mi, relation: c.d.router.relation(table)})
			}
		}
	}
	return all
}

func (c *comparison) onlyExpected(ctx context.Context, s *seen) error {
	id, _ := s.identity()
	_, err := c.s.exec(ctx, fmt.Sprintf(`DELETE FROM pg_temp.%s AS "_row" WHERE %s NOT IN (SELECT unnest($1::text[]))`,
		quoteColumn(s.name), id), textArray(s.settledIDs()))
	return err
}

func (c *comparison) onlyHere(ctx context.Context, s *seen) error {
	id, _ := s.identity()
	columns := make([]string, len(s.columns))
	for i, name := range s.columns {
		columns[i] = quoteColumn(name)
	}
	name, list := quoteColumn(s.name), strings.Join(columns, ", ")
	_, err := c.s.exec(ctx, `DELETE FROM pg_temp.`+name)
	if err == nil {
		_, err = c.s.exec(ctx, fmt.Sprintf(`INSERT INTO pg_temp.%s (%s) SELECT %s FROM public.%s AS "_row" WHERE %s IN (SELECT unnest($1::text[]))`,
			name, list, list, name, id), textArray(s.settledIDs()))
	}
	return err
}

// askKeys adds what a mapping's keys say now, each key once.
func (c *comparison) askKeys(ctx context.Context, w *wanted) error {
	m, table, rel := c.d.mappings[w.mapping], w.relation.Table, w.relation
	key := replication.Range{Relation: rel, Tenant: c.d.router.tenantColumn(rel)}.KeyColumns()
	rows, err := c.s.exec(ctx, keysSQL(rel, key, m.Keys[table], nil, 2*differencesMax))
	if err != nil {
		return faultOf(m.Name, func(_ int32, format string, args ...any) *mapping.Fault {
			return m.KeysFault(table, format, args...)
		}, err)
	}
	have, keyOf := map[string]bool{}, keyFunc(rel)
	for _, t := range w.keys {
		have[keyOf(t)] = true
	}
	for _, row := range rows {
		if t := c.keyTuple(rel, key, row); !have[keyOf(t)] {
			have[keyOf(t)] = true
			w.keys = append(w.keys, t)
		}
	}
	return nil
}

// keyTuple is a row of which only the key and the tenant are known.
func (c *comparison) keyTuple(rel *replication.Relation, key []int, row [][]byte) replication.Tuple {
	values := make([]replication.Value, len(rel.Columns))
	for i := range values {
		values[i].Presence = replication.Null
	}
	values[c.d.router.tenantColumn(rel)] = replication.Value{Presence: replication.Text, Text: []byte(c.d.Tenant)}
	for n, i := range key {
		values[i] = replication.Value{Presence: replication.Text, Text: row[n]}
	}
	return replication.NewTuple(values)
}

// repair mends what differs and compares again, a few times where a mended row makes another one wrong.
func (c *comparison) repair(ctx context.Context, found Comparison) (Comparison, error) {
	now := found
	for range repairsMax {
		if err := c.mend(ctx); err != nil {
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
		now.Tables[i].Mended = max(0, found.Tables[i].Different()-now.Tables[i].Different())
	}
	return now, nil
}

func (c *comparison) mend(ctx context.Context) error {
	for _, w := range c.wanted {
		for keys := range slices.Chunk(w.keys, repairRows) {
			if err := c.mendAgain(ctx, wanted{w.mapping, w.relation, keys}); err != nil {
				return err
			}
		}
	}
	return nil
}

// mendAgain tries a few times: the live worker holds rows first and the metadata then, so the two may meet in a deadlock.
func (c *comparison) mendAgain(ctx context.Context, w wanted) error {
	for attempt := 1; ; attempt++ {
		err := c.mendRows(ctx, w)
		if err == nil {
			return nil
		}
		c.s.rollback()
		if e := newError(err); e.verdict != retry || attempt == repairAttempts || !c.s.usable() {
			return err
		}
		c.v.Log.Info("the repair met the live worker and tries again", zap.Stringer("destination", c.d), zap.Error(err))
	}
}

// mendRows gives a mapping rows of the primary again, in one transaction: those that exist as upserts, the others as
// deletes.
//
// The live worker is kept from committing by the lock on the metadata, so the external database stays at one id, E.
// The rows are read after that, from a snapshot that sees every transaction with an id up to E. What the snapshot
// does not see has an id above E, so it is still to come in the stream and wins over what is written here: a row
// that is deleted on the primary after it was read is deleted here when its DELETE comes. What the snapshot sees beyond E
// is only early: the stream brings the rows of E+1, E+2, ... once more and ends at the same. The id does not move.
//
// A commit is in the WAL, and may have been applied here, before it is visible to snapshots (with synchronous replication
// long before). Such a transaction runs, as far as snapshots tell, when the lock is taken; so the snapshot that counts is
// one in which all that ran then have ended. The place in the WAL, pg_current_wal_insert_lsn, could not tell that.
func (c *comparison) mendRows(ctx context.Context, w wanted) error {
	if err := c.s.begin(ctx); err != nil {
		return err
	}
	if _, err := c.s.exec(ctx, `SELECT FROM "_stack_sync_metadata" WHERE "tenant" = $1 AND "source" = $2 ORDER BY "mapping_name" FOR UPDATE`,
		c.d.Tenant, c.v.SourceID); err != nil {
		return fmt.Errorf("locking _stack_sync_metadata: %w", err)
	}
	found, err := c.present(ctx, w)
	if err != nil {
		return err
	}
	rows := &mapping.Rows{Relation: w.relation}
	there, keyOf := map[string]bool{}, keyFunc(w.relation)
	tenant := c.d.router.tenantColumn(w.relation)
	for _, row := range c.rows(found) {
		if string(row.Tuple.Value(tenant).Text) == c.d.Tenant {
			there[keyOf(row.Tuple)] = true
			rows.Upserts = append(rows.Upserts, row)
		}
	}
	rows.Deletes = c.rows(slices.DeleteFunc(slices.Clone(w.keys), func(t replication.Tuple) bool { return there[keyOf(t)] }))
	only := make([]bool, len(c.d.mappings))
	only[w.mapping] = true
	if err := c.apply(ctx, only, rows); err != nil {
		return err
	}
	if c.s.conn.TxStatus() != 'T' {
		return &Error{Mapping: c.d.mappings[w.mapping].Name, verdict: needsHuman, Err: errors.New("a step ended the transaction that it ran in")}
	}
	_, err = c.s.exec(ctx, commitSQL)
	return err
}

// present reads the rows from a snapshot in which every transaction has ended that was running when it was called.
func (c *comparison) present(ctx context.Context, w wanted) ([]replication.Tuple, error) {
	before, err := c.copier.Unfinished(ctx)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(min(openPatience, c.v.Options.LockTimeout/2)) // the live worker waits for us
	tick := time.NewTicker(streamPause)
	defer tick.Stop()
	for running := before; len(running) > 0; {
		now, err := c.copier.Unfinished(ctx)
		if err != nil {
			return nil, err
		}
		running = slices.DeleteFunc(slices.Clone(before), func(xid uint32) bool { return !slices.Contains(now, xid) })
		if len(running) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return nil, &Error{verdict: needsHuman, Err: fmt.Errorf("%d transactions on the primary, %d among them, run for longer than a repair can wait",
				len(running), running[0]), Remedy: "repair when they have ended: see pg_locks and pg_prepared_xacts on the primary"}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
	found, err := c.copier.Present(ctx, w.relation, w.keys)
	return found.Rows, err
}

// textArray is an array literal.
func textArray(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}
