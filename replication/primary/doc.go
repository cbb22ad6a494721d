// Package primary asks the primary, and changes the primary, beside the stream and the reads of rows: connections, catalog, publication, slot,
// the slot's row of outflow.source, reset, watch.
//
// # What it guarantees
//
// Every connection has the same fixed settings ([New]), so a value has the same text wherever the value is read.
//
// The conditions that Outflow relies on stand in one list (conditions.go). `outflow check`, the start of `outflow run`, the watch and each read
// of a table use the list. A broken condition is a [*Problem], with a remedy. A condition that held before, and may not have held meanwhile, is a
// [*Gap]: the stream does not show everything, so destinations are copied again. Outflow passes over neither.
//
// [Setup.Ensure] and [Setup.Reset] may be killed at any step and run again. All faults that a person must correct come before a slot is made:
// a slot holds the primary's WAL from then on.
//
// # Types
//
//   - [Server] makes connections. Safe for concurrent use.
//   - [Slot] is a row of pg_replication_slots: create, drop, status; and the row of outflow.source with the slot's name, see [Source].
//   - [Publication] is the publication with the wanted tables: the statement for the publication, and the rights for the statement.
//   - [Setup] is slot and publication, for the steps that need both: Ensure, Reset, Statements, the watch.
//
// Slot, Publication and Setup are values without a lock. A method with a connection asks on that connection; a method without one asks on a
// connection of its own, for a bounded time.
//
// # Tables on the primary
//
// The package owns outflow.source; package ledger writes flush_lsn and reading there. In outflow.destination_state the package raises epochs,
// in the transaction that notes the reason. With two transactions a process that is killed between the two would leave destinations that
// nothing copies again. A note is fenced by the number of the reading ([ErrFenced]).
//
// # Rejected
//
//   - One type for slot, publication and notes: the type had 34 methods, most of which used a third of the fields.
//   - Event triggers that note DDL: a trigger needs a superuser, and a dropped trigger notes nothing.
package primary
