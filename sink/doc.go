// Package sink brings every tenant's changes into that tenant's external databases, exactly once in effect and in the
// order of the source's transactions.
//
// # Path of a change
//
// [Router.Write] finds the change's tenant and queues it at that tenant's destinations. A [Destination] takes whole
// transactions from its queue, folds them to net changes per key, and applies them in one external transaction, which also
// moves last_synced_sequence_id. Only then is the transaction released in the ack tracker.
//
// # Exactly once in effect
//
// The metadata update compares and sets: it moves last_synced_sequence_id from the value that this process holds, in the
// transaction that began the batch, or fails the transaction. So a replay after a crash, a COMMIT whose answer was lost and
// an older process that is still alive change nothing: who finds another value rolls back, reads it, and skips
// what is applied.
//
// # Isolation
//
// A destination has a queue bounded in bytes, one worker while it has work, and neither goroutine nor connection while it
// is idle. Its failures are its own: it retries with growing pauses while its queue has room. Past the bound it is parked:
// that is noted on the primary, its queue is dropped, and when it answers it is copied anew from the tables. A merely slow
// one makes the reader wait for a while before it is parked too.
//
// # A failed batch
//
// One place, classify, decides what an error means. A row error in a folded batch sends the same transactions again
// one by one, then change by change: that names the row, and the destination halts with it. A change that is refused waits for the others of
// its transaction first, and a row of a copy for another pass: an external database has constraints of its own, and an order that suits them.
package sink
