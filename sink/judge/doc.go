// Package judge decides which destinations are parked. The decision is a pure function ([Judge]) of what was seen at one look ([Observation],
// [Situation]) and of how long it has been so ([Hold], [Retention]); the caller brings the time.
//
// A destination is parked because of the transactions which the destination holds: for how long without progress, and how much WAL the
// slot keeps because of the transactions. The state of the destination does not count, nor the number of changes of its configuration. A destination
// which waits for others is not at fault: the time of the destination does not run.
//
// Counting failures instead of time was rejected: a database that fails fast would be parked sooner than a database that hangs.
package judge
