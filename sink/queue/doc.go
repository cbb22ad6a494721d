// Package queue holds what one destination has accepted from the stream until the external database has it for good, and the gate that tells the
// reader whether all queues together have room. No server and no router: random histories test the queue against a naive model of a stream, a
// server that crashes, and tickets.
//
// # States of a transaction
//
//	arriving   its rest has not come; a large transaction is applied in rounds meanwhile
//	waiting    whole, or large enough to begin
//	in flight  sent to the external database
//	applied    committed there, perhaps not flushed: a crash of that server takes the transaction back
//	let go     flushed: its ticket is released
//
// A failure (Rewind) takes everything but the last back to waiting. Where applied changes of a large transaction were let go of, to make room
// (Shed), Rewind empties the queue and asks for the stream to be read again; the tickets are kept until the transactions come again. Drop
// empties the queue for good: the primary has noted that all rows are copied.
//
// # Guarantees
//
//   - The ticket of a transaction is held once, and released once, by the word of the queue: after the flush, or after Drop.
//   - A transaction leaves the queue in the order of the source, whole, however often its parts come.
//   - The bytes of a queue are the bytes that the gate counts for the queue.
//
// The queue has no lock: the lock of the destination guards the queue. The gate has its own, under which no other lock is taken.
//
// # Rejected designs
//
// A channel of changes cannot be taken again from its front after a failure. Tickets that the queue holds and releases itself would need the ack
// tracker, and could release under the destination's lock.
package queue
