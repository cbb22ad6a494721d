package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/replication"
	"outflow/replication/wal"
)

// Begin implements [replication.Sink]. Begin reads the primary's notes of the destinations, which another process may have changed since,
// and starts the destinations that are not known to be up to date.
func (r *Router) Begin(ctx context.Context) error {
	r.membership.Lock()
	defer r.membership.Unlock()
	r.begun.Store(true)
	r.arrival.inside = false // the stream begins with a whole transaction
	copier := &replication.Copier{Primary: r.Primary}
	var unfinished []uint32
	err := within(ctx, stateTimeout, func(ctx context.Context) (err error) {
		unfinished, err = copier.Unfinished(ctx)
		return err
	})
	copier.Close()
	if err != nil {
		return err
	}
	r.xids.RanBefore(unfinished)
	if err := r.loadSwitches(ctx); err != nil {
		return err
	}
	if err := r.beginReading(ctx); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ReadingBegun); err != nil {
		return err
	}
	end, err := r.State.walEnd(ctx)
	if err != nil {
		return err
	}
	r.begunAt = wal.LSN(end)
	states, err := r.State.load(ctx)
	if err != nil {
		return err
	}
	byName := map[[2]string]destinationState{}
	for _, s := range states {
		byName[[2]string{s.tenant, s.name}] = s
	}
	for _, d := range r.Destinations() {
		name := [2]string{d.Tenant, d.Name}
		s := byName[name]
		if s.reason == replication.NotConfigured { // back; its database may have been filled under another name meanwhile, in a later epoch
			s.state, s.reason = Backfilling, "it is in the configuration again"
			if s.epoch, err = r.State.raise(ctx, s); err != nil {
				return err
			}
		}
		d.begin(s)
		delete(byName, name)
	}
	for _, s := range byName {
		if s.reason == replication.NotConfigured {
			continue
		}
		// The destination was taken out of the configuration. Later acknowledgements pass the destination by, so a returning destination
		// is copied again.
		s.state, s.reason = Parked, replication.NotConfigured
		if _, err := r.State.raise(ctx, s); err != nil {
			return err
		}
	}
	return r.checkpoint(ctx, true) // so that every destination has its row before anything is acknowledged
}

// beginReading takes a new mark. A primary that no longer knows the last mark was restored while this process ran.
func (r *Router) beginReading(ctx context.Context) error {
	known, err := r.State.knows(ctx, *r.mark.Load())
	if err != nil {
		return err
	}
	if !known {
		return &replication.Problem{What: "the primary does not know what this process has noted on it: it was restored from a backup", Remedy: resetRemedy}
	}
	mark, err := r.State.begin(ctx)
	if err == nil {
		r.mark.Store(&mark)
	}
	return err
}

// resetRemedy heals the damage of a restored primary.
const resetRemedy = "run: outflow run --slot-reset, which raises the ids and copies every destination anew"

// begin takes over the primary's note, the zero value where the primary has nothing.
func (d *Destination) begin(s destinationState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.adopt(s)
	d.wake()
}

// adopt is begin with mu held.
func (d *Destination) adopt(s destinationState) {
	first := d.epoch == 0
	if first {
		d.epoch, d.note = s.epoch, -1
		if s.epoch == 0 {
			// The primary knows nothing of the destination. The database of the destination may: as a destination under another name, say.
			// An epoch that no other destination has makes sure of a copy.
			d.epoch = time.Now().UnixMicro()
		}
	}
	defer d.observe()
	if s.epoch == 0 {
		d.due = true
		return
	}
	if first {
		d.caughtUp = d.fault == nil && s.state == Streaming && s.fingerprint == d.fingerprint()
		d.noted, d.status.Copied = s, s.copied
		d.synced, d.syncedNote = parseMappings(s.mappings), s.mappings
		d.forsake()
		d.noted.since = time.Time{}
		d.adoptHalt(s)
		if s.state == Retrying || s.detached {
			d.doubts = 1 // those that were well go first
		}
	}
	d.retried = max(d.retried, s.retried)
	if s.epoch > d.epoch || (d.parked && !first) {
		// Another process may have brought the destination up to date meanwhile. From the start of this reading on the destination misses
		// nothing.
		d.parked = false
		d.fresh = !first
	}
	d.epoch, d.note = max(d.epoch, s.epoch), max(d.note, s.note)
	d.due = d.due || !d.caughtUp || d.fresh
}

