package destination

import (
	"errors"
	"testing"
	"time"

	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
	"outflow/sink/status"
)

// begunWithoutWorkers is a destination that has begun and starts no worker: the tests play its events.
func begunWithoutWorkers(t *testing.T, note ledger.Note) *Destination {
	t.Helper()
	d := queueOf(t)
	d.shared.Workers.Drain(time.Second)
	note.Fingerprint = d.fingerprintLocked()
	d.Begin(note)
	return d
}

// receive has the stream bring one whole transaction, of which the ticket is held by the queue alone then.
func (d *Destination) receive(t *testing.T, id int64) {
	t.Helper()
	d.bring(t, id, inserted("t", "1"))
}

// bring is receive with changes.
func (d *Destination) bring(t *testing.T, id int64, changes ...wal.Change) {
	t.Helper()
	ticket, ok := d.shared.Acks.Begin(wal.LSN(id))
	if !ok {
		t.Fatalf("transaction %d is acknowledged", id)
	}
	for i := range changes {
		changes[i].Ordinal = uint32(i)
	}
	d.Enqueue(&wal.Transaction{SequenceID: id, XID: uint32(id), CommitTime: time.Unix(id, 0), Ticket: ticket, Last: true, Session: 1}, changes)
	d.Complete(id)
	d.shared.Acks.Commit(ticket, wal.LSN(id)+1)
}

// A destination takes over what the primary has noted of it, and becomes current only by a note of the same mappings.
func TestNotesThatAreTakenOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		note  ledger.Note
		state ledger.State
	}{
		"unknown":     {ledger.Note{}, ledger.Backfilling},
		"streaming":   {ledger.Note{Epoch: 5, State: ledger.Streaming}, ledger.Streaming},
		"backfilling": {ledger.Note{Epoch: 5, State: ledger.Backfilling}, ledger.Backfilling},
		"retrying":    {ledger.Note{Epoch: 5, State: ledger.Retrying}, ledger.Backfilling},
		"parked":      {ledger.Note{Epoch: 5, State: ledger.Parked, Detached: true}, ledger.Backfilling},
		"halted":      {ledger.Note{Epoch: 5, State: ledger.Halted, Reason: "a row", Class: "23505"}, ledger.Halted},
	} {
		d := begunWithoutWorkers(t, c.note)
		if s := d.Status(); s.State != c.state {
			t.Errorf("%s: the destination is %s; expected %s", name, s.State, c.state)
		}
		if d.life.Stream != lifecycle.Attached || d.life.Work != lifecycle.Resting || d.noted.epoch == 0 {
			t.Errorf("%s: %+v in epoch %d", name, d.life, d.noted.epoch)
		}
	}
}

// A parked destination releases what it holds, passes changes by, and takes whole transactions when another reading begins.
func TestParkedWithoutAWorker(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Streaming})
	d.receive(t, 10)
	if flush := d.shared.Acks.Flush(); flush != 0 {
		t.Fatalf("acknowledged up to %s while the queue holds a transaction", flush)
	}
	if note, err := d.beginParking("it fails"); note == nil || err != nil {
		t.Fatalf("%v, %v", note, err)
	}
	if _, err := d.beginParking("it fails"); err == nil {
		t.Error("the destination is parked twice at the same time")
	}
	after := d.detach(6, "it fails")
	if len(after.tickets) != 1 || d.queue.Bytes() != 0 {
		t.Fatalf("tickets %v are released, and %d bytes are left", after.tickets, d.queue.Bytes())
	}
	d.settleUp(after)
	if flush := d.shared.Acks.Flush(); flush != 11 {
		t.Errorf("acknowledged up to %s behind the parking", flush)
	}
	s := d.Status()
	if s.State != ledger.Parked || !s.Detached || s.DetachedWhy != "it fails" || s.Attempts != 1 {
		t.Errorf("the status behind the parking: %+v", s)
	}
	if d.life.Work != lifecycle.Waiting || d.retryAt == nil {
		t.Errorf("nothing tries again: %+v", d.life)
	}
	d.receive(t, 20)
	if d.queue.Bytes() != 0 || d.shared.Acks.Flush() != 21 {
		t.Error("a parked destination holds a change")
	}
	d.Begin(ledger.Note{Epoch: 6})
	if s := d.Status(); s.State == ledger.Parked || s.Detached || d.life.Renew != lifecycle.Reconnect {
		t.Errorf("another reading leaves the destination %s, %+v", s.State, d.life)
	}
	d.receive(t, 30)
	if d.queue.Bytes() == 0 {
		t.Error("a destination that is back misses a change")
	}
	d.Stop()
}

