// Package destination is one external database of one tenant as the stream sees it: a queue of changes, a lifecycle, and the worker that applies the
// changes, exactly once in effect and in the order of the source's transactions. The package knows no router: what destinations share is a [Shared],
// and what a destination asks of the router is the interface router, in Shared.Router.
//
// The files follow a change: destination.go (into the queue), worker.go (the worker's loop), connect.go and open.go (a session, and what is missing in
// the database), batch.go (a run of transactions becomes a batch), toast.go (values that the batch lacks), flight.go (one round trip; rounds.go for a
// large transaction, refused.go for a refused one), commit.go (what a commit releases), durable.go (what a flush releases). A failure goes by way of
// failure.go, a parking by way of park.go.
//
// # States of a destination
//
// [lifecycle.Life] is the state of a destination: the package lifecycle has its phases, the table of all events and transitions, and a test of all
// histories. A destination tells its life of an event with happensLocked (life.go), which carries out the actions that the event asks for; no
// other line changes the life. The state that is shown follows from the life alone ([status.StateOf]).
//
// # A failed batch
//
// One place ([external.AsError]) decides the meaning of an error. A row error in a folded batch sends the same transactions again one by
// one, then change by change. The failing row is then known, and the destination halts with the row named. A refused change waits for
// the others of its transaction first, and a refused row of a copy for another pass: an external database has constraints of its
// own, which may demand another order.
//
// # Locks
//
// The lock of a destination guards the queue, the life and what the worker shares; a method that wants the lock held ends in Locked. The session, the
// batch in hand and the backfill are the worker's. Nothing waits for an external database, or for the primary, under the lock.
//
// # Rejected designs
//
// A goroutine for each destination would cost ten thousand stacks for databases without work, and would need its own wake and stop; a worker that ends
// when nothing is left needs neither. A state that each place sets as it sees fit was tried: eleven booleans told together what a destination was
// doing, and the combinations that no line of the code named were the faults. A lifecycle that calls back into the destination would hide what an event
// does: an event gives actions instead.
package destination
