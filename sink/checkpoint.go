package sink

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
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

// checkpointInTurn is checkpoint, but seldom on an idle primary: see dueLocked.
func (r *Router) checkpointInTurn(ctx context.Context) error {
	return r.checkpointAfter(ctx, idleCheckpoints*r.Options.Checkpoint)
}

func (r *Router) checkpointAfter(ctx context.Context, idle time.Duration) error {
	if r.Ledger.OwnReading() == 0 {
		return nil // a standby has nothing to note
	}
	c := &r.checkpointer
	c.mu.Lock()
	defer c.mu.Unlock()
	flush := r.Acks.Flush()
	moved, from, aside := r.moved()
	if err := r.release(aside); err != nil {
		return err
	}
	now := time.Now()
	if !c.dueLocked(len(moved), int64(flush)-int64(r.Acks.Noted()), idle, now) {
		return nil
	}
	c.last = now
	if err := failpoint.Fail(failpoint.BeforeCheckpoint); err != nil {
		return err
	}
	if err := r.writeCheckpointLocked(ctx, flush, moved, from); err != nil {
		return err
	}
	r.Acks.Note(flush)
	return nil
}

// writeCheckpointLocked notes the flush LSN and the destinations that moved. The caller holds the checkpointer's lock.
func (r *Router) writeCheckpointLocked(ctx context.Context, flush wal.LSN, moved []ledger.Note, from []*Destination) error {
	done, err := r.Ledger.Checkpoint(ctx, flush, moved)
	for i, refusal := range done.Refused {
		err = errors.Join(err, r.setAside(from[i], refusal))
	}
	if err == nil && done.CheckpointID == "" { // the slot does without the refused destinations from now on
		done.CheckpointID, err = r.Ledger.CheckpointFlush(ctx, flush)
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
			if _, err := r.readAgain(ctx, d); err != nil {
				return err
			}
			continue
		}
		d.mu.Lock()
		d.noted.last = moved[i]
		if moved[i].Epoch == d.noted.epoch {
			d.noted.recordedID = max(d.noted.recordedID, moved[i].RecordedID)
		}
		d.mu.Unlock()
	}
	return nil
}

// moved are the notes of the destinations that are not as noted, and their destinations; aside are destinations without a note that the
// slot still waits for.
func (r *Router) moved() (moved []ledger.Note, from, aside []*Destination) {
	for _, d := range r.Destinations() {
		d.mu.Lock()
		status := d.statusLocked()
		now := ledger.Note{Tenant: d.Tenant, Name: d.Name, Epoch: d.noted.epoch, RecordedID: max(d.noted.recordedID, d.queue.Released()),
			Fingerprint: d.fingerprintLocked(), State: status.State, Detached: status.Detached, Reason: fit.Text(status.Reason, fit.Reason),
			TakenEpoch: d.noted.epoch, Retried: d.noted.retried}
		if status.Err != nil {
			now.Class = external.AsError(status.Err).Class()
		}
		now.Mappings = d.progressLocked()
		if now.Copied = d.status.Copied; !d.life.Current {
			now.CopyTotal = max(d.status.CopyTotal, 0)
		}
		// A destination without an epoch is one that an unfinished Begin has not come to: the primary's note is better than what is known here.
		if now != d.noted.last && !d.life.Noting && !d.life.Refused && d.life.Stream != lifecycle.Unread {
			moved = append(moved, now)
			from = append(from, d)
		}
		if d.life.Refused && d.life.Stream != lifecycle.Detached {
			aside = append(aside, d)
		}
		d.mu.Unlock()
	}
	return moved, from, aside
}

// readAgain reads the note of a destination whose epoch is found to be later than the destination's own: a person asked for a copy, or the
// answer to this process' own note was lost. The next checkpoint notes the destination. The result is the noted epoch, 0 where there is no note.
func (r *Router) readAgain(ctx context.Context, d *Destination) (epoch int64, err error) {
	s, err := r.Ledger.Note(ctx, d.Tenant, d.Name)
	if err == nil {
		d.carryOut(ledger.Request{Note: s})
	}
	return s.Epoch, err
}
