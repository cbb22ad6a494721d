package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"outflow/replication/wal"
)

// tableItem is a table of a tenant's items.
var tableItem = &wal.Relation{OID: 1, Schema: "public", Name: "item", Table: "item", Identity: 'd', Key: []int{0, 1},
	Columns: []wal.Column{{Name: "tenant", Type: "text", Identity: true}, {Name: "id", Type: "text", Identity: true}}}

func insertOf(tenant, id string) wal.Change {
	return wal.Change{Kind: wal.Insert, Relation: tableItem, New: wal.NewTuple([]wal.Value{
		{Presence: wal.Text, Text: []byte(tenant)}, {Presence: wal.Text, Text: []byte(id)}})}
}

// history plays a source, a stream and an external database around a queue, and keeps the naive truth beside: which tickets are held, and which
// changes the external database has.
type history struct {
	t *testing.T
	r *rand.Rand
	q Queue

	source  [][]wal.Change // transactions; the place i has the id (i+1)*10
	at      streamPlace    // of the stream
	session int
	restart bool // the stream is to be read again, and still sends parts of the reading before

	tickets  map[wal.Ticket]int // held by the queue, how often
	detached bool
	reached  Position // how far the queue said that the work has come

	external []applied // committed, in order
	safe     int       // so many of external survive a crash of the server
	wal      wal.LSN
	ends     []wal.LSN // of the commits in external
}

// streamPlace is a transaction and a change of the source.
type streamPlace struct{ transaction, change int }

type applied struct {
	id      int64
	ordinal uint32
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, r: rand.New(rand.NewPCG(seed, 1)), session: 1, tickets: map[wal.Ticket]int{}}
	h.q = New(&Gate{Limit: 6000}, 3000, 8)
	h.q.StartAfter(0)
	altered := *tableItem
	altered.Columns = append(slices.Clone(tableItem.Columns), wal.Column{Name: "more", Type: "text"})
	for range 25 {
		changes := make([]wal.Change, 1+h.r.IntN(5))
		if h.r.IntN(6) == 0 {
			changes = make([]wal.Change, 1+h.r.IntN(40))
		}
		for i := range changes {
			changes[i] = insertOf("t", fmt.Sprint(i))
			changes[i].Ordinal = uint32(i)
			switch h.r.IntN(30) {
			case 0:
				changes[i].Relation = &altered
			case 1:
				changes[i] = wal.Change{Kind: wal.Truncate, Relation: tableItem, Ordinal: uint32(i)}
			}
		}
		h.source = append(h.source, changes)
	}
	return h
}

func idOf(transaction int) int64 { return int64(transaction+1) * 10 }

// read sends the next part of the stream.
func (h *history) read() {
	if h.at.transaction == len(h.source) {
		return
	}
	changes := h.source[h.at.transaction][h.at.change:]
	changes = changes[:1+h.r.IntN(len(changes))]
	id := idOf(h.at.transaction)
	part := &wal.Transaction{SequenceID: id, Ticket: wal.Ticket(id), Session: h.session}
	if h.detached {
		h.q.Pass(part)
	} else if taken, hold := h.q.Accept(part, changes); hold {
		if h.tickets[part.Ticket]++; h.tickets[part.Ticket] > 1 {
			h.t.Fatalf("the ticket of %d is held twice", id)
		}
	} else if taken && h.tickets[part.Ticket] != 1 {
		h.t.Fatalf("a part of %d is taken without the ticket", id)
	}
	if h.at.change += len(changes); h.at.change == len(h.source[h.at.transaction]) {
		h.q.Complete(id)
		h.at = streamPlace{transaction: h.at.transaction + 1}
	}
}

// reread begins to read the stream again from the first held ticket, or from a place before.
func (h *history) reread() {
	first := h.at.transaction
	for ticket, n := range h.tickets {
		if n > 0 {
			first = min(first, int(ticket)/10-1)
		}
	}
	h.at, h.restart = streamPlace{transaction: max(first-h.r.IntN(2), 0)}, false
	h.session++
}

func (h *history) release(tickets []wal.Ticket, dropped bool) {
	for _, ticket := range tickets {
		if h.tickets[ticket]--; h.tickets[ticket] < 0 {
			h.t.Fatalf("ticket %d is released and not held", ticket)
		}
		durable := slices.ContainsFunc(h.external[:h.safe], func(a applied) bool { return a.id == int64(ticket) })
		if !dropped && !durable {
			h.t.Fatalf("ticket %d is released, and its transaction is not on the server's disk", ticket)
		}
	}
}

// held is the id in the external database's metadata.
func (h *history) held() Progress {
	if len(h.external) == 0 {
		return Progress{0}
	}
	return Progress{h.external[len(h.external)-1].id}
}

func (h *history) commit(transactions []*Transaction, changes []wal.Change, bytes int64, sync bool) {
	for _, t := range transactions {
		if len(transactions) > 1 || changes == nil {
			changes = t.Changes
		}
		for _, c := range changes {
			h.external = append(h.external, applied{t.ID, c.Ordinal})
		}
	}
	h.wal += 10
	for len(h.ends) < len(h.external) {
		h.ends = append(h.ends, h.wal)
	}
	h.q.Commit(len(transactions), bytes)
	if sync {
		h.safe = len(h.external)
		h.release(h.q.LetGo(h.q.applied), false)
	}
}

