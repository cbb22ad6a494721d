// Package pipeline builds and runs everything between the primary's replication slot and the external databases.
//
// A [Plan] is the configuration's demands on the primary: tables with their columns, tenant columns, mappings with the names of the tables.
// [NewPlan] reads the primary's catalog and changes nothing. [Open] makes a [Pipeline] of a plan: Open brings the schema outflow to this version,
// finds the destinations, makes publication and slot where they are missing, and wires reader, router, watcher and directory together. Open finds
// every fault for a person to correct before it makes the slot, because from then on the slot holds the primary's WAL. [Run] is the whole of
// outflow run, and opens one pipeline after the other.
//
// # Why a pipeline ends, and the next step
//
//	the context is done                        Run returns nil
//	a new configuration was read (SIGHUP)      Run opens a pipeline with the new configuration or, if that fails, with the old configuration
//	another process has or had the slot        Run opens a pipeline with the same configuration, from the notes on the primary
//	the stream has a gap                       the same, and every destination is copied again
//	a condition that Outflow relies on ended   Run notes the reason on the primary and returns the error
//	any other error                            Run returns the error
//
// A primary that cannot be reached is asked again until the primary answers: see [Unreachable]. A new configuration with a fault is refused, and the
// old pipeline goes on. A new configuration waits while the primary cannot be reached.
//
// # Destinations
//
// Destinations come from destinations.static and from destinations.query. The directory runs the query again after a notification and every
// refresh. A fault of one row halts the destination of the row and no other destination. A query that fails leaves the destinations as they are:
// no answer is never taken for no destinations. The primary bounds the values of the rows before they are sent: destinations.sql.
//
// # Faults
//
// A fault of the configuration is a [outflow/internal/config.Fault]; a fault of the primary that a person removes is a
// [outflow/replication/primary.Problem] with the remedy. Only package command knows exit codes.
//
// # Concurrency
//
// One goroutine uses a Plan at a time: a Plan looks up names of types when the names are first needed. The parts of a Pipeline have locks of their
// own. The directory has one lock, for the answer of DestinationsFault, and calls nothing with the lock held; the rest of the directory belongs to
// the goroutine of Run. The reloading has one lock, for the configuration and the reason of the last refusal, and calls nothing with the lock held.
//
// # Rejected designs
//
// Changing the destinations of a running router for a new configuration, without a new pipeline: two ways would lead from a configuration to a
// state, and the rare way would be wrong first. Making the slot before the destinations are known: a configuration with a fault would hold WAL.
package pipeline
