package fold

import (
	"outflow/replication/wal"
)

// Tracked is a key changed by a transaction of the stream while a backfill runs.
type Tracked struct {
	XID      uint32
	Table    string
	Key      string // see [Keyer.Key]; "" is every key of the table: a TRUNCATE
	Relation *wal.Relation
}

// trackedOverhead is the memory of a tracked key beside the key's text.
const trackedOverhead = 100

// Bytes is about how much memory the key takes. The text of a key is no longer than a page of an index, unless the text can be compressed.
func (c Tracked) Bytes() int64 { return trackedOverhead + int64(len(c.Key)) }

// Counts reports whether the change, at place i among the tracked changes, concerns rows read from the table with the snapshot: see [Merge].
func (c Tracked) Counts(i int, table string, snapshot wal.Snapshot, since int) bool {
	return c.Table == table && (i >= since || !snapshot.Sees(c.XID))
}

// Merge is the rule for placing rows read from a table among the changes of the stream: a row may be applied unless a transaction
// invisible to the read has changed the row's key. Such a transaction has been applied, since the stream has passed the read's
// horizon, and its result is newer than the row.
//
// A sweep deletes keys that a page of the external database held and the primary lacks. A delete step may name less than the
// whole key, so the delete of a key that a row has left would take the row under its new key. From since on, where the page was
// read, every change therefore counts, whether the read saw the change or not. A read of rows has no such place: since is
// len(changes).
//
// Visibility is compared by transaction id, not by LSN: a commit can be in the WAL, and decoded, before the commit is visible.
// With synchronous replication the gap lasts seconds, and a rule comparing positions in the WAL would put the old row over the
// new row.
func Merge[T any](rows []T, keyOf func(T) string, table string, snapshot wal.Snapshot, changes []Tracked, since int) []T {
	newer := map[string]bool{}
	for i, c := range changes {
		if c.Counts(i, table, snapshot, since) {
			newer[c.Key] = true
		}
	}
	if newer[""] {
		return nil
	}
	if len(newer) == 0 {
		return rows
	}
	kept := rows[:0:0]
	for _, row := range rows {
		if !newer[keyOf(row)] {
			kept = append(kept, row)
		}
	}
	return kept
}