// Run notes checkpoints, parks destinations, and carries out requests, until ctx is done. Begin comes before Run. Run ends with
// [replication.ErrFenced] where another process reads the slot and this process finds out by a refused note.
func (r *Router) Run(ctx context.Context) error {
	checkpoint, looks, switches := time.NewTicker(r.Options.Checkpoint), time.NewTicker(watchEvery), time.NewTicker(switchEvery)
	defer checkpoint.Stop()
	defer looks.Stop()
	defer switches.Stop()
	failures, answers, watched := 0, true, &watch{router: r}
	for {
		if r.State.fenced.Load() {
			return replication.ErrFenced
		}
		select {
		case <-ctx.Done():
			return nil
		case <-switches.C:
			err := r.loadSwitches(ctx)
			if err == nil && r.Reader.State() == replication.Streaming {
				err = r.takeRequests(ctx)
			}
			if err != nil && ctx.Err() == nil {
				r.Log.Debug("switches and requests are not read", zap.Error(err)) // the checkpoint says that the primary is away
			}
			continue
		case <-looks.C:
			if r.Reader.State() != replication.Streaming {
				watched.pass(time.Now())
				continue // another process may have the slot
			}
			all := r.Destinations()
			r.visit(all)
			watched.look(all, time.Now(), answers)
			continue
		case <-checkpoint.C:
			if r.Reader.State() != replication.Streaming {
				continue
			}
		}
		err := r.checkpoint(ctx, false)
		end, wrong := r.State.walEnd(ctx)
		if answers = wrong == nil; answers {
			r.walEnd.Store(end)
		}
		r.lookAgain(ctx)
		if err == nil {
			failures = 0
		} else if failures++; failures&(failures-1) == 0 && ctx.Err() == nil {
			r.Log.Warn("nothing is acknowledged to the slot while checkpoints fail", zap.Error(err), zap.Int("attempt", failures))
		}
	}
}

// parkGrace is how long a destination that fails with a full queue may keep the reader waiting: a restart of its server, or one broken
// connection, is over sooner than a copy of all its rows.
const parkGrace = 2 * time.Second

// parkMemory is how long a parking counts: a destination parked again and again within parkMemory stays away longer each time, since each
// return of a slow destination costs the others a wait.
const parkMemory = 10 * time.Minute

// watchEvery is how often destinations are looked at for parking.
const watchEvery = 100 * time.Millisecond

// A flush LSN less than idleBytes ahead is noted once in idleCheckpoints checkpoints.
const (
	idleBytes       = 64 << 10
	idleCheckpoints = 10
)

// checkpoint notes on the primary the known position of each destination that moved, and only then lets the reader acknowledge the
// position. The flush LSN is taken first: a destination has at least the changes up to the flush LSN.
//
// A checkpoint is itself WAL, which the next checkpoint would acknowledge, and so on while the primary is idle. Where only the flush LSN
// has moved, and not far, the flush LSN is therefore noted seldom, unless now is set.
func (r *Router) checkpoint(ctx context.Context, now bool) error {
	if r.State.OwnReading() == 0 {
		return nil // a standby has nothing to note
	}
	r.checkpoints.Lock() // an older state must not be written over a newer one
	defer r.checkpoints.Unlock()
	flush := r.Acks.Flush()
	moved, from, aside := r.moved()
	if err := r.release(aside); err != nil {
		return err
	}
	if ahead := int64(flush) - int64(r.Acks.Noted()); len(moved) == 0 && (ahead <= 0 ||
		!now && ahead < idleBytes && time.Since(r.checkpointed) < idleCheckpoints*r.Options.Checkpoint) {
		return nil
	}
	r.checkpointed = time.Now()
	if err := failpoint.Fail(failpoint.BeforeCheckpoint); err != nil {
		return err
	}
	done, err := r.State.checkpoint(ctx, flush, moved)
	for i, refusal := range done.refused {
		err = errors.Join(err, r.setAside(from[i], refusal))
	}
	if err == nil && done.mark == "" { // the slot does without the refused destinations from now on
		done.mark, _, err = r.State.note(ctx, flush, nil)
	}
	if err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.Checkpointed); err != nil {
		return err
	}
	r.mark.Store(&done.mark)
	for i, d := range from {
		if done.refused[i] != nil {
			continue
		}
		if !done.noted[i] {
			if _, err := r.readAgain(ctx, d); err != nil {
				return err
			}
			continue
		}
		d.mu.Lock()
		d.noted = moved[i]
		if moved[i].epoch == d.epoch {
			d.note = max(d.note, moved[i].note)
		}
		d.mu.Unlock()
	}
	r.Acks.Note(flush)
	return nil
}

