package sink

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication"
)

// State is what a destination is doing, by the names that are used everywhere.
type State string

// The states of a destination.
const (
	Backfilling State = "backfilling" // rows are copied from the primary's tables, beside the live changes
	Streaming   State = "streaming"   // applies what comes, or has nothing to do
	Retrying    State = "retrying"    // failed, and tries again at NextRetry
	Parked      State = "parked"      // away for longer than its queue holds: it gets no changes, and is copied anew when it answers
	Halted      State = "halted"      // a mapping or a row needs a person; it tries again seldom
)

// Destination is one external database of one tenant. Safe for concurrent use.
type Destination struct {
	Tenant, Name string

	router   *Router
	config   *pgconn.Config
	mappings []*mapping.Mapping
	reads    map[string]bool // source tables that the mappings read
	log      *zap.Logger

	mu       sync.Mutex
	queue    []*transaction
	applied  int   // so many at the front are committed in the external database, but not known to be flushed there
	released int64 // sequence id up to which tickets were released: the source may forget those changes
	bytes    int64
	inFlight int64 // bytes of what is being applied: bounded by the size of a batch, and no reason for the reader to wait
	over     bool  // counted in the gate
	accepted position
	holding  int64                        // the newest transaction whose ticket is held; reading again does not hold it twice
	kept     map[int64]replication.Ticket // of transactions that must be read again, by id; see rewind
	dialing  time.Time                    // since when it has waited for a connection, zero while it does not
	reading  int                          // the reading of the stream that the newest part came from
	unwanted int                          // parts of that reading and of earlier ones are not taken: see rewind
	working  bool
	retryAt  *time.Timer // runs while the destination waits to try again
	idle     *time.Timer // runs while a connection is kept without work, or until the next look at what is flushed
	more     chan struct{}
	status   Status
	pause    *backoff.ExponentialBackOff
	limit    int // rows a batch; halved when a statement ran into its timeout

	epoch      int64 // what the external database's metadata must say, or it is copied anew
	note       int64 // the primary knows that it has this
	noted      destinationState
	caughtUp   bool      // as far as is known, the stream alone keeps it up to date
	due        bool      // there is something to do beside the queue
	failing    time.Time // since when it has failed without a success, zero while all is well
	overSince  time.Time // since when its queue has been full, zero while it is not
	parking    bool      // somebody is writing to the primary that it is parked
	parks      int       // lately; see parkMemory
	parkedAt   time.Time // the last time
	parked     bool
	fresh      bool               // the connection is given up before the next piece of work
	lastRound  atomic.Int64       // when the external server last did what it was asked, in nanoseconds since 1970
	lastCommit atomic.Int64       // when, in nanoseconds since 1970
	cancelWork context.CancelFunc // of the worker's current run

	asked     time.Time // when askFlush was last called beside a backfill; the worker's
	unnamed   bool      // a pooler does not keep prepared statements; the worker's
	chunkRows int       // rows a chunk of a backfill, 0 before the first; the worker's
	session   *session  // the worker's; the idle timer's while there is no worker
}

// Status is a destination at one moment.
type Status struct {
	State      State
	SequenceID int64     // last committed in the external database, -1 before it is known
	CommitTime time.Time // of that transaction on the primary, zero before there was one
	Rows       int64     // net changes committed since the process started
	Batches    int64     // external transactions committed since then
	Queued     int       // transactions that wait
	QueueBytes int64
	Attempts   int       // failures in a row
	NextRetry  time.Time // zero unless Retrying or Halted
	Err        error     // the last failure, nil while all is well
	Copied     int64     // rows that the backfill in progress has copied
}

// position is a place in the stream. A destination accepts only what is after the last it accepted, so reading the
// stream again harms nobody.
type position struct {
	id       int64
	ordinal  int64 // of the first change that is not accepted yet
	complete bool
}

// transaction is what a destination has queued of one source transaction.
type transaction struct {
	id        int64
	xid       uint32
	committed time.Time
	ticket    replication.Ticket
	changes   []replication.Change
	bytes     int64
	complete  bool            // the source has sent it whole
	next      int             // changes that were applied in an open external transaction
	dropped   bool            // some of those were let go of, to make room for the rest
	external  replication.LSN // of the external server: flushed there, the transaction survives a crash; 0 is not known yet
}

func newDestination(r *Router, tenant, name, dsn string, mappings []*mapping.Mapping) (*Destination, error) {
	config, err := dialConfig(dsn, r.Options)
	if err != nil {
		return nil, err
	}
	d := &Destination{Tenant: tenant, Name: name, router: r, config: config, mappings: mappings, reads: map[string]bool{},
		log:      r.Log.With(zap.String("tenant", tenant), zap.String("destination", name)),
		accepted: position{id: -1}, holding: -1, released: -1, more: make(chan struct{}, 1), limit: r.Options.BatchRows, kept: map[int64]replication.Ticket{},
		status: Status{State: Streaming, SequenceID: -1}, pause: backoff.NewExponentialBackOff()}
	d.pause.InitialInterval, d.pause.MaxInterval = r.Options.RetryMin, r.Options.RetryMax
	d.pause.Multiplier, d.pause.RandomizationFactor = 2, 0.5
	for _, m := range mappings {
		for _, table := range m.Tables() {
			d.reads[table] = true
		}
	}
	return d, nil
}

