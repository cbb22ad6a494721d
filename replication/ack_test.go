package replication

import (
	"testing"

	"pgregory.net/rapid"

	"outflow/replication/wal"
)

func TestAckOnlyContiguous(t *testing.T) {
	a := NewAckTracker(10)
	var tickets []wal.Ticket
	for _, lsn := range []wal.LSN{20, 30, 40} {
		ticket, ok := a.Begin(lsn)
		if !ok {
			t.Fatalf("%s is not new", lsn)
		}
		a.Hold(ticket)
		a.Commit(ticket, lsn+5)
		tickets = append(tickets, ticket)
	}
	step := func(release wal.Ticket, want wal.LSN) {
		t.Helper()
		a.Release(release)
		if got := a.Flush(); got != want {
			t.Errorf("flush is %s, want %s", got, want)
		}
	}
	a.Idle(100) // something is outstanding: a keepalive must not move it
	step(tickets[1], 10)
	step(tickets[0], 35)
	step(tickets[2], 45)
	a.Idle(100)
	if a.Flush() != 100 || a.Outstanding() != 0 {
		t.Errorf("idle: flush %s, %d outstanding", a.Flush(), a.Outstanding())
	}
	if _, ok := a.Begin(40); ok {
		t.Error("an acknowledged transaction is wanted again")
	}
}

func TestAckTwicePanics(t *testing.T) {
	for name, f := range map[string]func(a *AckTracker, first wal.Ticket){
		"released twice":  func(a *AckTracker, first wal.Ticket) { a.Release(first); a.Release(first) },
		"committed twice": func(a *AckTracker, first wal.Ticket) { a.Commit(first, 25); a.Commit(first, 25) },
		"never begun":     func(a *AckTracker, first wal.Ticket) { a.Release(first + 2) },
	} {
		func() {
			a := NewAckTracker(0)
			first, _ := a.Begin(20)
			a.Begin(30)
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f(a, first)
		}()
	}
}

// The flush LSN is, at every step, the end of the last transaction before which none is held, whatever the order of
// releases and however often the stream is read again.
func TestAckAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const start = wal.LSN(100)
		a := NewAckTracker(start)
		a.spare = rapid.IntRange(0, 60).Draw(t, "spare")
		type transaction struct {
			ticket  wal.Ticket
			holders int
			reading bool
		}
		var all []*transaction
		lsn := func(i int) wal.LSN { return start + wal.LSN(i)*10 }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := rapid.IntRange(0, 3).Draw(t, "step")
			switch step {
			case 0: // the next transaction, with some holders
				ticket, ok := a.Begin(lsn(len(all)))
				if !ok {
					t.Fatal("a new transaction is not wanted")
				}
				tx := &transaction{ticket: ticket, holders: rapid.IntRange(0, 3).Draw(t, "holders"), reading: true}
				for range tx.holders {
					a.Hold(ticket)
				}
				all = append(all, tx)
			case 1: // the reader has it whole
				for i, tx := range all {
					if tx.reading {
						a.Commit(tx.ticket, lsn(i)+5)
						tx.reading = false
						break
					}
				}
			case 2: // a holder releases any transaction
				if len(all) > 0 {
					if tx := all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]; tx.holders > 0 {
						a.Release(tx.ticket)
						tx.holders--
					}
				}
			case 3: // the stream is read again from the flush LSN
				for i, tx := range all {
					ticket, ok := a.Begin(lsn(i))
					if ok {
						if ticket != tx.ticket {
							t.Fatalf("transaction %d has ticket %d after reading again, and had %d", i, ticket, tx.ticket)
						}
						tx.reading = true
					} else if tx.holders > 0 || tx.reading {
						t.Fatalf("transaction %d is held and not wanted", i)
					}
				}
			}
			want := start
			for i, tx := range all {
				if tx.holders > 0 || tx.reading {
					break
				}
				want = lsn(i) + 5
			}
			if got := a.Flush(); got != want {
				t.Fatalf("flush is %d, want %d", got, want)
			}
			held, outstanding := 0, 0
			for i, tx := range all {
				if lsn(i)+5 > want {
					outstanding++
				}
				if tx.holders > 0 || tx.reading {
					held++
				}
			}
			if got := a.Outstanding(); got != outstanding {
				t.Fatalf("%d are outstanding, want %d", got, outstanding)
			}
			if got := len(a.pending); step == 0 && got > 2*held+a.spare {
				t.Fatalf("%d are remembered, and %d are held", got, held)
			}
		}
	})
}

// A destination holds one transaction while a million others finish: the tracker remembers few of them.
func TestAckForgetsTheFinished(t *testing.T) {
	a := NewAckTracker(0)
	first, _ := a.Begin(10)
	a.Hold(first)
	a.Commit(first, 15)
	const n = 1_000_000
	for i := wal.LSN(2); i <= n; i++ {
		ticket, _ := a.Begin(10 * i)
		a.Hold(ticket)
		a.Commit(ticket, 10*i+5)
		a.Release(ticket)
	}
	if got := cap(a.pending); got > 50_000 {
		t.Errorf("the tracker has room for %d transactions, and one is held", got)
	}
	if a.Flush() != 0 || a.Outstanding() != n {
		t.Errorf("flush %s, %d outstanding", a.Flush(), a.Outstanding())
	}
	a.Release(first)
	if a.Flush() != 10*n+5 || a.Outstanding() != 0 {
		t.Errorf("at the end: flush %s, %d outstanding", a.Flush(), a.Outstanding())
	}
}
