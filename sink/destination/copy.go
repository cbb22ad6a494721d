package destination

import (
	"context"
	"time"

	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/external"
)

// copyTarget is a destination in the eyes of its copy, which runs in the destination's worker.
type copyTarget struct{ d *Destination }

func (t copyTarget) Nudge()                                         { t.d.nudge() }
func (t copyTarget) After(wait time.Duration, f func()) *time.Timer { return t.d.after(wait, f) }
func (t copyTarget) Panicked(cause any) *external.Error             { return t.d.panicked(cause) }
func (t copyTarget) AskFlush(ctx context.Context) error             { return t.d.askFlushNowAndThen(ctx) }
func (t copyTarget) ChunkCopied(at backfill.Cursor)                 { t.d.chunkCopied(at) }
func (t copyTarget) CopyFinished(at backfill.Cursor)                { t.d.copyFinished(at) }

func (t copyTarget) Exchange(ctx context.Context, fill func(context.Context, *external.Round) error) error {
	return t.d.exchange(ctx, fill)
}

// Passed reports whether the stream has passed a place in the WAL, and every transaction up to there was applied.
func (t copyTarget) Passed(horizon wal.LSN) bool {
	d := t.d
	if d.shared.Reader.Position() < horizon { // before the queue is looked at
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queue.Has(d.shared.SequenceID(horizon))
}

func (t copyTarget) Expects(rows int64) {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	t.d.status.CopyTotal = rows
}

func (t copyTarget) Waits(reason string) (said bool) {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	said = t.d.status.Reason == reason
	t.d.status.Reason = reason
	t.d.observeLocked()
	return said
}

// part are the rows of the destination's tenant.
func (d *Destination) part(rel *wal.Relation) tableread.Part {
	return tableread.Part{Relation: rel, Tenant: d.shared.Schemas.TenantColumn(rel), Value: d.Tenant}
}
