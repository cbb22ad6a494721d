package sink

import (
	"math"
	"slices"
	"time"

	"outflow/replication/wal"
)

// A transaction that is applied in rounds stays at the front of the queue, and its place among its own changes moves.

// next takes changes of a transaction that are not applied yet: at most a batch, of one shape, a TRUNCATE by itself. come is false while there
// are none and the transaction is not whole. done says that the changes are the last of the transaction.
func (q *queue) next(t *transaction) (changes []wal.Change, done, come bool) {
	rest := t.changes[t.next:]
	if len(rest) == 0 && !t.complete {
		return nil, false, false
	}
	n := sameShape(rest[:min(len(rest), q.limit)])
	t.next += n
	return rest[:n], t.complete && t.next == len(t.changes), true
}

// sameShape is how many of the changes, from the first, can be folded together.
func sameShape(changes []wal.Change) int {
	n := shapes(nil).fit(changes)
	if i := slices.IndexFunc(changes[:n], func(c wal.Change) bool { return c.Kind == wal.Truncate }); i >= 0 {
		return max(i, 1)
	}
	return n
}

// restart has the changes of a transaction applied from the first one on, and reports whether all changes are here.
func (q *queue) restart(t *transaction) (whole bool) {
	t.next = 0
	return !t.dropped
}

// shed lets go of applied changes when the queue is filling up and the transaction's end has not come. After the end the room would be
// free at the commit anyway, and a failure would have the stream read again.
func (q *queue) shed(t *transaction) {
	if t.next == 0 || t.complete || (q.bytes <= q.bound/4 && !q.gate.closed()) {
		return
	}
	freed := bytesOf(t.changes[:t.next])
	t.changes = slices.Clone(t.changes[t.next:])
	t.next, t.dropped = 0, true
	t.bytes -= freed
	q.account(-freed)
}

// has reports whether the external database has every transaction of the queue up to an id, as far as the stream has brought them.
func (q *queue) has(id int64) bool {
	return q.applied == len(q.transactions) || q.transactions[q.applied].id > id
}

// idle reports whether all transactions are applied.
func (q *queue) idle() bool { return q.applied == len(q.transactions) }

// empty reports whether the queue holds nothing.
func (q *queue) empty() bool { return len(q.transactions) == 0 }

// oldest is the oldest transaction whose ticket is held, -1 where there is none. open says that the reader holds the transaction too: its
// rest has not come.
func (q *queue) oldest() (id int64, open bool) {
	id = -1
	if len(q.transactions) > 0 {
		id, open = q.transactions[0].id, !q.transactions[0].complete
	}
	for kept := range q.kept {
		if id < 0 || kept < id {
			id, open = kept, false
		}
	}
	return id, open
}

// reached is how far the work on the queue has come, less the work that may have to be done again.
func (q *queue) reached() position {
	if !q.idle() {
		if t := q.transactions[q.applied]; t.next > 0 || t.dropped {
			return position{id: t.id, ordinal: q.ordinal(t)}
		}
	}
	if q.applied > 0 {
		return position{id: q.transactions[q.applied-1].id, ordinal: math.MaxInt64}
	}
	return position{}
}

// ordinal is the number of the first change of a transaction not taken from the queue yet.
func (q *queue) ordinal(t *transaction) int64 {
	switch {
	case t.next < len(t.changes):
		return int64(t.changes[t.next].Ordinal)
	case t.next > 0:
		return int64(t.changes[t.next-1].Ordinal) + 1
	}
	return q.accepted.ordinal // all changes that have come were let go of
}

// backlog is what waits in a queue.
type backlog struct {
	transactions int
	changes      int64
	oldest       time.Time // commit of the first transaction on the primary; zero where none waits
}

func (q *queue) backlog() (b backlog) {
	waiting := q.transactions[q.applied:]
	for _, t := range waiting {
		b.changes += int64(len(t.changes))
	}
	if b.transactions = len(waiting); b.transactions > 0 {
		b.oldest = waiting[0].committed
	}
	return b
}

// backlogOf counts the waiting changes of tables in transactions above an id, and the transactions that bring the changes.
func (q *queue) backlogOf(tables []string, above int64) (b backlog) {
	for _, t := range q.transactions[q.applied:] {
		if t.id <= above {
			continue
		}
		n := int64(0)
		for i := range t.changes {
			if slices.Contains(tables, t.changes[i].Relation.Table) {
				n++
			}
		}
		if n > 0 {
			b.changes += n
			b.transactions++
		}
	}
	return b
}

// contains reports whether one of the queued changes is as asked.
func (q *queue) contains(asked func(*wal.Change) bool) bool {
	for _, t := range q.transactions {
		for i := range t.changes {
			if asked(&t.changes[i]) {
				return true
			}
		}
	}
	return false
}
