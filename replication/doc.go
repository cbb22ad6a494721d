// Package replication reads one logical-replication slot of the primary and hands over what was committed, in commit
// order.
//
// # What it guarantees
//
// Every committed transaction that touches a published table is given to the [Sink] at least once, in the order of
// commit, whole or in parts (part n before part n+1, nothing between them). After a lost connection the stream starts
// again at the slot's confirmed flush LSN, so transactions that were not acknowledged come again; they have the same
// sequence id and the same ordinals as before, and who has seen them skips them.
//
// The flush LSN that is reported to the primary never passes a transaction that somebody still holds in the [AckTracker].
//
// # Sequence ids
//
// Only commit LSNs are ordered; the LSNs of single changes interleave between transactions. The sequence id of a change
// is therefore that of its transaction: base + commit LSN. It is a function of the WAL alone: a replay gives the same id.
//
// # Goroutines and memory
//
// One goroutine, the caller of [Reader.Run], owns the replication connection. It reads, decodes, calls the Sink and sends
// standby status updates, also while the Sink is full: else wal_sender_timeout would end the session. Decoded changes own
// their memory (one allocation a change); nothing refers to the connection's read buffer.
package replication
