package sink

import (
	"slices"
	"time"

	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/fold"
)

// batch is the content of one external transaction: whole source transactions, folded; or one large source transaction.
type batch struct {
	transactions []*transaction // in order, the front of the queue
	large        *transaction   // set instead of rows: the transaction is applied in rounds
	// (larger than a batch, not yet sent whole by the primary, with a TRUNCATE, or over an ALTER TABLE)
	mappings []bool // which of the session's mappings are behind the batch
	rows     map[string]*mapping.Rows
	last     int64 // sequence id of the newest
	changes  int   // net changes
	bytes    int64 // of the transactions, unless large
	fetched  grant // of the values fetched by look-ups
	taken    time.Time
	hopeful  bool // rows new on the source are inserted without ON CONFLICT
	async    bool // COMMIT does not wait for the disk of the external server

	careful bool    // large: rounds stand behind savepoints, and constraints are checked after each statement
	guarded bool    // the round stands behind a savepoint
	refused refused // changes of a large transaction not yet taken by the external database
	cursor  *cursor // of the backfill, where changes were put off to its next pass; nil mostly
}

// take makes a batch of the transactions at the front of the queue, behind the batch before (nil: none) that is still in flight.
// The result is nil when there is nothing. Transactions stay in the queue until the commit. Transactions already in every mapping
// are released on the way.
func (d *Destination) take(s *session, before *batch) *batch {
	d.mu.Lock()
	defer d.mu.Unlock()
	skip := d.applied
	if before != nil {
		skip += len(before.transactions)
	} else {
		skip = d.skipApplied(s)
	}
	b := &batch{taken: time.Now()}
	var f fold.Fold
	n := 0
	for _, t := range d.queue[skip:] {
		if !d.ready(t) {
			break
		}
		behind := s.behind(t.id)
		inRounds := !t.complete || len(t.changes) > d.limit || truncates(t) || !d.fits(&f, t)
		if len(b.transactions) > 0 && (inRounds || n+len(t.changes) > d.limit || !slices.Equal(behind, b.mappings)) {
			break
		}
		b.transactions = append(b.transactions, t)
		b.mappings, b.last = behind, t.id
		n += len(t.changes)
		if inRounds {
			b.large = t
			break
		}
		d.fold(&f, t, t.changes)
		b.bytes += t.bytes
		if n >= d.limit || b.bytes >= d.router.Options.queueBytes()/2 {
			break
		}
	}
	if len(b.transactions) == 0 || (b.large != nil && before != nil) {
		return nil
	}
	d.flying(b.bytes)
	b.rows = d.net(&f)
	for _, r := range b.rows {
		b.changes += r.Len(mapping.Any)
	}
	return b
}

// skipApplied passes over transactions that the external database already has: the stream was read again. The result is the place
// of the first missing transaction. The caller holds mu.
func (d *Destination) skipApplied(s *session) int {
	for d.applied < len(d.queue) && d.queue[d.applied].complete && d.queue[d.applied].id <= s.lowest() {
		d.lagging += d.queue[d.applied].bytes
		d.applied++
	}
	return d.applied
}

// fold adds a transaction's changes of the tables read by the mappings.
func (d *Destination) fold(f *fold.Fold, t *transaction, changes []wal.Change) {
	for i := range changes {
		if name := changes[i].Relation.Table; d.reads[name] {
			f.Add(name, &changes[i], t.id, t.committed)
		}
	}
}

// fits reports whether all rows of a table have one shape: a batch ends where a table was altered.
func (d *Destination) fits(f *fold.Fold, t *transaction) bool {
	shapes := map[string]*wal.Relation{}
	var last *wal.Relation
	for i := range t.changes {
		rel := t.changes[i].Relation
		if rel == last {
			continue
		}
		last = rel
		known := shapes[rel.Table]
		if known == nil {
			known = f.Relation(rel.Table)
		}
		if known != nil && !known.SameShape(rel) {
			return false
		}
		shapes[rel.Table] = rel
	}
	return true
}

func truncates(t *transaction) bool {
	for i := range t.changes {
		if t.changes[i].Kind == wal.Truncate {
			return true
		}
	}
	return false
}

// rewind prepares for another try: the queue is taken again from the front, since only the metadata can tell which transactions
// were committed. Where parts of a large transaction were dropped, the result is true: the stream must be read again. Until the
// stream is read again nothing is taken, or the rest of the transaction would pass for the whole. The caller holds mu.
func (d *Destination) rewind() (replay bool) {
	d.applied, d.lagging = 0, 0
	d.flying(-d.inFlight)
	for _, t := range d.queue {
		t.next, t.external = 0, 0
		replay = replay || t.dropped
	}
	if !replay {
		return false
	}
	// The tickets stay held: holding marks the newest held ticket, and no ticket is held again when the changes come again.
	for _, t := range d.queue {
		d.kept[t.id] = t.ticket
	}
	d.accepted = position{id: d.queue[0].id - 1, complete: true}
	d.unwanted = d.reading
	d.replays++
	freed := int64(0)
	for _, t := range d.queue {
		freed += t.bytes
	}
	d.queue = nil
	d.account(-freed)
	return true
}
