package destination

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"outflow/sink/external"
	"outflow/sink/lifecycle"
)

// SetAside halts a destination whose note the primary refuses, and lets the stream go on without the destination.
func (d *Destination) SetAside(refusal error) error {
	d.mu.Lock()
	d.noted.refusal = external.NewFault(external.ClassConfiguration, fmt.Errorf("the primary refuses the note of this destination: %w", refusal),
		"correct the cause in outflow.destination_state: a name that the primary's encoding lacks, a constraint or a trigger")
	d.noted.refusal.SQLState = external.SQLState(refusal)
	d.happensLocked(lifecycle.NoteRefused)
	d.failures.halt = &halt{err: d.noted.refusal, at: time.Now(), epoch: d.noted.epoch, work: opening}
	d.status.Err = d.noted.refusal
	d.observeLocked()
	d.mu.Unlock()
	d.log.Error("halted: the primary takes no notes of this destination", zap.Error(d.noted.refusal))
	return d.Park(unnotedReason)
}

const unnotedReason = "the primary takes no notes of the destination"

// renote tries again to have the primary take the note of a destination that was set aside.
func (d *Destination) renote(ctx context.Context) error {
	d.mu.Lock()
	aside := d.life.Refused
	d.noted.refusal = nil
	d.happensLocked(lifecycle.NoteTriedAgain)
	d.mu.Unlock()
	if !aside {
		return nil
	}
	if err := d.shared.Router.Checkpoint(ctx); err != nil {
		return err
	}
	return d.refusedNote()
}

// refusedNote is why the destination is set aside, nil where the destination is not.
func (d *Destination) refusedNote() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noted.refusal == nil {
		return nil
	}
	return d.noted.refusal
}

// ParkUnnoted lets the stream go on without a destination that was set aside, where that has failed before.
func (d *Destination) ParkUnnoted() error { return d.Park(unnotedReason) }