// Status returns what the destination is doing.
func (d *Destination) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.statusLocked()
}

// statusLocked is called with mu held.
func (d *Destination) statusLocked() Status {
	s := d.status
	s.Queued, s.QueueBytes = len(d.queue), d.bytes
	switch {
	case d.parked:
		s.State = Parked
	case s.State == Streaming && !d.caughtUp:
		s.State = Backfilling
	}
	return s
}

// Mappings are the names of the destination's mappings, in the order in which they run.
func (d *Destination) Mappings() []string {
	names := make([]string, len(d.mappings))
	for i, m := range d.mappings {
		names[i] = m.Name
	}
	return names
}

// enqueue queues changes of a part, less those that were accepted before. It returns false when the whole transaction was.
func (d *Destination) enqueue(part *replication.Transaction, changes []replication.Change) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = part.Session
	if part.Session <= d.unwanted {
		return false
	}
	a := &d.accepted
	if part.SequenceID < a.id || (part.SequenceID == a.id && a.complete) {
		return false
	}
	if d.parked { // it takes whole transactions again when it is back
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
		d.queue = append(d.queue, &transaction{id: part.SequenceID, xid: part.XID, committed: part.CommitTime, ticket: part.Ticket})
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
		t.changes = changes
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

// complete marks the newest transaction as sent whole, and sees to it that somebody works.
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

// signal wakes the worker that waits for more of a large transaction, or starts one.
func (d *Destination) signal() {
	select {
	case d.more <- struct{}{}:
	default:
	}
	d.wake()
}

// account moves the queue's bytes and tells the gate. It is called with mu held.
func (d *Destination) account(n int64) {
	d.bytes += n
	over := 0
	switch limit, waiting := d.router.Options.QueueBytes, d.bytes-d.inFlight; {
	case !d.over && waiting > limit:
		d.over, over, d.overSince = true, 1, time.Now()
	case d.over && waiting <= limit/2:
		d.over, over, d.overSince = false, -1, time.Time{}
	}
	d.router.gate.add(n, over)
}

// wake starts a worker where there is work and none runs. It is called with mu held.
func (d *Destination) wake() {
	if d.working || d.retryAt != nil || !d.hasWork() {
		return
	}
	if !d.run(d.work) {
		return
	}
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
		d.router.connections.busy(d)
	}
}

// run starts the worker. It is called with mu held.
func (d *Destination) run(work func(context.Context)) bool {
	ctx, cancel := context.WithCancel(d.router.ctx)
	d.working = d.router.start(func() {
		defer cancel()
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
	d.wake()
}

// work is the worker: it takes what is queued and applies it until nothing is left or something fails.
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
			d.failed(newError(err))
			return
		}
	}
}

// errNothing says that there is nothing to do.
var errNothing = errors.New("nothing is queued")

// step connects where that is needed, and does one piece of work: a chunk of a backfill whose time has come, a batch of
// live changes, or the next move of a backfill.
func (d *Destination) step(ctx context.Context) error {
	d.mu.Lock()
	d.due = false
	d.flying(-d.inFlight)
	var old *session
	replay := false
	var dropped []replication.Ticket
	if d.fresh {
		d.fresh = false
		replay = d.rewind()
		if d.parked {
			replay, dropped = false, d.drop()
		}
		old, d.session = d.session, nil
	}
	d.mu.Unlock()
	d.router.Acks.Release(dropped...)
	if replay {
		d.router.Reader.Restart()
	}
	if old != nil {
		d.router.places.leave(d)
		old.close()
	}
	if d.router.stopping() || ctx.Err() != nil {
		return cmp.Or(ctx.Err(), errNothing)
	}
	if d.session == nil {
		if err := d.connect(ctx); err != nil {
			return err
		}
	}
	bf := d.session.backfill
	if bf != nil && bf.active && bf.mergeable() {
		return bf.merge(ctx)
	}
	if b := d.take(d.session, nil); b != nil {
		if b.large != nil {
			return d.applyLarge(ctx, b)
		}
		return d.apply(ctx, b)
	}
	if bf != nil {
		if err := bf.advance(ctx); err != nil {
			return err
		}
		// The idle timer may never come to run out beside a backfill that waits.
		if err := d.askFlushNowAndThen(ctx); err != nil {
			return err
		}
	}
	return errNothing
}

