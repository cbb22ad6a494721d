package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"outflow/internal/moment"
	"outflow/mapping"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
	"outflow/sink/limits"
	"outflow/sink/queue"
)

// Destination is one external database of one tenant. Safe for concurrent use.
type Destination struct {
	*external.Owner

	router   *Router
	db       *external.Database // the external database; another one when the worker takes over another target
	mappings []*mapping.Mapping
	reads    map[string]bool // source tables that the mappings read
	fault    *external.Error // why the configured destination cannot be used, nil mostly
	log      *zap.Logger

	mu      sync.Mutex
	queue   queue.Queue
	queued  bool           // waits for a place among the connections
	life    lifecycle.Life // and the data of its phases below
	retryAt *time.Timer    // runs while the destination waits to try again; nil else
	idle    *time.Timer    // runs while a connection is kept without work, or until the next look at the flushed WAL
	more    chan struct{}
	status  Status
	backoff pauses

	epoch      int64 // the epoch that the external database's metadata must have; with any other, the database is copied again
	recordedID int64 // the primary knows that the external database has this id
	lastNote   ledger.Note
	retried    int64     // how many of the requests for a try are carried out
	failing    time.Time // since when the destination has failed without a success, zero while all is well
	answers    bool      // the external database has answered since the start, and since its last change of address
	starved    bool      // the worker waits for more of a large transaction, in an open external transaction
	turnEnded  bool      // the worker was stopped because others waited for the connection
	doubts     int       // failures and changes of the target since the last success
	hold       hold      // the watch's: for how long the destination has held what it holds
	parks      int       // lately; see parkMemory
	parkedAt   time.Time // the last time
	parkReason string
	paused     *ledger.Switch            // who has paused the destination; nil: not paused
	history    []Event                   // of its states, newest last
	halt       *halt                     // nil: no person is needed
	synced     []ledger.MappingProgress  // how far the mappings are, as the worker last knew, or as was noted before
	syncedNote string                    // the note of synced; "": see progressLocked
	visited    time.Time                 // when the last visit began, zero before the first one
	conflictAt time.Time                 // when the metadata was last read again at once, zero before the first time
	unnoted    *external.Error           // why the primary does not take the note of the destination, nil: the primary does
	next       *external.DestinationSpec // the target from then on, nil: unchanged
	lastCommit moment.Moment             // when
	lookups    atomic.Int32              // the worker waits for so many answers of the primary
	cancelWork context.CancelFunc        // of the worker's current run

	touched   uint64                      // the router's begins when the destination was added to touched; the reader's
	doing     work                        // the worker's
	errand    func(context.Context) error // what the next worker does first, nil mostly
	asked     time.Time                   // when askFlush was last called beside a backfill; the worker's
	conflicts bool                        // rows new on the source were there already: from then on ON CONFLICT is kept; the worker's
	careful   int64                       // id of a large transaction with a refused row: see batch.careful; the worker's
	lookup    lookup                      // the worker's
	slot      *limits.SlotUser            // of the backfill slots
	chunkRows int                         // rows a chunk of a backfill, 0 before the first; the worker's
	session   *session                    // the worker's; the idle timer's while there is no worker
}

func newDestination(r *Router, t external.DestinationSpec) (*Destination, error) {
	log := r.Log.With(zap.String("tenant", t.Tenant), zap.String("destination", t.Name))
	owner := &external.Owner{SourceID: r.SourceID, Tenant: t.Tenant, Name: t.Name}
	db, err := external.NewDatabase(owner, t, r.Options.Options, r.schemas, log)
	if err != nil {
		return nil, err
	}
	d := &Destination{Owner: owner, router: r, db: db, mappings: t.Mappings, reads: mapping.Reads(t.Mappings), fault: t.Fault, log: log,
		queue: queue.New(r.gate, r.Options.queueBytes(), r.Options.BatchRows), more: make(chan struct{}, 1),
		life: lifecycle.Life{Unusable: t.Fault != nil}, status: Status{SequenceID: -1, CopyTotal: -1}, backoff: pauses{least: r.Options.RetryMin, most: r.Options.RetryMax}}
	d.slot = r.backfillSlots.User(d.nudge, d.after)
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
	return mapping.Names(d.mappings)
}

// enqueue queues changes of a part, less the changes accepted before. enqueue returns false when the whole transaction was accepted before.
func (d *Destination) enqueue(part *wal.Transaction, changes []wal.Change) bool {
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
		d.router.Acks.Hold(part.Ticket)
	}
	if taken {
		d.signal()
	}
	return taken
}

// complete marks the newest transaction as sent whole, and makes sure of a worker.
func (d *Destination) complete(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queue.Complete(id) {
		d.signal()
	}
}

// hasWorkLocked reports whether there is work for a worker.
func (d *Destination) hasWorkLocked() bool { return d.life.Due || d.queue.Ready() }

