// Package faultproxy is a TCP proxy in front of a Postgres server that injects faults at the wire, for tests.
//
// The proxy passes bytes on unchanged until told otherwise, for all connections at once, open connections included.
// Every method may be called from many goroutines and at any time; a fault applies from the next chunk of bytes on. A
// chunk is the result of a single read, at most 32 KiB. Faults add up: bytes may be delayed, throttled and sliced
// together.
//
// Every connection has three goroutines; all have ended when Close returns. With TLS everything works but CutAfterQuery,
// which has to read along.
//
// # What the package guarantees
//
//   - Without faults, the bytes of both directions arrive unchanged and in order, and the end of one side reaches the other side.
//   - A reset is a TCP reset (SO_LINGER 0), not an orderly end: the client gets ECONNRESET, as from a machine that lost its power.
//   - CutAfterQuery cuts after the server got the request and before the client got the answer, which is the case that a client cannot
//     tell from a lost request.
//   - No method waits for the network. The lock mu guards faults and links, and is held only for moments; no goroutine holds mu while
//     it reads or writes.
//
// # Rejected
//
//   - A mock of the server: the interesting states are those of a real server whose client has gone.
//   - netem or iptables: they need root, and act on a whole interface; tests run in parallel.
//   - Faults inside the client's net.Conn: the kernel's buffers, keepalives and half-open connections would not take part.
package faultproxy