// rest ends the worker when there is really nothing to do, and keeps the connection for a while.
func (d *Destination) rest() bool {
	d.mu.Lock()
	if !d.router.stopping() && (d.hasWork() || d.parked) {
		d.mu.Unlock()
		return false
	}
	d.working = false
	s := d.session
	switch {
	case s == nil || d.router.stopping():
	case d.applied > 0:
		d.idle = time.AfterFunc(flushPause, d.confirmFlush)
	case s.backfill != nil && s.backfill.active: // its chunk comes
	case d.router.Options.IdleClose > 0 && d.router.connections.rest(d):
		d.idle = time.AfterFunc(d.router.Options.IdleClose, d.closeIdle)
	default:
		d.session = nil
		d.mu.Unlock()
		s.close()
		return true
	}
	d.mu.Unlock()
	return true
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

// ready reports whether a transaction can be applied: it is whole, or too large to wait for its end. It is called with mu
// held.
func (d *Destination) ready(t *transaction) bool {
	return t.complete || t.bytes >= d.router.Options.QueueBytes/2 || len(t.changes) >= d.limit ||
		(len(t.changes) > t.next && d.router.gate.closed()) // its end may not come before there is room
}

// flying moves the bytes in flight. It is called with mu held.
func (d *Destination) flying(n int64) {
	d.inFlight += n
	d.account(0)
}

// closeIdle gives up the connection unless somebody works.
func (d *Destination) closeIdle() {
	d.mu.Lock()
	var s *session
	if !d.working && d.idle != nil {
		d.idle.Stop()
		d.idle = nil
		s, d.session = d.session, nil
		d.router.connections.busy(d)
	}
	d.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// stop closes what is left after the router has stopped.
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

// failed decides what follows a failure: when to try again, and in which state. The connection is not kept.
func (d *Destination) failed(e *Error) {
	d.router.places.leave(d)
	d.mu.Lock()
	s := d.session
	d.session = nil
	d.working = false
	replay := d.rewind()
	var dropped []replication.Ticket
	if d.parked {
		replay, dropped = false, d.drop()
	}
	if !isCanceled(e) || !d.router.stopping() {
		d.pauseAfter(e)
	}
	d.mu.Unlock()
	d.router.Acks.Release(dropped...)
	if s != nil {
		s.close()
	}
	if replay {
		d.router.Reader.Restart()
	}
}

// pauseAfter is called with mu held.
func (d *Destination) pauseAfter(e *Error) {
	if e.SQLState == queryCanceled {
		d.limit = max(d.limit/2, 1)
	}
	d.status.Attempts++
	if !d.parked || !isCanceled(e) { // parking ended the work; why it was parked says more
		d.status.Err = e
	}
	if d.failing.IsZero() {
		d.failing = time.Now()
	}
	d.status.State = Retrying
	wait := d.pause.NextBackOff()
	switch e.verdict {
	case needsHuman, rowFault:
		d.status.State = Halted
		wait = d.router.Options.RetryMax
	case retryLong:
		wait = max(wait, min(10*time.Second, d.router.Options.RetryMax))
	case conflict:
		if d.status.Attempts == 1 {
			wait = 0 // the metadata is read again
		}
	}
	if d.parked {
		wait = max(wait, min(time.Second<<min(max(d.parks-1, 0), 20), d.router.Options.RetryMax))
	}
	d.status.NextRetry = time.Now().Add(wait)
	d.logFailure(e, wait)
	d.retryAt = time.AfterFunc(wait, d.retry)
}

// logFailure says once what is wrong, and again with every doubling of the attempts.
func (d *Destination) logFailure(e *Error, wait time.Duration) {
	n := d.status.Attempts
	if n&(n-1) != 0 {
		return
	}
	d.log.Warn("the external database does not take the changes", zap.String("state", string(d.status.State)),
		zap.Int("attempt", n), zap.String("sqlstate", e.SQLState), zap.String("mapping", e.Mapping), zap.Error(e),
		zap.Duration("next_try", wait))
}

// retry ends the pause.
func (d *Destination) retry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retryAt = nil
	d.due = true
	d.wake()
}

// succeeded notes a commit. flushed says that it and everything before it survives a crash of the external server.
func (d *Destination) succeeded(b *batch, flushed bool) {
	d.mu.Lock()
	d.well()
	if n := len(b.transactions); n > 0 {
		d.status.CommitTime = b.transactions[n-1].committed
	}
	d.status.SequenceID = max(d.status.SequenceID, b.last)
	d.status.Rows += int64(b.changes)
	d.status.Batches++
	d.applied += len(b.transactions)
	n := 0
	if flushed {
		n = d.applied
	}
	tickets := d.letGo(n)
	d.flying(-b.bytes)
	d.mu.Unlock()
	d.router.Acks.Release(tickets...)
}

// well ends a time of failures. It is called with mu held.
func (d *Destination) well() {
	d.lastCommit.Store(time.Now().UnixNano())
	if d.status.State != Streaming {
		d.log.Info("the external database takes changes again", zap.Int("attempts", d.status.Attempts))
	}
	d.status.State, d.status.Err, d.status.Attempts, d.status.NextRetry = Streaming, nil, 0, time.Time{}
	d.failing = time.Time{}
	d.limit = min(d.limit*2, d.router.Options.BatchRows)
	d.pause.Reset()
}

// progress notes a chunk of a backfill.
func (d *Destination) progress(rows int64, complete bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.well()
	d.status.Copied = rows
	d.caughtUp = complete
	d.due = true // for the next one
}