// moved are the notes of the destinations that are not as noted, and their destinations; aside are destinations without a note that the
// slot still waits for.
func (r *Router) moved() (moved []destinationState, from, aside []*Destination) {
	for _, d := range r.Destinations() {
		d.mu.Lock()
		status := d.statusLocked()
		now := destinationState{tenant: d.Tenant, name: d.Name, epoch: d.epoch, note: max(d.note, d.released),
			fingerprint: d.fingerprint(), state: status.State, detached: status.Detached, reason: fit.Text(status.Reason, fit.Reason),
			taken: d.epoch, retried: d.retried}
		if status.Err != nil {
			now.class = newError(status.Err).Class()
		}
		now.mappings = d.noteOfMappings()
		if now.copied = d.status.Copied; !d.caughtUp {
			now.copyTotal = max(d.status.CopyTotal, 0)
		}
		// A destination without an epoch is one that an unfinished Begin has not come to: the primary's note is better than what is known here.
		if now != d.noted && !d.parking && d.unnoted == nil && d.epoch != 0 {
			moved = append(moved, now)
			from = append(from, d)
		}
		if d.unnoted != nil && !d.parked {
			aside = append(aside, d)
		}
		d.mu.Unlock()
	}
	return moved, from, aside
}

// readAgain reads the note of a destination whose epoch is found to be later than the destination's own: a person asked for a copy, or the
// answer to this process' own note was lost. The next checkpoint notes the destination. The result is the noted epoch, 0 where there is no note.
func (r *Router) readAgain(ctx context.Context, d *Destination) (epoch int64, err error) {
	s, err := r.State.find(ctx, d.Tenant, d.Name)
	if err == nil {
		d.carryOut(request{destinationState: s})
	}
	return s.epoch, err
}

// fingerprint changes when one of the destination's mappings does. The mappings of an unusable destination are not known: the note keeps
// the earlier fingerprint.
func (d *Destination) fingerprint() string {
	if d.fault != nil && len(d.mappings) == 0 {
		return d.noted.fingerprint
	}
	prints := make([]string, len(d.mappings))
	for i, m := range d.mappings {
		prints[i] = m.Identity()
	}
	return strings.Join(prints, " ")
}

// park lets the stream go on without a destination. The parking is written to the primary first; then the destination's queue is dropped
// and the queued transactions are acknowledged. When the destination answers again the destination is copied again. An error says that
// the destination is not parked.
func (r *Router) park(d *Destination, reason string) error {
	note, err := d.beginParking(reason)
	if note == nil {
		return err
	}
	detached := false
	defer func() {
		if !detached {
			d.endParking()
		}
	}()
	epoch, err := r.State.raise(r.workers.ctx, *note)
	failpoint.Hit(failpoint.ParkNoted)
	if err != nil {
		if !errors.Is(err, replication.ErrFenced) { // else another process decides over the destination
			d.log.Warn("the destination cannot be parked", zap.Error(err))
		}
		return err
	}
	detached = true
	if tickets, idle := d.detach(epoch, reason); idle {
		r.places.leave(d)
		r.Acks.Release(tickets...)
	}
	return nil
}

