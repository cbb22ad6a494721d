package queue

import (
	"slices"
	"time"

	"outflow/replication/wal"
)

// Queue holds the transactions that a destination has accepted from the stream and that the external database does not have for good, in
// the order of the source:
//
//	committed, perhaps not flushed | in flight | waiting | arriving
//	                               ^ applied
//
// The tickets of all these transactions are held in the ack tracker. The queue does not hold or release a ticket itself: the queue says
// which ticket the caller is to hold or to release. So the queue knows no server and no router, and its only neighbour is the gate, which
// counts the bytes of all queues. The lock of the destination guards the queue; the queue has none.
//
// A transaction may be too large for the queue. The transaction is then applied in rounds while its rest arrives, and its applied changes
// are let go of (Shed). After a failure such a transaction cannot be applied from the queue: the stream has to be read again (Rewind), and
// the tickets are kept until the transactions come again.
type Queue struct {
	gate  *Gate
	bound int64 // bytes that may wait; above the bound the reader waits
	limit int   // changes a batch; halved when a statement ran into its timeout
	most  int   // limit while all is well

	transactions []*Transaction
	applied      int   // so many at the front are committed in the external database, but not known to be flushed there
	released     int64 // sequence id up to which tickets were released: the source may forget the changes up to there
	bytes        int64
	inFlight     int64 // bytes being applied: bounded by the size of two batches, and no reason for the reader to wait
	lagging      int64 // bytes applied and not known to be flushed: see MayLag; no reason to wait either
	over         bool  // counted in the gate

	accepted Position
	holding  int64                // the newest transaction whose ticket is held; reading again does not hold the ticket twice
	kept     map[int64]wal.Ticket // of transactions that must be read again, by id; see Rewind
	reading  int                  // the reading of the stream that the newest part came from
	unwanted int                  // parts of readings up to and including unwanted are not taken: see Rewind
	replays  int                  // how often the stream was read again for the destination since its last commit
}

// New is an empty queue for so many bytes, from which a batch takes so many changes at most.
func New(g *Gate, bound int64, limit int) Queue {
	return Queue{gate: g, bound: bound, limit: limit, most: limit, accepted: Position{ID: -1}, holding: -1, released: -1,
		kept: map[int64]wal.Ticket{}}
}

// Bytes are the bytes of all that the queue holds.
func (q *Queue) Bytes() int64 { return q.bytes }

// Over reports whether more bytes wait than the bound.
func (q *Queue) Over() bool { return q.over }

// Limit is how many changes a batch takes at most.
func (q *Queue) Limit() int { return q.limit }

// Applied is how many transactions the external database has committed and may not have flushed.
func (q *Queue) Applied() int { return q.applied }

// MayLag reports whether a batch of so many bytes may be committed without a wait for the external server's disk: the bytes that wait for the flush
// stay within the bound, and no flush is overdue.
func (q *Queue) MayLag(bytes int64, now time.Time) bool {
	return q.lagging+bytes <= q.bound && !q.Overdue(now)
}

// Released is the sequence id up to which tickets were released: the source may forget the changes up to there.
func (q *Queue) Released() int64 { return q.released }

// Durable says that the external database has everything up to a sequence id for good.
func (q *Queue) Durable(id int64) { q.released = max(q.released, id) }

// Replays is how often the stream was read again for the destination since its last commit.
func (q *Queue) Replays() int { return q.replays }

// AwaitsReplay reports whether transactions must be read again of which the tickets are held.
func (q *Queue) AwaitsReplay() bool { return len(q.kept) > 0 }

// StartAfter has the queue begin with the transactions after the one with the id, of which parts may have come already.
func (q *Queue) StartAfter(id int64) { q.accepted, q.holding = Position{ID: id, Complete: true}, id }

// Accept queues changes of a part, less the changes accepted before. taken is false when the whole transaction was accepted before. hold says
// that the caller has to hold the part's ticket.
func (q *Queue) Accept(part *wal.Transaction, changes []wal.Change) (taken, hold bool) {
	q.reading = part.Session
	if q.unwants(part) {
		return false, false
	}
	a := &q.accepted
	if part.SequenceID > a.ID {
		if hold = part.SequenceID > q.holding; hold {
			q.holding = part.SequenceID
		}
		delete(q.kept, part.SequenceID)
		*a = Position{ID: part.SequenceID}
		q.transactions = append(q.transactions, &Transaction{ID: part.SequenceID, XID: part.XID, Committed: part.CommitTime, Received: time.Now(),
			ticket: part.Ticket, bytes: transactionOverhead})
		q.account(transactionOverhead)
	}
	for len(changes) > 0 && int64(changes[0].Ordinal) < a.Ordinal { // seen before the connection was lost
		changes = changes[1:]
	}
	if len(changes) == 0 {
		return true, hold
	}
	a.Ordinal = int64(changes[len(changes)-1].Ordinal) + 1
	t := q.transactions[len(q.transactions)-1]
	if t.Changes == nil {
		t.Changes = slices.Clip(changes) // other destinations share the array: an append must not write into its spare capacity
	} else {
		t.Changes = append(t.Changes, changes...)
	}
	n := bytesOf(changes)
	t.bytes += n
	q.account(n)
	return true, hold
}

