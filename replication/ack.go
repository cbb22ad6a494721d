package replication

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// AckTracker finds the flush LSN: the end of the last transaction before which nothing is outstanding.
//
// A transaction enters with [AckTracker.Begin], before the first part is handed over, and then has a single holder, the
// reader. Each destination touched adds itself with Hold and leaves with Release; the reader leaves with Commit, which
// also tells the end LSN. The flush LSN moves over a transaction when neither the transaction nor an earlier
// transaction has a holder: a contiguous low mark, never the highest finished transaction.
//
// The stream may be read again from the flush LSN (a lost connection). Begin then finds the known transaction, with the
// remaining holders. Safe for concurrent use.
type AckTracker struct {
	mu      sync.Mutex
	pending []pending // outstanding and done-but-not-contiguous ones, in commit order
	base    Ticket    // the ticket of pending[0]
	flush   LSN
	noted   LSN
}

// Ticket names a transaction in the tracker.
type Ticket uint64

type pending struct {
	commit, end LSN
	holders     int
	reading     bool // the reader is one of the holders
}

// NewAckTracker returns a tracker with the flush LSN of the slot, at which the stream starts.
func NewAckTracker(confirmed LSN) *AckTracker { return &AckTracker{flush: confirmed, noted: confirmed} }

// Begin registers the transaction committing at the LSN, held by the reader. ok is false when the transaction was
// acknowledged before, in an earlier reading of the same WAL: then no destination wants the transaction.
func (t *AckTracker) Begin(commit LSN) (ticket Ticket, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.pending); n == 0 || commit > t.pending[n-1].commit {
		if commit < t.flush {
			return 0, false
		}
		t.pending = append(t.pending, pending{commit: commit, holders: 1, reading: true})
		return t.base + Ticket(n), true
	}
	i, known := slices.BinarySearchFunc(t.pending, commit, func(p pending, c LSN) int { return cmp.Compare(p.commit, c) })
	if !known {
		return 0, false
	}
	if p := &t.pending[i]; !p.reading {
		p.reading = true
		p.holders++
	}
	return t.base + Ticket(i), true
}

// Hold adds a holder. The caller must know of another holder (the reader, for example).
func (t *AckTracker) Hold(ticket Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at(ticket).holders++
}

// Commit ends the reader's own hold: the transaction was handed over whole, and acknowledging the transaction means
// reporting end.
func (t *AckTracker) Commit(ticket Ticket, end LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.at(ticket)
	if !p.reading {
		panic(fmt.Sprintf("replication: the transaction at %s is committed twice", p.commit))
	}
	p.end, p.reading = end, false
	p.holders--
	t.advance()
}

// Release removes a holder of each ticket. A ticket without a holder is a fault of the program, and panics.
func (t *AckTracker) Release(tickets ...Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ticket := range tickets {
		p := t.at(ticket)
		if p.holders == 0 {
			panic(fmt.Sprintf("replication: the transaction at %s is released twice", p.commit))
		}
		p.holders--
	}
	t.advance()
}

// Idle tells of a server which has sent everything before end (a keepalive). The flush LSN follows only when nothing is
// outstanding; on an idle primary the flush LSN must follow, or the slot retains WAL with nothing for us.
func (t *AckTracker) Idle(end LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 && end > t.flush {
		t.flush = end
	}
}

// Flush is the LSN up to which everything is durable at the destinations.
func (t *AckTracker) Flush() LSN {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flush
}

// Note allows the reader to report up to flush. The caller calls Note when outflow.destination_state notes of every
// destination the acknowledged position, so a destination gone back is noticed after any restart.
func (t *AckTracker) Note(flush LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noted = max(t.noted, flush)
}

// Noted is the flush LSN in the reader's reports.
func (t *AckTracker) Noted() LSN {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.noted
}

// Outstanding is the number of transactions after the flush LSN.
func (t *AckTracker) Outstanding() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pending)
}

func (t *AckTracker) at(ticket Ticket) *pending {
	if ticket < t.base || ticket >= t.base+Ticket(len(t.pending)) {
		panic(fmt.Sprintf("replication: ticket %d is not outstanding", ticket))
	}
	return &t.pending[ticket-t.base]
}

func (t *AckTracker) advance() {
	n := 0
	for n < len(t.pending) && t.pending[n].holders == 0 {
		t.flush = max(t.flush, t.pending[n].end)
		n++
	}
	t.base += Ticket(n)
	t.pending = t.pending[n:] // append reallocates from time to time and so lets go of the front
}
