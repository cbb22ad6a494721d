// Package primary has what is asked of the primary, and what is done there, beside the stream and the reads of rows: connections, the
// catalog, the publication, the slot, the slot's row of outflow.source, the reset, and the watch.
//
// # What it guarantees
//
// Every connection has the same fixed settings ([New]), so a value has the same text wherever the value is read.
//
// The conditions that Outflow relies on stand in one list (conditions.go). `outflow check`, the start of `outflow run`, the watch and each read
// of a table use that list. A broken condition is a [*Problem]: the thing, and the remedy. A condition that held before, and may not have held
// meanwhile, is a [*Gap]: the stream does not show all, so destinations are copied again. Neither is passed over.
//
// [Setup.Ensure] and [Setup.Reset] may be killed at any step and run again. All faults that a person must correct come before a slot is made:
// a slot holds the primary's WAL from then on.
//
// # Types
//
//   - [Server] makes connections. Safe for concurrent use.
//   - [Slot] is a row of pg_replication_slots: create, drop, status. By the same name a row of outflow.source is the slot's: see [Source].
//   - [Publication] is the publication with its tables: the statement that makes the publication publish them, and the rights for that.
//   - [Setup] is both, for the steps that need both: Ensure, Reset, Statements, the watch.
//
// Slot, Publication and Setup are values without a lock. A method with a connection asks on that connection; a method without one asks on a
// connection of its own, for a bounded time.
//
// # Tables on the primary
//
// The package owns outflow.source; the sink's ledger writes flush_lsn and reading there. In outflow.destination_state the package raises epochs, in the transaction that notes why: with the epochs in another transaction a process that
// is killed between the two would leave destinations that nothing copies again. A note is fenced by the number of the reading ([ErrFenced]).
//
// # Rejected
//
//   - One type for slot, publication and notes: it had 34 methods, and a caller that asked for the slot's status had to fill the publication.
//   - Event triggers for DDL: a trigger needs a superuser, and whoever drops the trigger drops the proof with it.
package primary
