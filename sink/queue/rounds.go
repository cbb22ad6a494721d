package queue

import (
	"math"
	"slices"
	"time"

	"outflow/replication/wal"
)

// A transaction that is applied in rounds stays at the front of the queue, and its place among its own changes moves.

// Next takes changes of a transaction that are not applied yet: at most a batch, of one shape, a TRUNCATE by itself. come is false while there
// are none and the transaction is not whole. done says that the changes are the last of the transaction.
func (q *Queue) Next(t *Transaction) (changes []wal.Change, done, come bool) {
	rest := t.Changes[t.next:]
	if len(rest) == 0 && !t.complete {
		return nil, false, false
	}
	n := sameShape(rest[:min(len(rest), q.limit)])
	t.next += n
	return rest[:n], t.complete && t.next == len(t.Changes), true
}

// sameShape is how many of the changes, from the first, can be folded together.
func sameShape(changes []wal.Change) int {
	n := shapes(nil).fit(changes)
	if i := slices.IndexFunc(changes[:n], func(c wal.Change) bool { return c.Kind == wal.Truncate }); i >= 0 {
		return max(i, 1)
	}
	return n
}

// Restart has the changes of a transaction applied from the first one on, and reports whether all changes are here.
func (q *Queue) Restart(t *Transaction) (whole bool) {
	t.next = 0
	return !t.Dropped
}

// Shed lets go of applied changes when the queue is filling up and the transaction's end has not come. After the end the room would be
// free at the commit anyway, and a failure would have the stream read again.
func (q *Queue) Shed(t *Transaction) {
	if t.next == 0 || t.complete || (q.bytes <= q.bound/4 && !q.gate.Closed()) {
		return
	}
	freed := bytesOf(t.Changes[:t.next])
	t.Changes = slices.Clone(t.Changes[t.next:])
	t.next, t.Dropped = 0, true
	t.bytes -= freed
	q.account(-freed)
}

// Postpone has the stream read again for a transaction whose rest does not come: see Rewind.
func (q *Queue) Postpone(t *Transaction) { t.Dropped = true }

// Has reports whether the external database has every transaction of the queue up to an id, as far as the stream has brought them.
func (q *Queue) Has(id int64) bool {
	return q.applied == len(q.transactions) || q.transactions[q.applied].ID > id
}

// Idle reports whether all transactions are applied.
func (q *Queue) Idle() bool { return q.applied == len(q.transactions) }

// Empty reports whether the queue holds nothing.
func (q *Queue) Empty() bool { return len(q.transactions) == 0 }

// Oldest is the oldest transaction whose ticket is held, -1 where there is none. open says that the reader holds the transaction too: its
// rest has not come.
func (q *Queue) Oldest() (id int64, open bool) {
	id = -1
	if len(q.transactions) > 0 {
		id, open = q.transactions[0].ID, !q.transactions[0].complete
	}
	for kept := range q.kept {
		if id < 0 || kept < id {
			id, open = kept, false
		}
	}
	return id, open
}

// Reached is how far the work on the queue has come, less the work that may have to be done again.
func (q *Queue) Reached() Position {
	if !q.Idle() {
		if t := q.transactions[q.applied]; t.next > 0 || t.Dropped {
			return Position{ID: t.ID, Ordinal: q.ordinal(t)}
		}
	}
	if q.applied > 0 {
		return Position{ID: q.transactions[q.applied-1].ID, Ordinal: math.MaxInt64}
	}
	return Position{}
}

// ordinal is the number of the first change of a transaction not taken from the queue yet.
func (q *Queue) ordinal(t *Transaction) int64 {
	switch {
	case t.next < len(t.Changes):
		return int64(t.Changes[t.next].Ordinal)
	case t.next > 0:
		return int64(t.Changes[t.next-1].Ordinal) + 1
	}
	return q.accepted.Ordinal // all changes that have come were let go of
}

// Waiting is what waits in a queue.
type Waiting struct {
	Transactions int
	Changes      int64
	Oldest       time.Time // commit of the first transaction on the primary; zero where none waits
}

// Backlog is all that waits, less what is applied.
func (q *Queue) Backlog() (b Waiting) {
	waiting := q.transactions[q.applied:]
	for _, t := range waiting {
		b.Changes += int64(len(t.Changes))
	}
	if b.Transactions = len(waiting); b.Transactions > 0 {
		b.Oldest = waiting[0].Committed
	}
	return b
}

// BacklogOf counts the waiting changes of tables in transactions above an id, and the transactions that bring the changes.
func (q *Queue) BacklogOf(tables []string, above int64) (b Waiting) {
	for _, t := range q.transactions[q.applied:] {
		if t.ID <= above {
			continue
		}
		n := int64(0)
		for i := range t.Changes {
			if slices.Contains(tables, t.Changes[i].Relation.Table) {
				n++
			}
		}
		if n > 0 {
			b.Changes += n
			b.Transactions++
		}
	}
	return b
}

// Contains reports whether one of the queued changes is as asked.
func (q *Queue) Contains(asked func(*wal.Change) bool) bool {
	for _, t := range q.transactions {
		for i := range t.Changes {
			if asked(&t.Changes[i]) {
				return true
			}
		}
	}
	return false
}
