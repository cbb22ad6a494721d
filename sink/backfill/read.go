package backfill

import (
	"context"
	"errors"
	"time"

	"outflow/internal/failpoint"
	"outflow/replication/tableread"
	"outflow/sink/limits"
)

// chunkRead is the reading of one chunk from the primary. The reading runs beside the worker, which goes on with live changes: what the
// reading goes by is fixed at the beginning.
type chunkRead struct {
	bf      *Backfill
	from    Cursor      // live changes move PutOff of the backfill's cursor meanwhile
	page    *page       // to be swept; nil where rows are copied, and behind the last page
	limit   int         // rows
	lane    limits.Lane // of the memory
	began   time.Time
	number  int     // of the tracking
	settle  bool    // nothing is known of suspects: find them
	awaited *uint32 // nothing is read before snapshots see the transaction; nil is none
}

// run reads the chunk and hands the chunk over to the worker. ctx ends with the session, and when the process stops.
func (r *chunkRead) run(ctx context.Context) {
	held, err := r.takeMemory(ctx, r.bf.shared.Memory.Piece)
	var c *chunk
	copier := &tableread.Copier{Tables: r.bf.shared.Tables}
	defer copier.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err == nil {
		c, err = r.nextSafely(ctx, copier, &held)
	}
	if err != nil {
		if c == nil {
			c = &chunk{}
		}
		c.err = err
	}
	if c.read, c.held = r, held; len(c.Rows) == 0 {
		c.held.Free()
	}
	r.bf.handOver(c)
	r.bf.owner.Nudge()
}

// nextSafely turns a panic, which would end the process, into an error: the cursor comes from the external database.
func (r *chunkRead) nextSafely(ctx context.Context, copier *tableread.Copier, held *limits.Grant) (c *chunk, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = r.bf.owner.Panicked(cause)
		}
	}()
	if c, err = r.awaits(ctx, copier); c != nil || err != nil {
		return c, err
	}
	if c, err = r.next(ctx, copier, held); err == nil {
		err = failpoint.Fail(failpoint.ChunkRead)
	}
	if shared := r.bf.shared; err == nil && c.Relation != nil && len(c.Relation.Columns) < len(shared.Schemas.Relation(c.table).Columns) { // a known column is gone
		_, err = shared.Relearn(ctx, c.table)
	}
	return c, err
}

// awaits is the chunk read instead of rows while snapshots do not see the awaited transaction; nil when they do, and where none is awaited.
func (r *chunkRead) awaits(ctx context.Context, copier *tableread.Copier) (*chunk, error) {
	if r.awaited == nil {
		return nil, nil
	}
	now, err := copier.Now(ctx)
	if err != nil || now.Snapshot.Sees(*r.awaited) {
		return nil, err
	}
	holder, err := copier.Holder(ctx, *r.awaited)
	return &chunk{Chunk: now, holder: holder}, err
}

// next finds the suspects, where they are not known, and reads the chunk behind the cursor.
func (r *chunkRead) next(ctx context.Context, copier *tableread.Copier, held *limits.Grant) (*chunk, error) {
	if !r.settle {
		return r.chunk(ctx, copier, held)
	}
	r.estimate(ctx, copier)
	now, err := copier.Now(ctx)
	if err != nil {
		return nil, err
	}
	suspects := r.bf.shared.XIDs.Unseen(now.Snapshot)
	if len(suspects) > 0 {
		elsewhere, err := copier.Elsewhere(ctx)
		if err != nil {
			return nil, err
		}
		for _, xid := range elsewhere {
			delete(suspects, xid)
		}
	}
	c, err := r.chunk(ctx, copier, held)
	if err == nil {
		c.suspects = suspects
	}
	return c, err
}

// estimate tells the status how many rows there are to copy. The estimate is for people only: where estimating fails the number
// is not known.
func (r *chunkRead) estimate(ctx context.Context, copier *tableread.Copier) {
	bf, total := r.bf, int64(0)
	for _, table := range bf.tables() {
		n, err := copier.Estimate(ctx, bf.part(table))
		if err != nil {
			return
		}
		total += n
	}
	bf.owner.Expects(total)
}

// chunk reads the rows behind the cursor, as many as fit in the held memory.
func (r *chunkRead) chunk(ctx context.Context, copier *tableread.Copier, held *limits.Grant) (*chunk, error) {
	if r.from.Phase == phaseSweep {
		return r.sweepPage(ctx, copier)
	}
	table, place, ok := r.bf.nextTable(&r.from)
	if !ok {
		next := r.from
		next.Phase, next.Table, next.Done, next.After, next.Sort = phaseSweep, "", false, nil, ""
		return emptyChunk(ctx, copier, next)
	}
	read, err := r.rows(ctx, copier, held, tableread.Range{Part: r.bf.part(table), Place: place, Limit: r.limit})
	if err != nil {
		return nil, err
	}
	c := &chunk{Chunk: read, table: table, relation: read.Relation, next: r.from}
	c.next.Table, c.next.Done, c.next.After, c.next.Sort = table, false, read.Next.After, read.Next.Order
	c.next.Rows += int64(len(read.Rows))
	from := r.from
	if place.Order != read.Next.Order { // the table is begun again
		from.After = nil
	}
	c.next.Copied = from.copied(table, len(read.Rows))
	if read.Last {
		c.next.After, c.next.Done = nil, true
	}
	return c, nil
}

// rows reads a chunk. Where the first row alone is larger than the held memory, the memory is given back, and taken as the row needs.
func (r *chunkRead) rows(ctx context.Context, copier *tableread.Copier, held *limits.Grant, part tableread.Range) (tableread.Chunk, error) {
	for {
		part.Bytes = held.Rows
		read, err := copier.Read(ctx, part)
		large := (*tableread.Large)(nil)
		if !errors.As(err, &large) {
			return read, err
		}
		held.Free()
		if *held, err = r.takeMemory(ctx, tableread.Enough(large.Bytes)); err != nil {
			return read, err
		}
	}
}

// takeMemory waits for memory of copies.
func (r *chunkRead) takeMemory(ctx context.Context, rows int64) (limits.Grant, error) {
	return r.bf.shared.Memory.Take(ctx, rows, r.lane)
}

// emptyChunk only moves the cursor.
func emptyChunk(ctx context.Context, copier *tableread.Copier, next Cursor) (*chunk, error) {
	now, err := copier.Now(ctx)
	return &chunk{Chunk: now, next: next}, err
}
