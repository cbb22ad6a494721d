// Package replication reads one logical-replication slot of the primary and hands over the committed transactions, in
// commit order. What is asked of the primary beside the stream is in package primary; rows are read by package tableread.
//
// # What it guarantees
//
// Every committed transaction on a published table is given to the [Sink] at least once, in the order of commit, whole
// or in parts (part n before part n+1, nothing between them). After a lost connection the stream starts again at the
// slot's confirmed flush LSN, so unacknowledged transactions come again, with the same sequence id and the same
// ordinals as before, and a receiver skips transactions seen before.
//
// The flush LSN reported to the primary never passes a transaction still held in the [AckTracker].
//
// # Sequence ids
//
// Only commit LSNs are ordered; the LSNs of single changes interleave between transactions. The sequence id of a change
// is therefore the sequence id of the transaction: base + commit LSN. The sequence id is a function of the WAL alone: a
// replay gives the same id.
//
// # States
//
// A [Reader] is [Connecting], [Standby] while another process has the slot, or [Streaming]. A session is one connection: the session ends by a
// lost connection, by silence, by [Reader.Restart], by the end of the context, or by an error that ends Run (fate.go). Only the next session
// leaves Connecting or Standby.
//
// # Goroutines, locks and memory
//
// One goroutine, the caller of [Reader.Run], owns the replication connection. The goroutine reads, decodes, calls the
// Sink and sends standby status updates, also while the Sink is full: else wal_sender_timeout would end the session.
// [Reader.Heartbeats] is the loop of a second goroutine with connections of its own. The locks of AckTracker, of [Heartbeat] and of a restart
// are leaves: none is held while another is taken.
//
// Decoded changes own their memory (one allocation a change); nothing refers to the connection's read buffer.
//
// # Rejected
//
//   - Acknowledging what was received: a crash would lose what no destination has.
//   - A goroutine that reads ahead: the socket's buffer does so, and a queue more would need a bound more.
//   - protocol 2 with streamed transactions: changes of transactions that roll back would reach the destinations' queues.
package replication