// Pass lets a part go by: the destination is detached. A returning destination takes whole transactions again.
func (q *Queue) Pass(part *wal.Transaction) {
	q.reading = part.Session
	if !q.unwants(part) {
		q.accepted = Position{ID: part.SequenceID, Complete: true}
		q.holding = max(q.holding, part.SequenceID)
	}
}

// unwants reports whether all of a part's transaction was accepted before, or the part is of a reading that is to be ended.
func (q *Queue) unwants(part *wal.Transaction) bool {
	return part.Session <= q.unwanted || part.SequenceID < q.accepted.ID || part.SequenceID == q.accepted.ID && q.accepted.Complete
}

func bytesOf(changes []wal.Change) (n int64) {
	for i := range changes {
		n += changes[i].Bytes()
	}
	return n
}

// Complete marks the newest transaction as sent whole. The result is false where the transaction with the id is not the newest of the queue.
func (q *Queue) Complete(id int64) bool {
	if q.accepted.ID != id || q.accepted.Complete || len(q.transactions) == 0 {
		return false
	}
	q.accepted.Complete = true
	q.transactions[len(q.transactions)-1].complete = true
	return true
}

// account moves the queue's bytes and tells the gate.
func (q *Queue) account(n int64) {
	q.bytes += n
	over := 0
	switch waiting := q.bytes - q.inFlight - q.lagging; {
	case !q.over && waiting > q.bound:
		q.over, over = true, 1
	case q.over && waiting <= q.bound/2:
		q.over, over = false, -1
	}
	q.gate.Add(n, over)
}

// flying moves the bytes in flight.
func (q *Queue) flying(n int64) {
	q.inFlight += n
	q.account(0)
}

// Grounded says that nothing is in flight.
func (q *Queue) Grounded() { q.flying(-q.inFlight) }

// Narrow halves the size of batches.
func (q *Queue) Narrow() { q.limit = max(q.limit/2, 1) }

// Widen doubles the size of batches, up to the configured size.
func (q *Queue) Widen() { q.limit = min(q.limit*2, q.most) }

// Ready reports whether the first waiting transaction can be applied.
func (q *Queue) Ready() bool {
	return q.applied < len(q.transactions) && q.takes(q.transactions[q.applied])
}

// takes reports whether a transaction can be applied: the transaction is whole, or too large to wait for its end.
func (q *Queue) takes(t *Transaction) bool {
	return t.complete || t.bytes >= q.bound || len(t.Changes) > q.limit ||
		(len(t.Changes) > t.next && q.gate.Closed()) // its end may not come before there is room
}

// Run is transactions from the front of a queue that one external transaction applies. The zero Run is none.
type Run struct {
	Transactions []*Transaction
	Behind       []bool // which of the mappings are behind the run
	Rounds       bool   // a single transaction, which is applied in rounds: larger than a batch, not yet sent whole by the primary, with a
	// TRUNCATE, or over an ALTER TABLE
	Bytes int64 // of the transactions, 0 with rounds
}

// Take makes a run of the transactions at the front of the queue, behind transactions in flight. The result is the zero Run when there is
// nothing. Transactions stay in the queue until the commit. Transactions already in every mapping are passed over. reads are the tables read
// by the mappings.
func (q *Queue) Take(held Progress, reads map[string]bool, inFlight []*Transaction) Run {
	skip := q.applied + len(inFlight)
	if len(inFlight) == 0 {
		skip = q.skipApplied(held.lowest())
	}
	var r Run
	tables, n := shapes{}, 0
	for _, t := range q.transactions[skip:] {
		if !q.takes(t) {
			break
		}
		behind := held.behind(t.ID)
		rounds := !t.complete || len(t.Changes) > q.limit || t.truncates() || tables.fit(t.Changes) < len(t.Changes)
		if len(r.Transactions) > 0 && (rounds || n+len(t.Changes) > q.limit || !slices.Equal(behind, r.Behind)) {
			break
		}
		r.Transactions = append(r.Transactions, t)
		r.Behind = behind
		n += len(t.Changes)
		if rounds {
			r.Rounds = true
			break
		}
		tables.add(t.Changes, reads)
		r.Bytes += t.bytes
		if n >= q.limit || r.Bytes >= q.bound/2 {
			break
		}
	}
	if r.Rounds && len(inFlight) > 0 {
		return Run{}
	}
	q.flying(r.Bytes)
	return r
}

