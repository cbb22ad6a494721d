// Package sink brings every tenant's changes into the tenant's external databases, exactly once in effect and in the order of the
// source's transactions.
//
// # Path of a change
//
// [Router.Write] finds the change's tenant and queues the change at the tenant's destinations. A [destination.Destination] takes whole
// transactions from its queue, folds the transactions to net changes per key, and applies the changes in one external
// transaction, which also moves last_synced_sequence_id. Only then is the transaction released in the ack tracker.
//
// # Exactly once in effect
//
// The metadata update compares and sets: the update moves last_synced_sequence_id from the value held by the process, in the
// transaction that began the batch, or fails the transaction. So a replay after a crash, a COMMIT whose answer was lost and an
// older process that is still alive change nothing: a process that finds another value rolls back, reads the metadata, and skips
// the applied transactions.
//
// # Isolation
//
// A destination has a queue bounded in bytes, one worker while there is work, and neither goroutine nor connection while idle.
// Its failures stay its own: the destination retries with growing pauses while its queue has room. Past the bound the destination
// is parked: the primary notes the parking, the queue is dropped, and the rows are copied again from the tables when the external
// database answers. A merely slow destination makes the reader wait for a while before the parking.
//
// # Parts of the router
//
// [Router] is its parts, and each part is a type with a lock of its own. Of this package: tenants says where a change goes, membership lets one
// destination at a time come or go, checkpointer and switches are this process' side of the ledger on the primary, and counts is the traffic of each
// table. Of other packages, and shared by all destinations ([destination.Shared]): the gate, the memory of look-ups, the connections and the backfill
// slots bound what destinations take; [limits.Workers] runs and ends their goroutines; [schema.Schemas] has the newest description of each source table;
// [fold.XIDs] remembers the transactions of the stream, for copies.
//
// # Lock order
//
// A goroutine that holds a lock takes only locks further down:
//
//  1. membership: one destination comes, goes or changes at a time; held while the primary notes the fact
//  2. checkpointer: one checkpoint at a time; held while the primary writes the checkpoint
//  3. [ledger.Store]: one statement at a time; held while the primary answers
//  4. [limits.Slots], the backfill slots: the slots nudge a destination with the lock held
//  5. [destination.Destination], with its queue, its life, and what its worker shares
//  6. tenants, switches, counts, [schema.Schemas], [limits.Workers], [queue.Gate], [external.Connections], [fold.XIDs], a backfill's chunk in hand, and
//     [replication.AckTracker]: no other lock is taken under one of them
//
// A method that wants the lock of its receiver held ends in Locked. The worker owns its session and the backfill; only the backfill's
// chunk in hand is guarded by a lock. Nothing waits for an external database, or for the primary, under a lock from 4 on.
//
// # Rejected designs
//
// One lock for the router and all destinations held up the reader whenever one destination was slow in a step under the lock. A destination that
// reads the router's fields made every change of the router one of the destination: a destination asks by an interface of six methods, and has the rest in [destination.Shared].
package sink
