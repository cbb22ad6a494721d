package sink

import (
	"slices"
	"time"

	"outflow/replication/wal"
)

// position is a place in the stream. A destination accepts only changes after the last accepted change, so reading the stream again does
// no harm.
type position struct {
	id       int64
	ordinal  int64 // of the first change not accepted yet
	complete bool
}

// transaction is the queued part of one source transaction at a destination.
type transaction struct {
	id        int64
	xid       uint32
	committed time.Time
	received  time.Time // when its first part came
	ticket    wal.Ticket
	changes   []wal.Change
	bytes     int64     // of the changes, and transactionOverhead
	complete  bool      // the source has sent the whole transaction
	next      int       // changes applied in an open external transaction
	dropped   bool      // some applied changes were let go of, to make room for the rest
	asked     time.Time // when external became known
	external  wal.LSN   // of the external server: flushed there, the transaction survives a crash; 0 is not known yet
}

// transactionOverhead is the memory of a queued transaction beside the changes, in bytes: the transaction, its places in the queue and in the ack
// tracker, and the rounding of its allocations.
const transactionOverhead = 224

// enqueue queues changes of a part, less the changes accepted before. enqueue returns false when the whole transaction was accepted
// before.
func (d *Destination) enqueue(part *wal.Transaction, changes []wal.Change) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = part.Session
	if d.gone || part.Session <= d.unwanted {
		return false
	}
	a := &d.accepted
	if part.SequenceID < a.id || (part.SequenceID == a.id && a.complete) {
		return false
	}
	if d.parked { // a returning destination takes whole transactions again
		*a = position{id: part.SequenceID, complete: true}
		d.holding = max(d.holding, part.SequenceID)
		return false
	}
	if part.SequenceID > a.id {
		if part.SequenceID > d.holding {
			d.router.Acks.Hold(part.Ticket)
			d.holding = part.SequenceID
		}
		delete(d.kept, part.SequenceID)
		*a = position{id: part.SequenceID}
		d.queue = append(d.queue, &transaction{id: part.SequenceID, xid: part.XID, committed: part.CommitTime, received: time.Now(), ticket: part.Ticket,
			bytes: transactionOverhead})
		d.account(transactionOverhead)
	}
	for len(changes) > 0 && int64(changes[0].Ordinal) < a.ordinal { // seen before the connection was lost
		changes = changes[1:]
	}
	if len(changes) == 0 {
		return true
	}
	a.ordinal = int64(changes[len(changes)-1].Ordinal) + 1
	t := d.queue[len(d.queue)-1]
	if t.changes == nil {
		t.changes = slices.Clip(changes) // other destinations share the array: an append must not write into its spare capacity
	} else {
		t.changes = append(t.changes, changes...)
	}
	var n int64
	for i := range changes {
		n += changes[i].Bytes()
	}
	t.bytes += n
	d.account(n)
	d.signal()
	return true
}

// complete marks the newest transaction as sent whole, and makes sure of a worker.
func (d *Destination) complete(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.accepted.id != id || d.accepted.complete || len(d.queue) == 0 {
		return
	}
	d.accepted.complete = true
	d.queue[len(d.queue)-1].complete = true
	d.signal()
}

// account moves the queue's bytes and tells the gate. It is called with mu held.
func (d *Destination) account(n int64) {
	d.bytes += n
	over := 0
	switch limit, waiting := d.router.Options.queueBytes(), d.bytes-d.inFlight-d.lagging; {
	case !d.over && waiting > limit:
		d.over, over = true, 1
	case d.over && waiting <= limit/2:
		d.over, over = false, -1
	}
	d.router.gate.add(n, over)
}

// hasWork is called with mu held.
func (d *Destination) hasWork() bool {
	if d.due {
		return true
	}
	if len(d.queue) == d.applied {
		return false
	}
	return d.ready(d.queue[d.applied])
}

// ready reports whether a transaction can be applied: the transaction is whole, or too large to wait for its end. It is called with mu
// held.
func (d *Destination) ready(t *transaction) bool {
	return t.complete || t.bytes >= d.router.Options.queueBytes() || len(t.changes) > d.limit ||
		(len(t.changes) > t.next && d.router.gate.closed()) // its end may not come before there is room
}

// flying moves the bytes in flight. It is called with mu held.
func (d *Destination) flying(n int64) {
	d.inFlight += n
	d.account(0)
}
