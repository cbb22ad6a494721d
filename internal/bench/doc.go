// Package bench measures Outflow beside Postgres' own logical replication, for outflow bench.
//
// Both contenders replicate the same rows on the same two servers, in turns and in alternating order: machines drift, so only the ratio of such
// pairs means something. A backlog is drained and timed; a steady load shows the latency from the answer to COMMIT to the row on the target. Each
// measurement has databases of its own, and is verified by count and checksum over both tables. Everything is removed at the end, also when the
// context is done.
//
// The target tells of rows by NOTIFY, which costs both contenders the same. A reader that polls was rejected: polling took a good part of two cores
// from the contender under measurement.
package bench