// apply takes a run, and commits it or fails.
func (h *history) apply() {
	run := h.q.Take(h.held(), map[string]bool{"item": true}, nil)
	switch {
	case len(run.Transactions) == 0:
	case run.Rounds:
		h.rounds(run)
	default:
		ahead := h.q.Take(h.held(), map[string]bool{"item": true}, run.Transactions)
		if h.r.IntN(6) == 0 {
			h.fail()
			return
		}
		h.commit(run.Transactions, nil, run.Bytes, h.r.IntN(2) == 0)
		if len(ahead.Transactions) > 0 {
			if h.r.IntN(6) == 0 {
				h.fail()
				return
			}
			h.commit(ahead.Transactions, nil, ahead.Bytes, h.r.IntN(2) == 0)
		}
	}
}

// rounds applies one transaction in rounds, while the stream goes on.
func (h *history) rounds(run Run) {
	var all []wal.Change
	for t := run.Transactions[0]; ; {
		changes, done, come := h.q.Next(t)
		all = append(all, changes...)
		switch {
		case h.r.IntN(12) == 0:
			h.fail()
			return
		case h.r.IntN(11) == 0:
			if !h.q.Restart(t) {
				h.fail()
				return
			}
			all = nil
		case done:
			h.commit(run.Transactions, all, 0, true)
			return
		case !come:
			h.read()
		default:
			h.q.Shed(t)
		}
	}
}

// fail loses the connection, and perhaps the server crashes.
func (h *history) fail() {
	if h.r.IntN(2) == 0 {
		h.external, h.ends = h.external[:h.safe], h.ends[:h.safe]
	}
	h.restart, h.reached = h.q.Rewind() || h.restart, Position{}
}

// flush has the server report its positions.
func (h *history) flush() {
	flushed := h.r.IntN(len(h.external) - h.safe + 1)
	for flushed > 0 && h.safe+flushed < len(h.ends) && h.ends[h.safe+flushed] == h.ends[h.safe+flushed-1] {
		flushed++
	}
	if h.safe += flushed; h.safe > 0 {
		h.release(h.q.Flushed(h.wal+1, h.ends[h.safe-1]+1, time.Now()), false)
	}
}

// detach parks the destination; the copy that follows brings all that was dropped.
func (h *history) detach() {
	h.q.Rewind()
	h.release(h.q.Drop(h.open()), true)
	for ticket, n := range h.tickets {
		if n != 0 {
			h.t.Fatalf("ticket %d is still held behind a parking", ticket)
		}
	}
	if !h.q.Empty() || h.q.bytes != 0 || h.q.gate.used != 0 || h.q.gate.over != 0 {
		h.t.Fatalf("a dropped queue is not empty: %+v", h.q)
	}
	h.detached, h.restart = true, false
}

// open is the newest transaction of which a part has come.
func (h *history) open() int64 {
	if h.at.change > 0 {
		return idOf(h.at.transaction)
	}
	return idOf(h.at.transaction - 1)
}

// check compares the queue's own counts with its content.
func (h *history) check() {
	var bytes int64
	for _, t := range h.q.transactions {
		bytes += transactionOverhead + bytesOf(t.Changes)
	}
	if bytes != h.q.bytes || bytes != h.q.gate.used || h.q.inFlight < 0 || h.q.lagging < 0 || (h.q.gate.over == 1) != h.q.over {
		h.t.Fatalf("%d bytes are queued; counted are %d, in the gate %d, in flight %d, lagging %d", bytes, h.q.bytes, h.q.gate.used, h.q.inFlight, h.q.lagging)
	}
	first := int64(-1)
	for ticket, n := range h.tickets {
		if n > 0 && (first < 0 || int64(ticket) < first) {
			first = int64(ticket)
		}
	}
	if oldest, _ := h.q.Oldest(); oldest != first {
		h.t.Fatalf("the oldest transaction is said to be %d, and the oldest held ticket is %d", oldest, first)
	}
	b, waiting := h.q.Backlog(), h.q.transactions[h.q.applied:]
	if b.Transactions != len(waiting) || h.q.Idle() != (len(waiting) == 0) || !h.q.Idle() && (h.q.Has(waiting[0].ID) || !h.q.Has(waiting[0].ID-1)) {
		h.t.Fatalf("the backlog is said to be %+v, and %d transactions wait", b, len(waiting))
	}
	if mine := h.q.BacklogOf([]string{"item", "other"}, -1); b.Changes != mine.Changes || b.Transactions != mine.Transactions {
		h.t.Fatalf("the backlog of all tables is %+v, of each %+v", b, mine)
	}
	h.checkProgress()
	for i := range h.external {
		a := h.external[i]
		if i > 0 && (a.id < h.external[i-1].id || a.id == h.external[i-1].id && a.ordinal <= h.external[i-1].ordinal) {
			h.t.Fatalf("the external database has %v behind %v", a, h.external[i-1])
		}
	}
}

