package destination

import (
	"time"

	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/fold"
	"outflow/sink/limits"
	"outflow/sink/queue"
)

// batch is the content of one external transaction: whole source transactions, folded; or one large source transaction.
type batch struct {
	transactions []*queue.Transaction // in order, the front of the queue
	large        *queue.Transaction   // set instead of rows: the transaction is applied in rounds
	// (larger than a batch, not yet sent whole by the primary, with a TRUNCATE, or over an ALTER TABLE)
	mappings []bool // which of the session's mappings are behind the batch
	rows     map[string]*mapping.Rows
	last     int64        // sequence id of the newest
	changes  int          // net changes
	bytes    int64        // of the transactions, unless large
	fetched  limits.Grant // of the values fetched by look-ups
	taken    time.Time
	async    bool // COMMIT does not wait for the disk of the external server

	careful bool             // large: rounds stand behind savepoints, and constraints are checked after each statement
	guarded bool             // the round stands behind a savepoint
	refused fold.Waiting     // changes of a large transaction not yet taken by the external database
	cursor  *backfill.Cursor // of the backfill, where changes were put off to its next pass; nil mostly
}

// take makes a batch of the transactions at the front of the queue, behind the batch before (nil: none) that is still in flight.
// The result is nil when there is nothing. The worker calls take.
func (d *Destination) take(before *batch) *batch {
	b := &batch{taken: time.Now()}
	var inFlight []*queue.Transaction
	if before != nil {
		inFlight = before.transactions
	}
	d.mu.Lock()
	run := d.queue.Take(queue.Progress(d.session.Held), d.reads, inFlight)
	d.mu.Unlock()
	if len(run.Transactions) == 0 {
		return nil
	}
	b.transactions, b.mappings, b.bytes = run.Transactions, run.Behind, run.Bytes
	b.last = run.Transactions[len(run.Transactions)-1].ID
	if run.Rounds {
		b.large = run.Transactions[0]
		return b
	}
	var f fold.Fold
	for _, t := range run.Transactions { // whole transactions: their changes change no more
		d.fold(&f, t, t.Changes)
	}
	b.rows = f.Rows()
	d.shared.Schemas.Widen(b.rows)
	for _, r := range b.rows {
		b.changes += r.Len(mapping.Any)
	}
	return b
}

// fold adds a transaction's changes of the tables read by the mappings.
func (d *Destination) fold(f *fold.Fold, t *queue.Transaction, changes []wal.Change) {
	for i := range changes {
		if name := changes[i].Relation.Table; d.reads[name] {
			f.Add(name, &changes[i], t.ID, t.Committed)
		}
	}
}

// xidsOf are the transaction ids of the batch's transactions with the given sequence ids.
func (b *batch) xidsOf(ids map[int64]bool) (xids []uint32) {
	for _, t := range b.transactions {
		if ids[t.ID] {
			xids = append(xids, t.XID)
		}
	}
	return xids
}
