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
	queued  bool // waits for a place among the connections
	working bool
	retryAt *time.Timer // runs while the destination waits to try again
	idle    *time.Timer // runs while a connection is kept without work, or until the next look at the flushed WAL
	more    chan struct{}
	status  Status
	backoff pauses

	epoch      int64 // the epoch that the external database's metadata must have; with any other, the database is copied again
	recordedID int64 // the primary knows that the external database has this id
	lastNote   ledger.Note
	retried    int64     // how many of the requests for a try are carried out
	caughtUp   bool      // as far as is known, the stream alone keeps the external database up to date
	due        bool      // there is something to do beside the queue
	failing    time.Time // since when the destination has failed without a success, zero while all is well
	answers    bool      // the external database has answered since the start, and since its last change of address
	starved    bool      // the worker waits for more of a large transaction, in an open external transaction
	turnEnded  bool      // the worker was stopped because others waited for the connection
	doubts     int       // failures and changes of the target since the last success
	parking    bool      // a goroutine is writing the parking to the primary
	hold       hold      // the watch's: for how long the destination has held what it holds
	parks      int       // lately; see parkMemory
	parkedAt   time.Time // the last time
	parked     bool
	parkReason string
	paused     *ledger.Switch            // nil: not paused
	history    []Event                   // of its states, newest last
	halt       *halt                     // nil: no person is needed
	synced     []ledger.MappingProgress  // how far the mappings are, as the worker last knew, or as was noted before
	syncedNote string                    // the note of synced; "": see progressLocked
	fresh      bool                      // the connection is given up before the next piece of work
	met        bool                      // the external database was reached since the process started: see visit
	visiting   bool                      // a visit waits for an answer
	visited    time.Time                 // when the last visit began, zero before the first one
	conflictAt time.Time                 // when the metadata was last read again at once, zero before the first time
	unnoted    *external.Error           // why the primary does not take the note of the destination, nil: the primary does
	stale      bool                      // with fresh: and the queue is dropped, since everything is copied again
	next       *external.DestinationSpec // the target from then on, nil: unchanged
	again      bool                      // the worker was stopped to take next, and goes on at once
	gone       bool                      // removed: the destination takes nothing, and no worker starts
	lastCommit moment.Moment             // when
	lookups    atomic.Int32              // the worker waits for so many answers of the primary
	cancelWork context.CancelFunc        // of the worker's current run

	touched   uint64           // the router's begins when the destination was added to touched; the reader's
	doing     work             // the worker's
	asked     time.Time        // when askFlush was last called beside a backfill; the worker's
	conflicts bool             // rows new on the source were there already: from then on ON CONFLICT is kept; the worker's
	careful   int64            // id of a large transaction with a refused row: see batch.careful; the worker's
	lookup    lookup           // the worker's
	slot      *limits.SlotUser // of the backfill slots
	chunkRows int              // rows a chunk of a backfill, 0 before the first; the worker's
	session   *session         // the worker's; the idle timer's while there is no worker
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
		status: Status{State: ledger.Streaming, SequenceID: -1, CopyTotal: -1}, backoff: pauses{least: r.Options.RetryMin, most: r.Options.RetryMax}}
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
	if d.gone {
		return false
	}
	if d.parked {
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
func (d *Destination) hasWorkLocked() bool { return d.due || d.queue.Ready() }

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
	if d.working || d.retryAt != nil || d.paused != nil || !d.hasWorkLocked() {
		return
	}
	d.startWorkLocked()
}

// startWorkLocked starts the worker, and takes the connection back from the idle ones. No worker runs.
func (d *Destination) startWorkLocked() {
	if !d.runLocked(d.work) {
		return
	}
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
		d.session.Place.Busy()
	}
}

// runLocked starts the worker.
func (d *Destination) runLocked(work func(context.Context)) bool {
	if d.gone || d.epoch == 0 { // removed, or this process has not had the slot yet
		return false
	}
	ctx, cancel := context.WithCancel(d.router.workers.ctx)
	d.turnEnded = false
	d.working = d.router.workers.start(func() {
		defer cancel()
		defer d.recovered()
		work(ctx)
	})
	if !d.working {
		cancel()
		return false
	}
	d.cancelWork = cancel
	return true
}

// nudge says that there may be something to do beside the queue.
func (d *Destination) nudge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due = true
	d.wakeLocked()
}

// work is the worker's loop: take queued transactions and apply them until nothing is left or something fails.
func (d *Destination) work(ctx context.Context) {
	for {
		err := d.step(ctx)
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
	old, dropped, replay, paused, err := d.outOfDate()
	if err != nil {
		return false, err
	}
	d.router.Acks.Release(dropped...)
	if replay {
		d.router.Reader.Restart()
	}
	if old != nil {
		d.slot.Leave()
		old.close()
	}
	return paused, nil
}

func (d *Destination) outOfDate() (old *session, dropped []wal.Ticket, replay, paused bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return nil, nil, false, false, errGone
	}
	if d.hasWorkLocked() && d.turnOverLocked() {
		d.fresh = true
	}
	d.due = false
	d.queue.Grounded()
	if d.fresh {
		d.fresh = false
		replay = d.queue.Rewind()
		if d.parked || d.stale {
			replay, dropped, d.stale = false, d.dropLocked(), false
		}
		old, d.session = d.session, nil
		d.retargetLocked()
	}
	return old, dropped, replay, d.paused != nil, nil
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
	if d.gone || (!d.router.workers.stopping() && d.paused == nil && (d.hasWorkLocked() || d.parked)) {
		return false, nil, false
	}
	d.working, d.again, d.visiting = false, false, false
	s, paused := d.session, d.paused != nil
	if !paused && !d.router.workers.stopping() && !d.settledLocked() {
		d.retryAt = d.after(settlePause, d.retry)
	}
	switch {
	case s == nil || d.router.workers.stopping():
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
	if !d.working && d.idle != nil {
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
	if d.retryAt != nil {
		d.retryAt.Stop()
		d.retryAt = nil
	}
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
	}
	s := d.session
	d.session = nil
	d.mu.Unlock()
	if s != nil {
		s.close()
	}
}
