// Package faultproxy is a TCP proxy in front of a Postgres server that injects faults at the wire, for tests.
//
// The proxy passes bytes on unchanged until told otherwise, for all connections at once, open connections included.
// Every method may be called from many goroutines and at any time; a fault applies from the next chunk of bytes on. A
// chunk is the result of a single read, at most 32 KiB. Faults add up: bytes may be delayed, throttled and sliced
// together.
//
// Every connection has three goroutines; all have ended when Close returns. With TLS everything works but CutAfterQuery,
// which has to read along.
package faultproxy
