package sink

import (
	"sync"
	"sync/atomic"

	"outflow/replication/wal"
)

// TableStatus is the traffic of a source table in the stream since the process started, for all tenants together.
type TableStatus struct {
	Table                                string // schema and name
	Inserts, Updates, Deletes, Truncates int64
	// Skipped counts changes that reached no destination, on purpose: of a table that is not configured, without a tenant, or tombstones
	// that name no row of a synced table.
	Skipped                      int64
	MinSequenceID, MaxSequenceID int64 // of the first and the newest change; -1 where there was none
}

// tableCount counts the changes of a table: the reader's goroutine adds, any goroutine reads.
type tableCount struct {
	oid                                  uint32
	name                                 string
	inserts, updates, deletes, truncates atomic.Int64
	skipped, first, last                 atomic.Int64
}

func newTableCount(rel *wal.Relation) *tableCount {
	c := &tableCount{oid: rel.OID, name: rel.String()}
	c.first.Store(-1)
	c.last.Store(-1)
	return c
}

func (c *tableCount) add(kind wal.Kind, id int64) {
	switch kind {
	case wal.Insert:
		c.inserts.Add(1)
	case wal.Update:
		c.updates.Add(1)
	case wal.Delete:
		c.deletes.Add(1)
	case wal.Truncate:
		c.truncates.Add(1)
	}
	c.first.CompareAndSwap(-1, id)
	c.last.Store(id)
}

// skip counts a change as passed over; the change was counted as a change before.
func (c *tableCount) skip() {
	if c != nil {
		c.skipped.Add(1)
	}
}

// tableCounts are the counts by table, in the configuration's order, the unconfigured tables last. The zero value has no table. Safe for
// concurrent use.
type tableCounts struct {
	mu  sync.RWMutex
	all []*tableCount
}

// of is the count of a relation's table, nil where there is none.
func (t *tableCounts) of(rel *wal.Relation) *tableCount {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, c := range t.all {
		if c.oid == rel.OID {
			return c
		}
	}
	return nil
}

// add begins the count of a table.
func (t *tableCounts) add(rel *wal.Relation) *tableCount {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := newTableCount(rel)
	t.all = append(t.all, c)
	return c
}

func (t *tableCounts) status() []TableStatus {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]TableStatus, len(t.all))
	for i, c := range t.all {
		all[i] = TableStatus{Table: c.name, Inserts: c.inserts.Load(), Updates: c.updates.Load(), Deletes: c.deletes.Load(),
			Truncates: c.truncates.Load(), Skipped: c.skipped.Load(), MinSequenceID: c.first.Load(), MaxSequenceID: c.last.Load()}
	}
	return all
}

// count adds the changes of a part to the tables of the changes.
func (r *Router) count(part *wal.Transaction) {
	for i := range part.Changes {
		if rt := r.route(part.Changes[i].Relation); rt.table != "" {
			rt.count.add(part.Changes[i].Kind, part.SequenceID)
		}
	}
}

// TableStatus is of each source table, in the configuration's order, the tombstones behind the source tables, and then of the unconfigured
// tables. Changes that come again after a lost connection are counted again.
func (r *Router) TableStatus() []TableStatus {
	return r.counts.status()
}
