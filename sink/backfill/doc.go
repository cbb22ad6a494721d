// Package backfill copies a tenant's rows from the primary's tables into an external database, while the stream's changes go on.
//
// # Guarantees
//
//   - A copied row never replaces a newer change: a row that a chunk has read is applied only if no transaction that the chunk's snapshot did not
//     see has changed the row's key. See [fold.Merge].
//   - A copy that is stopped anywhere goes on where the copy was: the [Cursor] is in the external database, and moves in the transaction that
//     applies a chunk. A copy of another process that has moved the cursor since makes the transaction fail.
//   - After the copy, the sweep removes the rows that the external database has and the primary does not have. A mapping whose keys cannot name the
//     primary's rows removes nothing: the copy fails, and says why.
//   - Memory is bounded: a chunk waits for its memory before the chunk is read, and the tracked keys have a bound.
//
// # One chunk
//
//	take a slot ─▶ ask the external database ─▶ read from the primary ─▶ wait for the stream ─▶ merge ─▶ next chunk, or another's turn
//	                (a page of keys, in a sweep)   (beside the worker)      (the chunk's horizon)
//
// Keys are tracked from the moment of the slot on. A transaction that was applied before, and that the first snapshot did not see, is a suspect:
// the chunk is read again until a snapshot sees the transaction.
//
// # Passes
//
// A pass copies all tables, parents first, and then sweeps all keys, children first. A row that the external database refuses for the sake of other
// rows (a foreign key, a unique value) is put off to the next pass. A pass that does not help is followed by a strict pass, in which a
// refused row fails the copy.
//
// # Locks
//
// The worker of the destination owns a [Backfill]. The chunk in hand has a lock of its own, which comes after the destination's: a read hands the
// chunk over beside the worker, and a session may be closed by another goroutine.
//
// # Rejected designs
//
//   - COPY under one snapshot: the snapshot of a long copy holds back VACUUM on the primary, and a broken copy begins again.
//   - Comparing positions in the WAL instead of transaction ids: a commit can be decoded before the commit is visible to a snapshot.
//   - Emptying the tables before the copy: the tenant's readers would see the rows go.
package backfill
