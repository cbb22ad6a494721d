package sink

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
	"outflow/sink/destination"
	"outflow/sink/ledger"
)

// checkpointer writes checkpoints one at a time: an older state must not be written over a newer one. Safe for concurrent use.
type checkpointer struct {
	mu     sync.Mutex
	last   time.Time              // when the last checkpoint was written
	id     atomic.Pointer[string] // of the newest checkpoint, as external databases carry the id; nil: none
	walEnd atomic.Int64           // where the primary's WAL ended at the last look; 0: not known
}

// checkpointID is the id of the newest checkpoint, "" before the first.
func (c *checkpointer) checkpointID() string {
	if id := c.id.Load(); id != nil {
		return *id
	}
	return ""
}

// A flush LSN less than idleBytes ahead is noted once in idleCheckpoints checkpoints.
const (
	idleBytes       = 64 << 10
	idleCheckpoints = 10
)

// dueLocked reports whether a checkpoint is to be written now. A checkpoint is itself WAL, which the next checkpoint would acknowledge, and so on
// while the primary is idle. Where no destination has moved, and the flush LSN is ahead of the noted LSN by few bytes, a checkpoint is therefore
// due only a while (idle) after the last.
func (c *checkpointer) dueLocked(moved int, ahead int64, idle time.Duration, now time.Time) bool {
	switch {
	case moved > 0, ahead >= idleBytes:
		return true
	case ahead <= 0:
		return false
	}
	return now.Sub(c.last) >= idle
}

// checkpoint notes on the primary the known position of each destination that moved, and only then lets the reader acknowledge the
// position. The flush LSN is taken first: a destination has at least the changes up to the flush LSN.
func (r *Router) checkpoint(ctx context.Context) error { return r.checkpointAfter(ctx, 0) }

// checkpointInTurn is checkpoint, but seldom on an idle primary: see [checkpointer.dueLocked].
func (r *Router) checkpointInTurn(ctx context.Context) error {
	return r.checkpointAfter(ctx, idleCheckpoints*r.config.Options.Checkpoint)
}

func (r *Router) checkpointAfter(ctx context.Context, idle time.Duration) error {
	if r.config.Ledger.OwnReading() == 0 {
		return nil // a standby has nothing to note
	}
	c := &r.checkpointer
	c.mu.Lock()
	defer c.mu.Unlock()
	flush := r.config.Acks.Flush()
	moved, from, aside := r.moved()
	if err := r.parkUnnoted(aside); err != nil {
		return err
	}
	now := time.Now()
	if !c.dueLocked(len(moved), int64(flush)-int64(r.config.Acks.Noted()), idle, now) {
		return nil
	}
	c.last = now
	if err := failpoint.Fail(failpoint.BeforeCheckpoint); err != nil {
		return err
	}
	if err := r.writeCheckpointLocked(ctx, flush, moved, from); err != nil {
		return err
	}
	r.config.Acks.Note(flush)
	return nil
}

// writeCheckpointLocked notes the flush LSN and the destinations that moved. The caller holds the checkpointer's lock.
func (r *Router) writeCheckpointLocked(ctx context.Context, flush wal.LSN, moved []ledger.Note, from []*destination.Destination) error {
	done, err := r.config.Ledger.Checkpoint(ctx, flush, moved)
	for i, refusal := range done.Refused {
		err = errors.Join(err, from[i].SetAside(refusal))
	}
	if err == nil && done.CheckpointID == "" { // the slot does without the refused destinations from now on
		done.CheckpointID, err = r.config.Ledger.CheckpointFlush(ctx, flush)
	}
	if err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.Checkpointed); err != nil {
		return err
	}
	r.checkpointer.id.Store(&done.CheckpointID)
	for i, d := range from {
		if done.Refused[i] != nil {
			continue
		}
		if !done.Written[i] {
			if _, err := d.ReadAgain(ctx); err != nil {
				return err
			}
			continue
		}
		d.Wrote(moved[i])
	}
	return nil
}

// moved are the notes of the destinations that are not as noted, and their destinations; aside are destinations without a note that the
// slot still waits for.
func (r *Router) moved() (moved []ledger.Note, from, aside []*destination.Destination) {
	for _, d := range r.Destinations() {
		now, differs, waits := d.Note()
		if differs {
			moved = append(moved, now)
			from = append(from, d)
		}
		if waits {
			aside = append(aside, d)
		}
	}
	return moved, from, aside
}

// parkUnnoted lets the stream go on without destinations that were set aside, where that has failed before.
func (r *Router) parkUnnoted(aside []*destination.Destination) error {
	var faults []error
	for _, d := range aside {
		faults = append(faults, d.ParkUnnoted())
	}
	return errors.Join(faults...)
}