// signal wakes the worker waiting for more of a large transaction, or starts a worker.
func (d *Destination) signal() {
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

// work is the worker's loop: take queued transactions and apply them until nothing is left or something fails.
func (d *Destination) work(ctx context.Context) {
	for err := d.runErrand(ctx); ; err = d.step(ctx) {
		switch {
		case err == nil:
		case errors.Is(err, errNothing):
			if d.rest() {
				return
			}
		default:
			d.failed(external.AsError(err))
			return
		}
	}
}

// runErrand does what the worker was started for, where that is not the work on the queue.
func (d *Destination) runErrand(ctx context.Context) error {
	d.mu.Lock()
	errand := d.errand
	d.errand = nil
	d.mu.Unlock()
	if errand == nil {
		return nil
	}
	return errand(ctx)
}

// sendLocked starts a worker with an errand, by an event that starts a worker where there is none.
func (d *Destination) sendLocked(e lifecycle.Event, errand func(context.Context) error) {
	if d.happensLocked(e).has(lifecycle.Start) && d.life.Work == lifecycle.Working {
		d.errand = errand
	}
}

// errGone ends a worker's work because its destination was removed.
var errGone = fmt.Errorf("the destination was removed: %w", context.Canceled)

// errNothing says that there is nothing to do.
var errNothing = errors.New("nothing is queued")

// step connects where needed, and does one piece of work: a chunk of a backfill whose time has come, a batch of live changes, or
// the next move of a backfill.
func (d *Destination) step(ctx context.Context) error {
	paused, err := d.refresh()
	if err != nil {
		return err
	}
	if d.router.workers.stopping() || ctx.Err() != nil || paused {
		return cmp.Or(ctx.Err(), errNothing)
	}
	if d.session == nil {
		d.doing = opening
		if err := d.connect(ctx); err != nil {
			return err
		}
	}
	return d.advance(ctx)
}

// turnOverLocked reports whether the connection is to be given up for another destination. A chunk that is being read, or waits, is applied before.
// The worker calls turnOverLocked.
func (d *Destination) turnOverLocked() bool {
	s := d.session
	if s == nil || s.backfill != nil && (s.backfill.hand.reading || s.backfill.hand.ready != nil) {
		return false
	}
	return s.Place.TurnOver()
}

// refresh gives up a session that is out of date, with what the session's queue needs.
func (d *Destination) refresh() (paused bool, err error) {
	after, paused, err := d.renew()
	if err != nil {
		return false, err
	}
	if after.closing != nil {
		d.slot.Leave()
	}
	d.settleUp(after)
	return paused, nil
}

// renew is the part of refresh under the lock.
func (d *Destination) renew() (after aftermath, paused bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Stream == lifecycle.Removed {
		return after, false, errGone
	}
	if d.hasWorkLocked() && d.turnOverLocked() {
		d.happensLocked(lifecycle.TurnedOver)
	}
	d.queue.Grounded()
	return d.happensLocked(lifecycle.Stepped), d.life.Paused, nil
}

// advance does the most urgent work on the session: a chunk with nothing more to wait for, then the queue, then the next part of
// a copy. The result is errNothing where there is nothing to do.
func (d *Destination) advance(ctx context.Context) error {
	bf := d.session.backfill
	if bf != nil && bf.active && bf.mergeable() {
		d.doing = copying
		return bf.merge(ctx)
	}
	d.doing = applying
	if b := d.take(nil); b != nil {
		defer d.slot.Asks(true)()
		if b.large != nil {
			return d.applyLarge(ctx, b)
		}
		return d.apply(ctx, b)
	}
	if bf != nil {
		d.doing = copying
		if err := bf.advance(ctx); err != nil {
			return err
		}
		// The idle timer may never come to run out beside a waiting backfill.
		if err := d.askFlushNowAndThen(ctx); err != nil {
			return err
		}
	}
	return errNothing
}

// rest ends the worker when there is really nothing to do, and keeps the connection for a while.
func (d *Destination) rest() bool {
	ended, closed, paused := d.endWork()
	if closed != nil {
		closed.close()
	}
	if ended && paused {
		d.slot.Leave()
	}
	return ended
}

// endWork is the part of rest under the lock. closed is a connection to be closed, nil where the connection is kept.
func (d *Destination) endWork() (ended bool, closed *session, paused bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stopping := d.router.workers.stopping()
	if !d.life.MayRest(d.queue.Ready(), stopping) {
		return false, nil, false
	}
	s, paused := d.session, d.life.Paused
	if paused || stopping || d.settledLocked() {
		d.happensLocked(lifecycle.Rested)
	} else {
		d.happensLocked(lifecycle.RestedUnsettled)
		d.waitLocked(settlePause)
	}
	switch {
	case s == nil || stopping:
	case d.queue.Applied > 0:
		d.idle = d.after(flushPause, d.confirmFlush)
	case !paused && s.backfill != nil && s.backfill.active: // the backfill's chunk comes
	case !paused && d.router.Options.IdleClose > 0 && !s.Heavy() && s.Place.Rest(d.closeIdle):
		d.idle = d.after(d.router.Options.IdleClose, d.closeIdle)
	default: // a backfill waiting for a place is woken without a connection
		d.session, closed = nil, s
	}
	return true, closed, paused
}

// settlePause is how often a destination found halted by a restart looks whether the stream has brought the failed change.
const settlePause = 200 * time.Millisecond

// closeIdle gives up the connection unless a worker runs. Any goroutine may call closeIdle, the worker of another destination too.
func (d *Destination) closeIdle() {
	defer d.contained()
	if s := d.takeIdle(); s != nil {
		s.close()
	}
}

func (d *Destination) takeIdle() (s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Work != lifecycle.Working && d.idle != nil {
		d.idle.Stop()
		d.idle = nil
		s, d.session = d.session, nil
		s.Place.Busy()
	}
	return s
}

// stop closes the rest after the router has stopped.
func (d *Destination) stop() {
	d.mu.Lock()
	after := d.happensLocked(lifecycle.Ended)
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
	}
	d.mu.Unlock()
	d.settleUp(after)
}
