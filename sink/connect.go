package sink

import (
	"context"
	"errors"
	"outflow/sink/external"
	"slices"
	"time"
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
	if s.backfill == nil { // nor is there anything to copy any more where a place was held, or waited for
		d.slot.Leave()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session = s
	d.attachLocked(s)
	d.met, d.answers, d.visiting, d.visited, d.status.Reason = true, true, false, time.Now(), ""
	if d.doubts == 0 {
		s.Place.Trust()
	}
	d.status.SequenceID = s.Lowest()
	d.setSyncedLocked(s, s.Written)
	d.caughtUp = s.backfill == nil
	if s.backfill != nil {
		d.due, d.status.Copied = true, s.backfill.cursor.Rows
	}
	return nil
}

// dial waits for a place among the connections, and connects.
func (d *Destination) dial(ctx context.Context) (*session, error) {
	c := d.router.connections
	d.mu.Lock()
	d.queued = true
	p := external.NewPlace(d.doubts, d.doubts > 0 || !d.answers, d.endTurn)
	d.mu.Unlock()
	err := c.Take(ctx, d.router.workers.intake.Done(), p)
	d.mu.Lock()
	d.queued = false
	d.mu.Unlock()
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
	defer d.contained()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.working || !p.Owing() {
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
