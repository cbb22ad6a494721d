// Package pipeline builds and runs what lies between the primary's replication slot and the external databases.
//
// A [Plan] is what the configuration demands of the primary: tables with their columns, tenant columns, mappings with the names of the tables. [NewPlan]
// reads the primary's catalog and changes nothing. [Open] makes a [Pipeline] of a plan: it brings the schema outflow to this version, finds the
// destinations, makes publication and slot where they are missing, and wires reader, router, watcher and directory together. Every fault for a person
// to correct is found before the slot is made, because from then on the slot holds the primary's WAL. [Run] is the whole of outflow run: it opens one
// pipeline after the other.
//
// # Why a pipeline ends, and what follows
//
//	the context is done                          Run returns nil
//	a new configuration was read (SIGHUP)        Run opens a pipeline with the new configuration; where that fails, one with the old configuration
//	another process has or had the slot          Run opens a pipeline with the same configuration, from what is noted on the primary
//	the stream does not show everything (Gap)    the same, and every destination is copied again
//	a condition that Outflow relies on is gone   Run notes the reason on the primary, and returns the error
//	any other error                              Run returns the error
//
// A primary that cannot be reached is asked again and again, when the first pipeline is opened and later: see [Unreachable]. A new configuration that has
// a fault is refused, and the old pipeline goes on; a new configuration that comes while the primary cannot be reached waits.
//
// # Destinations
//
// Destinations come from destinations.static, and from destinations.query, which the directory runs again after a notification and every refresh. One
// row's fault halts that row's destination and no other. A query that fails leaves the destinations as they are: no answer is never taken for
// no destinations. The values of the rows are bounded, by the primary, before they are read: destinations.sql.
//
// # Faults
//
// A fault of the configuration is a [outflow/internal/config.Fault]; a fault of the primary that a person removes is a
// [outflow/replication/primary.Problem] with the remedy. The packages below cmd/outflow know nothing of exit codes.
//
// # Concurrency
//
// A Plan is not changed after NewPlan, except for names of types that it looks up: one goroutine uses a Plan at a time. A Pipeline's parts have locks of their
// own. The directory has one lock, for what Fault tells, and holds the lock over no call; the rest of the directory belongs to the goroutine of run.
//
// # Rejected designs
//
// Changing the destinations of a running router for a new configuration, without a new pipeline: two ways from a configuration to a state, of which
// the rare one would be wrong first. Opening the slot before the destinations are known: a configuration with a fault would then hold WAL.
package pipeline
