// Package ledger keeps what Outflow must remember on the primary: how far each destination is, who reads the slot, and what persons have
// asked for or switched off. Outflow has no disk of its own, so the next process, a standby and the commands know nothing but the ledger.
//
// # Tables
//
// The package owns three tables of the schema outflow:
//
//   - destination_state: one [Note] a destination. The reading process writes notes in checkpoints; a person's [Request] is a few columns beside.
//   - reading: one row each time a process began to read the slot, with the number of the reading's checkpoints.
//   - switch: one [Switch] for each thing that a person has switched off at some time.
//
// Of the table source, which belongs to package primary, the ledger writes two columns: the newest reading and the flush LSN. Package
// primary raises epochs of destination_state in two transactions that change source too: the reset of a slot, and the change of a fact
// that Outflow relies on.
//
// # Guarantees
//
//   - A checkpoint is one statement: the flush LSN is noted together with the notes of all destinations that moved, or not at all. The reader
//     reports a flush LSN to the slot only after the checkpoint, so no change is forgotten by the slot and by the ledger.
//   - Every write of a reading process is fenced: a process frozen while another process began to read the slot gets
//     [primary.ErrFenced] and changes nothing. See fenceSQL.
//   - An epoch never goes back and is never given twice, not even by a primary that was restored from a backup: an epoch is a time in
//     microseconds, and at least one more than the epoch before.
//   - A note of a later epoch is never written over: a person may have raised the epoch since.
//   - A row that the primary refuses keeps no other row from being written, and keeps no epoch from being raised.
//
// # Lock order
//
// [Store] has one lock, which is held while a statement runs: calls wait for one another, each for 10 seconds at most. No caller holds
// the lock of a destination meanwhile.
//
// # Rejected designs
//
//   - A statement a destination: 10,000 destinations would be 10,000 round trips a second, and a crash in between would leave a flush LSN
//     ahead of a note.
//   - Times instead of counters for requests: a request may wait for a lock for long, and clocks are put back.
//   - An advisory lock as the fence: a lock goes with the connection, and a frozen process does not notice the loss of the connection.
package ledger
