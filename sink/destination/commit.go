package destination

import (
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/lifecycle"
)

// committed follows the commit of a batch: the session has other ids, and the tickets of durable transactions are released.
func (d *Destination) committed(b *batch) {
	d.session.Applied(b.mappings, b.last)
	if bf := d.session.backfill; bf != nil && b.cursor != nil {
		bf.Committed(*b.cursor)
	}
	for _, t := range b.transactions {
		d.session.backfill.Track(t.XID, t.Changes)
	}
	d.shared.Acks.Release(d.count(b)...)
	d.trace(b)
}

// count counts a committed batch, and returns the tickets of the transactions that are flushed: all up to here, where the COMMIT has waited for the
// external server's disk.
func (d *Destination) count(b *batch) []wal.Ticket {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wellLocked(applying)
	if n := len(b.transactions); n > 0 {
		d.status.CommitTime = b.transactions[n-1].Committed
	}
	d.status.SequenceID = max(d.status.SequenceID, b.last)
	d.syncedNowLocked(d.session)
	d.status.Rows += int64(b.changes)
	d.status.Batches++
	d.status.Transactions += int64(len(b.transactions))
	d.queue.Commit(len(b.transactions), b.bytes)
	if b.async {
		return nil
	}
	return d.queue.LetGo(d.queue.Applied())
}

// chunkCopied notes a chunk of a copy that goes on, and copyFinished the last chunk.
func (d *Destination) chunkCopied(c backfill.Cursor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.happensLocked(lifecycle.ChunkCopied)
	d.countChunkLocked(c)
	d.status.CopyTable = c.Table
}

func (d *Destination) copyFinished(c backfill.Cursor) {
	d.session.backfill = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.happensLocked(lifecycle.CopyFinished)
	d.countChunkLocked(c)
	d.status.CopyTable = ""
}

// countChunkLocked counts a committed chunk. A chunk's commit waits for the disk, so the primary may be told of the commit.
func (d *Destination) countChunkLocked(c backfill.Cursor) {
	d.wellLocked(copying)
	d.status.Copied = c.Rows
	d.status.SequenceID = max(d.status.SequenceID, d.session.Lowest())
	d.queue.Durable(d.session.Lowest())
	d.syncedNowLocked(d.session)
	d.observeLocked()
}
