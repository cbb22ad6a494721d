// Package fold has the pure rules of what is applied: the net changes of a batch, and the merge of copied rows with the stream. The package has
// no I/O, no lock, no clock and no logger.
//
// # Net changes
//
// [Fold] takes the changes of whole transactions in the order of the source, and keeps one net change for each key: an upsert or a delete. The
// result, applied as a set, leaves a target as the changes one by one would leave the target. A statement over a set of rows has no order
// within the set, so a set must not have two changes of one key.
//
// Guarantees, with the changes in the order of the source:
//   - Each key of a table is in the result once.
//   - An update that changes the key is a delete of the old key and an upsert of the new key.
//   - A column that an update left in TOAST has the value of the same batch where the batch has a value, and is [wal.Unchanged] else.
//   - A tombstone deletes nothing that the tombstone's own transaction has written.
//
// # Merge
//
// [Merge] decides which rows read from a table may be applied while the stream goes on: the rows whose keys no transaction has changed that the
// read did not see. [XIDs] tells which transactions the stream may have shown before keys were tracked. A model of all interleavings of two
// transactions, a copy and a sweep tests the rule (merge_model_test.go).
//
// # Missing values, waiting changes
//
// [FindMissing] names the values that an update left in TOAST, that a step of a mapping needs, and that the batch does not have; [Missing.Fill] takes
// the values from the rows that a look-up has found. [Waiting] keeps the changes that an external database refuses in the order of the source, with all
// later changes of the same rows.
//
// # Rejected designs
//
//   - Watermarks, which compare positions in the WAL: a commit can be in the WAL, and decoded, before the commit is visible to a snapshot.
//     The model test has watermarks among the rules that must fail.
//   - A copy from one snapshot for all tables: the snapshot would keep the primary from cleaning up for as long as the copy takes.
package fold