// beginParking returns the note of a parking; nil where there is nothing to park.
func (d *Destination) beginParking(reason string) (*destinationState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parked || d.gone {
		return nil, nil
	}
	if d.parking {
		return nil, fmt.Errorf("destination %s is being parked, or removed", d)
	}
	d.parking = true
	note := &destinationState{tenant: d.Tenant, name: d.Name, state: Parked, reason: d.whyParked(reason), detached: true}
	if s := d.statusLocked(); s.State == Halted {
		note.state, note.reason = Halted, s.Reason
	}
	return note, nil
}

func (d *Destination) endParking() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parking = false
}

// whyParked is the reason of a parking with the last failure. It is called with mu held.
func (d *Destination) whyParked(reason string) string {
	if last := d.status.Err; last != nil {
		return fit.Text(reason+": "+last.Error(), fit.Reason)
	}
	return reason
}

// detach has the destination parked in an epoch that is noted. Without a worker the queue is dropped, and idle is true; else the worker
// drops the queue.
func (d *Destination) detach(epoch int64, reason string) (tickets []wal.Ticket, idle bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := d.whyParked(reason)
	d.parking = false
	d.epoch, d.parked, d.fresh, d.parkReason = epoch, true, true, text
	if time.Since(d.parkedAt) > parkMemory {
		d.parks = 0
	}
	d.parks, d.parkedAt = d.parks+1, time.Now()
	d.log.Warn("parked: the stream goes on without this destination, which is copied anew when it answers", zap.String("reason", text))
	defer d.observe()
	if d.working { // the queue is its worker's, which drops it in failed
		d.cancelWork()
		return nil, false
	}
	tickets = d.drop()
	if d.retryAt == nil && d.paused == nil {
		d.pauseAfter(cmp.Or(d.unnoted, &Error{Err: errors.New(reason)}))
	}
	return tickets, true
}

// drop empties the queue of a parked destination and returns the tickets of the queue. Only the worker of the destination may call drop,
// or a holder of mu while there is no worker. It is called with mu held.
func (d *Destination) drop() []wal.Ticket {
	tickets := make([]wal.Ticket, 0, len(d.queue)+len(d.kept))
	for _, ticket := range d.kept {
		tickets = append(tickets, ticket)
	}
	clear(d.kept)
	for _, t := range d.queue {
		tickets = append(tickets, t.ticket)
	}
	// The rest of a transaction whose parts are coming is not wanted either. rewind may have put accepted back, to read again: the second
	// read will not happen.
	d.holding = max(d.holding, d.accepted.id, d.router.tenants.arrivingID())
	d.accepted, d.unwanted, d.replays = position{id: d.holding, complete: true}, 0, 0
	d.queue, d.applied, d.inFlight, d.lagging = nil, 0, 0, 0
	d.account(-d.bytes)
	return tickets
}

// attach lets changes come again to a parked destination whose session is open: a server that answers the login and hangs then holds
// nothing. The first snapshot of the destination's backfill is taken later. A session opened before the parking does not count. The caller
// holds mu.
func (d *Destination) attach(s *session) {
	if d.parked && s.epoch == d.epoch {
		// A failure from before the parking must not park the destination again before the first commit.
		d.parked, d.caughtUp, d.failing = false, false, time.Time{}
		d.log.Info("the parked destination answers again")
		d.observe()
	}
}

// raiseEpoch has the external database copied again: the metadata's epoch no longer fits.
func (d *Destination) raiseEpoch(ctx context.Context, reason string) error {
	epoch, err := d.router.State.raise(ctx, destinationState{tenant: d.Tenant, name: d.Name, state: Backfilling, reason: reason})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch, d.caughtUp = epoch, false
	d.status.Copied, d.status.CopyTotal = 0, -1
	return nil
}

// Resync has the external database copied again while live changes go on.
func (d *Destination) Resync(ctx context.Context, reason string) error {
	if err := d.raiseEpoch(ctx, reason); err != nil {
		return err
	}
	d.restart()
	return nil
}

// restart has the worker drop the queue, of which the copy makes up, and connect again, which is when the epoch is looked at. The new
// epoch is durable.
func (d *Destination) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh, d.stale = true, true
	if d.working {
		return
	}
	if d.retryAt != nil && d.retryAt.Stop() {
		d.retryAt = nil
	}
	d.due = true
	d.wake()
}
