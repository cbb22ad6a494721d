package queue

import (
	"slices"
	"time"

	"outflow/replication/wal"
)

// Position is a place in the stream. A destination accepts only changes after the last accepted change, so reading the stream again does
// no harm.
type Position struct {
	ID       int64
	Ordinal  int64 // of the first change not accepted yet
	Complete bool
}

// Transaction is the queued part of one source transaction at a destination.
type Transaction struct {
	ID        int64
	XID       uint32
	Committed time.Time
	Received  time.Time // when its first part came
	Changes   []wal.Change
	Dropped   bool // some applied changes were let go of, to make room for the rest, or the rest does not come: see Rewind

	ticket   wal.Ticket
	bytes    int64     // of the changes, and transactionOverhead
	complete bool      // the source has sent the whole transaction
	next     int       // changes applied in an open external transaction
	asked    time.Time // when external became known
	external wal.LSN   // of the external server: flushed there, the transaction survives a crash; 0 is not known yet
}

// transactionOverhead is the memory of a queued transaction beside the changes, in bytes: the transaction, its places in the queue and in the ack
// tracker, and the rounding of its allocations.
const transactionOverhead = 224

// truncates reports whether one of the changes is a TRUNCATE.
func (t *Transaction) truncates() bool {
	return slices.ContainsFunc(t.Changes, func(c wal.Change) bool { return c.Kind == wal.Truncate })
}

// Progress is how far the mappings of an external database are: last_synced_sequence_id by mapping.
type Progress []int64

// lowest is the id up to which every mapping is synced, -1 where there is no mapping.
func (p Progress) lowest() int64 {
	if len(p) == 0 {
		return -1
	}
	return slices.Min(p)
}

// behind tells, by mapping, which have not applied the transaction with the id.
func (p Progress) behind(id int64) []bool {
	b := make([]bool, len(p))
	for i, held := range p {
		b[i] = held < id
	}
	return b
}

// shapes are the tables of a batch with the columns that the tables have there, by name. All rows of a table in a batch have one shape.
type shapes map[string]*wal.Relation

// fit is how many of the changes, from the first, fit: up to the first change of a table that was altered.
func (s shapes) fit(changes []wal.Change) int {
	var own shapes // of these changes
	var last *wal.Relation
	for i := range changes {
		rel := changes[i].Relation
		if rel == last {
			continue
		}
		last = rel
		known := s[rel.Table]
		if known == nil {
			known = own[rel.Table]
		}
		switch {
		case known == nil:
			if own == nil {
				own = shapes{}
			}
			own[rel.Table] = rel
		case !known.SameShape(rel):
			return i
		}
	}
	return len(changes)
}

// add takes the shapes of fitting changes, of the tables that are read.
func (s shapes) add(changes []wal.Change, reads map[string]bool) {
	var last *wal.Relation
	for i := range changes {
		rel := changes[i].Relation
		if rel == last {
			continue
		}
		if last = rel; reads[rel.Table] && s[rel.Table] == nil {
			s[rel.Table] = rel
		}
	}
}