// skipApplied passes over transactions up to an id, which the external database has already: the stream was read again. The result is the
// place of the first missing transaction.
func (q *Queue) skipApplied(id int64) int {
	for q.applied < len(q.transactions) && q.transactions[q.applied].complete && q.transactions[q.applied].ID <= id {
		q.lagging += q.transactions[q.applied].bytes
		q.applied++
	}
	return q.applied
}

// Behind is how many changes wait behind n transactions in flight, counted up to enough, or to a transaction whose rest has not come.
func (q *Queue) Behind(n, enough int) (waiting int) {
	for _, t := range q.transactions[q.applied+n:] {
		if waiting += len(t.Changes); waiting >= enough || !t.complete {
			break
		}
	}
	return waiting
}

// Commit notes that the external database has committed the next n transactions, with so many bytes in flight.
func (q *Queue) Commit(n int, bytes int64) {
	for _, t := range q.transactions[q.applied : q.applied+n] {
		q.lagging += t.bytes
	}
	q.applied += n
	q.replays = 0
	q.flying(-bytes)
}

// Flushed takes the external server's WAL positions, written and flushed, as just reported by the server, lets go of the flushed
// transactions, and returns the tickets to release.
func (q *Queue) Flushed(insert, flush wal.LSN, now time.Time) []wal.Ticket {
	n := 0
	for _, t := range q.transactions[:q.applied] {
		if t.external == 0 {
			t.external, t.asked = insert, now // committed before this answer, so the commit record is below insert
		}
		if t.external <= flush {
			n++
		}
	}
	return q.LetGo(n)
}

// LetGo lets go of the first n transactions, which are committed and flushed, and returns the tickets to release.
func (q *Queue) LetGo(n int) []wal.Ticket {
	if n == 0 {
		return nil
	}
	tickets := make([]wal.Ticket, n)
	var freed int64
	for i, t := range q.transactions[:n] {
		tickets[i] = t.ticket
		freed += t.bytes
		q.released = max(q.released, t.ID)
	}
	clear(q.transactions[:n])
	q.transactions = q.transactions[n:]
	q.applied -= n
	q.lagging -= freed
	q.account(-freed)
	return tickets
}

// flushPatience is how long a destination waits for the server to report the flush; then a commit that waits for the disk
// forces the flush. A server whose WAL writer does not run, or only claims not to have flushed, must not hold the slot.
const flushPatience = 5 * time.Second

// Overdue reports whether the oldest commit has waited too long to be flushed.
func (q *Queue) Overdue(now time.Time) bool {
	return q.applied > 0 && !q.transactions[0].asked.IsZero() && now.Sub(q.transactions[0].asked) > flushPatience
}

// Rewind prepares for another try: the queue is taken again from the front, since only the metadata can tell which transactions
// were committed. Where parts of a large transaction were let go of, the result is true: the stream must be read again. Until the
// stream is read again nothing is taken, or the rest of the transaction would pass for the whole.
func (q *Queue) Rewind() (replay bool) {
	q.applied, q.lagging = 0, 0
	q.Grounded()
	for _, t := range q.transactions {
		t.next, t.external = 0, 0
		replay = replay || t.Dropped
	}
	if !replay {
		return false
	}
	// The tickets stay held: holding marks the newest held ticket, and no ticket is held again when the changes come again.
	freed := int64(0)
	for _, t := range q.transactions {
		q.kept[t.ID] = t.ticket
		freed += t.bytes
	}
	q.accepted = Position{ID: q.transactions[0].ID - 1, Complete: true}
	q.unwanted = q.reading
	q.replays++
	q.transactions = nil
	q.account(-freed)
	return true
}

// Excuse takes the last replay out of the count: the destination is not at fault.
func (q *Queue) Excuse() { q.replays-- }

// Drop empties the queue and returns the tickets to release. open is the transaction whose parts are coming: its rest is not wanted either.
// Nothing of the queue is in flight, and the primary has noted that the external database lacks the transactions.
func (q *Queue) Drop(open int64) []wal.Ticket {
	tickets := make([]wal.Ticket, 0, len(q.transactions)+len(q.kept))
	for _, ticket := range q.kept {
		tickets = append(tickets, ticket)
	}
	clear(q.kept)
	for _, t := range q.transactions {
		tickets = append(tickets, t.ticket)
	}
	// Rewind may have put accepted back, to read again: the second read will not happen.
	q.StartAfter(max(q.holding, q.accepted.ID, open))
	q.unwanted, q.replays = 0, 0
	q.transactions, q.applied, q.inFlight, q.lagging = nil, 0, 0, 0
	q.account(-q.bytes)
	return tickets
}
