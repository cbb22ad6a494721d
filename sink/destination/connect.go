package destination

import (
	"context"
	"errors"
	"slices"
	"time"

	"outflow/sink/external"
	"outflow/sink/lifecycle"
)

// connect opens the destination's session and makes the metadata and the tables ready.
func (d *Destination) connect(ctx context.Context) error {
	if d.fault != nil {
		return d.fault
	}
	if err := d.renote(ctx); err != nil {
		return err
	}
	s, err := d.dial(ctx)
	if err != nil {
		return err
	}
	if err := s.opened(ctx); err != nil {
		return err
	}
	if s.backfill == nil { // nothing is left to copy: the backfill slot is given back, or not waited for any more
		d.slot.Leave()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session = s
	d.reach.answers, d.reach.visited, d.status.Reason = true, time.Now(), ""
	d.openedLocked(s)
	if d.reach.doubts == 0 {
		s.Place.Trust()
	}
	d.status.SequenceID = s.Lowest()
	d.syncedLocked(s, s.Written)
	if s.backfill != nil {
		d.status.Copied = s.backfill.Rows()
	}
	return nil
}

// openedLocked tells the lifecycle of a session. A session of an earlier epoch does not bring a parked destination back.
func (d *Destination) openedLocked(s *session) {
	returns := d.life.Stream == lifecycle.Detached && s.Epoch == d.noted.epoch
	switch {
	case s.Epoch != d.noted.epoch:
		d.happensLocked(lifecycle.OpenedLate)
	case s.backfill == nil:
		d.happensLocked(lifecycle.Opened)
	default:
		d.happensLocked(lifecycle.OpenedToCopy)
	}
	if returns {
		d.failures.since = time.Time{} // a failure from before the parking must not park the destination again before the first commit
		d.log.Info("the parked destination answers again")
		d.observeLocked()
	}
}

// dial waits for a place among the connections, and connects.
func (d *Destination) dial(ctx context.Context) (*session, error) {
	c := d.shared.Connections
	d.awaits(place)
	d.mu.Lock()
	p := external.NewPlace(d.reach.doubts, d.reach.doubts > 0 || !d.reach.answers, d.endTurn)
	d.mu.Unlock()
	err := c.Take(ctx, d.shared.Workers.Intake.Done(), p)
	d.awaits(nothing)
	if err != nil {
		return nil, err
	}
	s, err := d.db.Dial(ctx, p)
	if err != nil {
		return nil, err
	}
	return &session{Session: s, d: d}, nil
}

// endTurn ends the work of a destination whose server owes an answer while others wait for the connection.
func (d *Destination) endTurn(p *external.Place) {
	defer d.Contained()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.Work != lifecycle.Working || !p.Owing() {
		p.Spare()
		return
	}
	d.turnEnded = true
	d.cancelWork()
}

// turnEndedError is the failure of a destination whose turn was ended.
type turnEndedError struct{}

func (turnEndedError) Error() string {
	return "the external server did not answer in time while other destinations waited for a connection"
}

// Class is the class that a tenant may read.
func (turnEndedError) Class() string { return external.ClassTimeout }

// reconnect makes sure of a usable session at the place of the queue.
func (d *Destination) reconnect(ctx context.Context) error {
	if d.session.Usable() {
		return nil
	}
	s := d.session
	d.mu.Lock()
	d.session = nil
	d.mu.Unlock()
	held := s.Held
	s.close()
	if err := d.connect(ctx); err != nil {
		return err
	}
	if !slices.Equal(held, d.session.Held) {
		return &external.Error{Verdict: external.Conflict, Err: errors.New("the metadata changed while this process reconnected")}
	}
	return nil
}
