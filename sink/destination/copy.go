package destination

import (
	"context"
	"time"

	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/external"
)

// copyOwner is a destination in the eyes of its copy, which runs in the destination's worker.
type copyOwner struct{ d *Destination }

func (o copyOwner) Nudge()                                         { o.d.nudge() }
func (o copyOwner) After(wait time.Duration, f func()) *time.Timer { return o.d.after(wait, f) }
func (o copyOwner) Panicked(cause any) *external.Error             { return o.d.panicked(cause) }
func (o copyOwner) AskFlush(ctx context.Context) error             { return o.d.askFlushNowAndThen(ctx) }
func (o copyOwner) ChunkCopied(at backfill.Cursor)                 { o.d.chunkCopied(at) }
func (o copyOwner) CopyFinished(at backfill.Cursor)                { o.d.copyFinished(at) }

func (o copyOwner) Exchange(ctx context.Context, fill func(context.Context, *external.Round) error) error {
	return o.d.exchange(ctx, fill)
}

// Passed reports whether the stream has passed a place in the WAL, and every transaction up to there was applied.
func (o copyOwner) Passed(horizon wal.LSN) bool {
	d := o.d
	if d.shared.Reader.Position() < horizon { // before the queue is looked at
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queue.Has(d.shared.SequenceID(horizon))
}

func (o copyOwner) Expects(rows int64) {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	o.d.status.CopyTotal = rows
}

func (o copyOwner) Waits(reason string) (said bool) {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	said = o.d.status.Reason == reason
	o.d.status.Reason = reason
	o.d.observeLocked()
	return said
}

// part are the rows of the destination's tenant.
func (d *Destination) part(rel *wal.Relation) tableread.Part {
	return tableread.Part{Relation: rel, Tenant: d.shared.Schemas.TenantColumn(rel), Value: d.Tenant}
}