// A parking whose epoch the beginning of another reading has told is given up: a copy may run in the epoch, and needs what the queue holds.
func TestParkingThatAnotherReadingOvertakes(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Streaming})
	d.receive(t, 10)
	if note, err := d.beginParking("it fails"); note == nil || err != nil {
		t.Fatalf("%v, %v", note, err)
	}
	d.Begin(ledger.Note{Epoch: 6, State: ledger.Parked, Detached: true}) // the parking's own note
	after := d.detach(6, "it fails")
	if len(after.tickets) != 0 || d.queue.Bytes() == 0 || d.life.Stream != lifecycle.Attached || d.life.Noting {
		t.Errorf("tickets %v are released; %+v", after.tickets, d.life)
	}
}

// A request for a copy drops the queue once, in one step with the epoch; the same request again does nothing.
func TestRequestedCopy(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Halted, Class: "23505"})
	d.CarryOut(ledger.Request{Note: ledger.Note{Epoch: 7}})
	if d.life.Renew != lifecycle.Discard || d.life.Current || d.life.Health != lifecycle.Well || d.noted.epoch != 7 || !d.life.Due {
		t.Errorf("a request for a copy leaves %+v in epoch %d", d.life, d.noted.epoch)
	}
	d.happensLocked(lifecycle.Stepped)
	d.CarryOut(ledger.Request{Note: ledger.Note{Epoch: 7}})
	if d.life.Renew != lifecycle.Keep {
		t.Error("the request is carried out twice")
	}
}

// A failure is recorded, and a timer or the next visit tries again; a failure for a person stays until the failed work is done.
func TestFailures(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Streaming})
	fail := func(e *external.Error) status.Status {
		d.life.Work = lifecycle.Working // as if a worker ran, which fails
		d.settleUp(d.giveUp(e))
		return d.Status()
	}
	if s := fail(&external.Error{Err: errors.New("no route")}); s.State != ledger.Retrying || s.Attempts != 1 || d.life.Work != lifecycle.Resting {
		t.Errorf("a failure without work: %+v, %+v", s, d.life)
	}
	d.receive(t, 10)
	if s := fail(&external.Error{Err: errors.New("no route")}); s.State != ledger.Retrying || s.Attempts != 2 || d.life.Work != lifecycle.Waiting || d.failures.since.IsZero() {
		t.Errorf("a failure with work: %+v, %+v", s, d.life)
	}
	d.tryForTest()
	s := fail(&external.Error{Verdict: external.NeedsHuman, Err: errors.New("no such column")})
	if s.State != ledger.Halted || s.Reason != "no such column" || d.life.Work != lifecycle.Waiting {
		t.Errorf("a failure for a person: %+v, %+v", s, d.life)
	}
	d.tryForTest()
	if s := fail(&external.Error{Err: errors.New("no route")}); s.State != ledger.Halted || s.Reason != "no such column" || s.Attempts != 4 {
		t.Errorf("a failure of a halted destination: %+v", s)
	}
	d.wellLocked(opening) // which is not the failed work; but the destination is current
	if s := d.Status(); s.State != ledger.Streaming || s.Attempts != 0 || s.Err != nil || d.failures.halt != nil {
		t.Errorf("behind a success: %+v", s)
	}
	d.Stop()
	if d.retryAt != nil || d.life.Work != lifecycle.Resting {
		t.Error("a timer is left")
	}
}

// tryForTest ends the wait: no worker starts.
func (d *Destination) tryForTest() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tryNowLocked()
}

// A session that is given up is no idle session any more: neither its timer nor another destination that waits for a connection closes the session.
func TestSessionGivenUpWhileIdle(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Streaming})
	p := external.NewPlace(0, false, nil)
	if err := external.NewConnections(1).Take(t.Context(), nil, p); err != nil || !p.Rest(d.closeIdle) {
		t.Fatalf("no place: %v", err)
	}
	s := &session{Session: &external.Session{Place: p}, d: d}
	d.session, d.idle = s, d.after(time.Hour, d.closeIdle)
	d.mu.Lock()
	after := d.happensLocked(lifecycle.Leaving)
	d.mu.Unlock()
	if after.closing != s || d.session != nil || d.idle != nil {
		t.Errorf("given up %v, kept %v and the timer %v", after.closing, d.session, d.idle)
	}
	if rest := d.takeIdle(); rest != nil {
		t.Errorf("the session is closed a second time: %v", rest)
	}
}