// checkProgress compares how far the queue says that the work has come with the place before; only a failure leads back.
func (h *history) checkProgress() {
	now, before := h.q.Reached(), h.reached
	if back := now.ID < before.ID || now.ID == before.ID && now.Ordinal < before.Ordinal; back && now != (Position{}) {
		h.t.Fatalf("the work has come to %+v, and had come to %+v", now, before)
	}
	h.reached = now
}

// end lets everything come and go well, and compares the external database with the source.
func (h *history) end(owed int) {
	for range 500 {
		if h.restart {
			h.reread()
		}
		h.read()
		if run := h.q.Take(h.held(), map[string]bool{"item": true}, nil); run.Rounds {
			var all []wal.Change
			for done := false; !done; {
				var changes []wal.Change
				var come bool
				if changes, done, come = h.q.Next(run.Transactions[0]); !come {
					h.read()
				}
				all = append(all, changes...)
			}
			h.commit(run.Transactions, all, 0, true)
		} else if len(run.Transactions) > 0 {
			h.commit(run.Transactions, nil, run.Bytes, true)
		}
	}
	h.safe = len(h.external)
	h.release(h.q.LetGo(h.q.skipApplied(h.held().lowest())), false)
	h.check()
	has := map[applied]bool{}
	for _, a := range h.external {
		has[a] = true
	}
	for i := owed; i < len(h.source); i++ {
		for _, c := range h.source[i] {
			if !has[applied{idOf(i), c.Ordinal}] {
				h.t.Fatalf("the external database lacks change %d of %d; everything from %d on is owed", c.Ordinal, idOf(i), idOf(owed))
			}
		}
	}
	for ticket, n := range h.tickets {
		if n != 0 {
			h.t.Fatalf("ticket %d is still held", ticket)
		}
	}
	if id, _ := h.q.Oldest(); id != -1 || h.q.bytes != 0 || h.q.lagging != 0 || h.q.inFlight != 0 || h.q.gate.used != 0 || h.q.gate.over != 0 {
		h.t.Fatalf("the queue is not empty at the end: %+v", h.q)
	}
}

// Whatever the order in which parts come, batches fail, servers crash, and the stream is read again: a ticket is held once and released once,
// not before its transaction is durable, and the external database has every change once and in order.
func TestQueueHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4000) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			newHistory(t, seed).play()
		})
	}
}

// play plays a random history.
func (h *history) play() {
	owed := 0
	for range 150 {
		switch h.r.IntN(14) {
		default:
			h.read()
		case 0, 1, 2, 3:
			if !h.detached {
				h.apply()
			}
		case 4, 5:
			h.flush()
		case 6:
			if h.r.IntN(3) == 0 { // the connection to the primary is lost
				h.reread()
			}
		case 7:
			if h.restart {
				h.reread()
			}
		case 8:
			if h.r.IntN(4) == 0 && !h.detached {
				h.detach()
			}
		case 9:
			if h.detached { // whole transactions come from now on, and a copy brings all that came before
				h.detached = false
				owed = max(owed, int(max(h.q.accepted.ID, h.open())/10))
			}
		}
		h.check()
	}
	if h.detached {
		return
	}
	h.end(owed)
}

// A statement's timeout makes batches smaller, down to one change, and successes make the batches as large as configured again.
func TestBatchLimit(t *testing.T) {
	t.Parallel()
	q := New(&Gate{Limit: 1}, 1, 1000)
	for range 12 {
		q.Narrow()
	}
	if q.limit != 1 {
		t.Errorf("the limit is %d after many timeouts", q.limit)
	}
	for range 12 {
		q.Widen()
	}
	if q.limit != 1000 {
		t.Errorf("the limit is %d after many successes", q.limit)
	}
}

// A commit which the server does not report as flushed becomes overdue flushPatience after the first report.
func TestOverdue(t *testing.T) {
	t.Parallel()
	now := time.Now()
	q := New(&Gate{Limit: 1 << 30}, 1<<30, 10)
	q.Accept(&wal.Transaction{SequenceID: 1, Session: 1}, []wal.Change{insertOf("t", "1")})
	q.Complete(1)
	r := q.Take(Progress{0}, map[string]bool{"item": true}, nil)
	q.Commit(len(r.Transactions), r.Bytes)
	if q.Flushed(100, 90, now) != nil || q.Overdue(now.Add(flushPatience)) || !q.Overdue(now.Add(flushPatience+1)) {
		t.Error("a commit is to be overdue when flushPatience has passed")
	}
	if tickets := q.Flushed(200, 99, now); tickets != nil {
		t.Errorf("tickets %v are released before the flush", tickets)
	}
	if tickets := q.Flushed(200, 100, now); len(tickets) != 1 || q.Overdue(now.Add(time.Hour)) || q.released != 1 {
		t.Errorf("tickets %v are released at the flush; released up to %d", tickets, q.released)
	}
}
