package replication

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"outflow/replication/wal"
)

// AckTracker finds the flush LSN: the end of the last transaction before which nothing is outstanding.
//
// A transaction enters with [AckTracker.Begin], before the first part is handed over, and then has a single holder, the
// reader. Each destination touched adds itself with Hold and leaves with Release; the reader leaves with Commit, which
// also tells the end LSN. The flush LSN moves over a transaction when neither the transaction nor an earlier
// transaction has a holder: a contiguous low mark, never the highest finished transaction.
//
// The stream may be read again from the flush LSN (a lost connection). Begin then finds the known transaction, with the
// remaining holders.
//
// A destination may hold a single transaction for minutes while the others finish millions. So finished transactions behind a
// held one are forgotten: the memory follows from the held transactions, which are counted in queues. Safe for concurrent use.
type AckTracker struct {
	mu        sync.Mutex
	pending   []pending // held ones, and finished ones that are not forgotten yet, in commit order; the first one is held
	held      int       // those with a holder
	next      wal.Ticket
	forgotten wal.LSN // commit of the newest forgotten transaction
	spare     int     // so many finished ones more than held ones may be pending
	flush     wal.LSN
	noted     wal.LSN
	all       int // outstanding ones, the forgotten ones included
}

type pending struct {
	commit, end wal.LSN // end is behind the forgotten transactions too
	ticket      wal.Ticket
	holders     int
	forgotten   int  // so many finished transactions directly behind were forgotten
	reading     bool // the reader is one of the holders
}

// NewAckTracker returns a tracker with the flush LSN of the slot, at which the stream starts.
func NewAckTracker(confirmed wal.LSN) *AckTracker {
	return &AckTracker{flush: confirmed, noted: confirmed, spare: 4096}
}

// Begin registers the transaction committing at the LSN, held by the reader. ok is false when the transaction was
// acknowledged before, in an earlier reading of the same WAL: then no destination wants the transaction.
func (t *AckTracker) Begin(commit wal.LSN) (ticket wal.Ticket, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.pending); (n == 0 || commit > t.pending[n-1].commit) && commit > t.forgotten {
		if commit < t.flush {
			return 0, false
		}
		t.forget()
		t.pending = append(t.pending, pending{commit: commit, ticket: t.next, holders: 1, reading: true})
		t.next++
		t.held++
		t.all++
		return t.next - 1, true
	}
	i, known := slices.BinarySearchFunc(t.pending, commit, func(p pending, c wal.LSN) int { return cmp.Compare(p.commit, c) })
	if !known {
		return 0, false
	}
	p := &t.pending[i]
	if !p.reading {
		p.reading = true
		t.hold(p)
	}
	return p.ticket, true
}

// forget forgets finished transactions where the finished ones are most of the pending ones.
func (t *AckTracker) forget() {
	if len(t.pending) <= 2*t.held+t.spare {
		return
	}
	kept := t.pending[:1]
	for _, p := range t.pending[1:] {
		if p.holders > 0 {
			kept = append(kept, p)
			continue
		}
		before := &kept[len(kept)-1]
		before.end = max(before.end, p.end)
		before.forgotten += 1 + p.forgotten
		t.forgotten = max(t.forgotten, p.commit)
	}
	t.pending = slices.Clone(kept) // the rest of the array is not kept
}

// Hold adds a holder. The caller must know of another holder (the reader, for example).
func (t *AckTracker) Hold(ticket wal.Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hold(t.at(ticket))
}

func (t *AckTracker) hold(p *pending) {
	if p.holders++; p.holders == 1 {
		t.held++
	}
}

func (t *AckTracker) letGo(p *pending) {
	if p.holders--; p.holders == 0 {
		t.held--
	}
}

// Commit ends the reader's own hold: the transaction was handed over whole, and acknowledging the transaction means
// reporting end.
func (t *AckTracker) Commit(ticket wal.Ticket, end wal.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.at(ticket)
	if !p.reading {
		panic(fmt.Sprintf("replication: the transaction at %s is committed twice", p.commit))
	}
	p.end, p.reading = max(p.end, end), false
	t.letGo(p)
	t.advance()
}

// Release removes a holder of each ticket. A ticket without a holder is a fault of the program, and panics.
func (t *AckTracker) Release(tickets ...wal.Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ticket := range tickets {
		p := t.at(ticket)
		if p.holders == 0 {
			panic(fmt.Sprintf("replication: the transaction at %s is released twice", p.commit))
		}
		t.letGo(p)
	}
	t.advance()
}

// Idle tells of a server which has sent everything before end (a keepalive). The flush LSN follows only when nothing is
// outstanding; on an idle primary the flush LSN must follow, or the slot retains WAL without a change for Outflow.
func (t *AckTracker) Idle(end wal.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 && end > t.flush {
		t.flush = end
	}
}

// Flush is the LSN up to which everything is durable at the destinations.
func (t *AckTracker) Flush() wal.LSN {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flush
}

// Note allows the reader to report up to flush. The caller calls Note when outflow.destination_state notes of every
// destination the acknowledged position, so a destination gone back is noticed after any restart.
func (t *AckTracker) Note(flush wal.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noted = max(t.noted, flush)
}

// Noted is the flush LSN in the reader's reports.
func (t *AckTracker) Noted() wal.LSN {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.noted
}

// Outstanding is the number of transactions after the flush LSN.
func (t *AckTracker) Outstanding() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

func (t *AckTracker) at(ticket wal.Ticket) *pending {
	i, known := slices.BinarySearchFunc(t.pending, ticket, func(p pending, ticket wal.Ticket) int { return cmp.Compare(p.ticket, ticket) })
	if !known {
		panic(fmt.Sprintf("replication: ticket %d is not outstanding", ticket))
	}
	return &t.pending[i]
}

func (t *AckTracker) advance() {
	n := 0
	for n < len(t.pending) && t.pending[n].holders == 0 {
		t.flush = max(t.flush, t.pending[n].end)
		t.all -= 1 + t.pending[n].forgotten
		n++
	}
	t.pending = t.pending[n:] // append reallocates from time to time and so lets go of the front
}
