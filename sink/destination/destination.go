package destination

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
	"outflow/sink/limits"
	"outflow/sink/queue"
	"outflow/sink/status"
)

// Destination is one external database of one tenant: the specification in effect, the queue of changes, the lifecycle, and the worker that applies
// the changes while there are some. Safe for concurrent use.
type Destination struct {
	*external.Owner
	shared *Shared
	log    *zap.Logger

	mu sync.Mutex // guards all below, less what is the worker's alone
	configured
	queue    queue.Queue
	life     lifecycle.Life // changed by happensLocked only
	noted    noted
	failures failures
	reach    reach
	parkings parkings
	paused   *ledger.Switch // who has paused the destination; nil: not paused
	status   status.Status  // figures and the last failure; statusLocked fills in the rest
	history  []status.Event // of the states, newest last
	watched  watched
	worker

	Touched uint64 // the number of the newest transaction, by the router's count, that has changes for the destination; the reader's goroutine owns the field
}

// configured is the specification in effect: where the changes go, and by which mappings; and the specification to come.
type configured struct {
	db    *external.Database        // with the mappings; another one when the worker takes over another specification
	reads map[string]bool           // source tables that the mappings read
	fault *external.Error           // why the configured destination cannot be used, nil mostly
	next  *external.DestinationSpec // the specification that the worker takes over next; nil: none
}

// noted is what the primary has noted of a destination, and what is to be noted.
type noted struct {
	epoch      int64 // the epoch that the external database's metadata must have; with any other, the database is copied again
	recordedID int64 // the primary knows that the external database has this id
	last       ledger.Note
	retried    int64                    // how many of the requests for a try are carried out
	synced     []ledger.MappingProgress // how far the mappings are, as the worker last knew, or as was noted before
	syncedText string                   // the note of synced; "": see progressLocked
	refusal    *external.Error          // why the primary does not take the note, nil: the primary does
}

// reach is whether the external database can be reached.
type reach struct {
	answers bool      // has answered since the start, and since its last change of address
	doubts  int       // failures and changes of the specification since the last success
	visited time.Time // when the last visit began, zero before the first one
}

// parkings are the times that a destination was parked.
type parkings struct {
	lately int       // see parkMemory
	last   time.Time // zero: never
	reason string    // of the last
}

// New makes a destination that has not begun: see [Destination.Begin]. The error is of a connection string that cannot be read.
func New(r *Shared, t external.DestinationSpec) (*Destination, error) {
	log := r.Log.With(zap.String("tenant", t.Tenant), zap.String("destination", t.Name))
	owner := &external.Owner{SourceID: r.SourceID, Tenant: t.Tenant, Name: t.Name}
	db, err := external.NewDatabase(owner, t, r.Options.Options, r.Schemas, log)
	if err != nil {
		return nil, err
	}
	d := &Destination{Owner: owner, shared: r, log: log,
		configured: configured{db: db, reads: mapping.Reads(t.Mappings), fault: t.Fault},
		queue:      queue.New(r.Gate, r.Options.queueBytes(), r.Options.BatchRows),
		life:       lifecycle.Life{Unusable: t.Fault != nil},
		failures:   failures{backoff: limits.Pauses{Least: r.Options.RetryMin, Most: r.Options.RetryMax}},
		status:     status.Status{SequenceID: -1, CopyStatus: status.CopyStatus{CopyTotal: -1}},
		worker:     worker{more: make(chan struct{}, 1)}}
	d.slot = r.BackfillSlots.User(d.nudge, d.after)
	return d, nil
}

// Address is the place of the external database, without user and password; "" where the connection string cannot be used.
func (d *Destination) Address() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault != nil {
		return ""
	}
	return d.db.Address()
}

// Mappings are the names of the destination's mappings, in running order.
func (d *Destination) Mappings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return mapping.Names(d.db.Mappings)
}

// Enqueue queues changes of a part, less the changes accepted before. The result is false when the whole transaction was accepted before.
func (d *Destination) Enqueue(part *wal.Transaction, changes []wal.Change) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.life.Stream {
	case lifecycle.Removed:
		return false
	case lifecycle.Detached:
		d.queue.Pass(part)
		return false
	}
	taken, hold := d.queue.Accept(part, changes)
	if hold {
		d.shared.Acks.Hold(part.Ticket)
	}
	if taken {
		d.signalLocked()
	}
	return taken
}

// Complete marks the newest transaction as sent whole, and makes sure of a worker.
func (d *Destination) Complete(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queue.Complete(id) {
		d.signalLocked()
	}
}

// hasWorkLocked reports whether there is work for a worker.
func (d *Destination) hasWorkLocked() bool { return d.life.Due || d.queue.Ready() }

// signalLocked wakes the worker waiting for more of a large transaction, or starts a worker.
func (d *Destination) signalLocked() {
	select {
	case d.more <- struct{}{}:
	default:
	}
	d.wakeLocked()
}

// wakeLocked starts a worker where there is work and no worker runs.
func (d *Destination) wakeLocked() {
	if d.hasWorkLocked() {
		d.happensLocked(lifecycle.Arrived)
	}
}

// nudge says that there may be something to do beside the queue.
func (d *Destination) nudge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.happensLocked(lifecycle.Nudged)
}
