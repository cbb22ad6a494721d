// Package sink brings every tenant's changes into the tenant's external databases, exactly once in effect and in the order of the
// source's transactions.
//
// # Path of a change
//
// [Router.Write] finds the change's tenant and queues the change at the tenant's destinations. A [destination.Destination] takes whole
// transactions from its queue, folds the transactions to net changes per key, and applies the changes in one external
// transaction, which also moves last_synced_sequence_id. Only then is the transaction released in the ack tracker.
//
// The files follow a change: arrival.go (which tenant), destination.go (into the queue), worker.go (the worker's loop), batch.go (a run of transactions
// becomes a batch), flight.go (one round trip; rounds.go for a large transaction, refused.go for a refused one), commit.go (what a commit
// releases), durable.go (what a flush releases). A failure goes by way of failure.go.
//
// # States of a destination
//
// [lifecycle.Life] is the state of a destination: the package lifecycle has its phases, the table of all events and transitions, and a test of all
// histories. A destination tells its life of an event with happensLocked (life.go), which carries out the actions that the event asks for; no
// other line changes the life. The state that is shown follows from the life alone (stateOf).
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
// # A failed batch
//
// One place, classify, decides the meaning of an error. A row error in a folded batch sends the same transactions again one by
// one, then change by change. The failing row is then known, and the destination halts with the row named. A refused change waits for
// the others of its transaction first, and a refused row of a copy for another pass: an external database has constraints of its
// own, which may demand another order.
//
// # Parts of the router
//
// [Router] is its parts: tenants and schemas say where a change goes; gate, lookups, connections and BackfillSlots bound what destinations take;
// workers runs and ends their goroutines; xids remembers the transactions of the stream, for copies; checkpointer and switches are this
// process' side of the ledger on the primary. Each part is a type with a lock of its own, in a file of its own.
//
// # Lock order
//
// A goroutine that holds a lock takes only locks further down:
//
//  1. membership: one destination comes, goes or changes at a time; held while the primary notes the fact
//  2. checkpointer: one checkpoint at a time; held while the primary writes the checkpoint
//  3. BackfillSlots
//  4. Destination, with its queue, its life, and what its worker shares
//  5. tenants, schemas, counts, switches, workers, gate, connections, xids, a backfill's chunk in hand, and the ack tracker: no other lock is taken under one of them
//
// A method that wants the lock of its receiver held ends in Locked. The worker owns its session and the backfill; only the backfill's
// chunk in hand is guarded by a lock. Nothing waits for an external database, or for the primary, under a lock from 3 on.
//
// # Rejected designs
//
// A goroutine for each destination would cost ten thousand stacks for databases without work, and would need its own wake and stop; a worker that ends
// when nothing is left needs neither. A state that each place sets as it sees fit was tried: eleven booleans told together what a destination was
// doing, and the combinations that no line of the code named were the faults. A lifecycle that calls back into the destination would hide what an event
// does: an event gives actions instead.
package sink
