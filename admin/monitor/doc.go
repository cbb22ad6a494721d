// Package monitor looks at a pipeline and says how the pipeline is: the state of the process, of the slot and of every destination, with reasons
// in words, as the status API and the dashboard show them and `outflow status` prints them.
//
// A [Snapshot] is the process at one moment and never changes. A process that reads the slot knows the destinations itself; any other process,
// a standby or a command, has the notes on the primary ([Notebook]), and says so. A value that is not known is nil, never 0.
//
// A [Sampler] looks at all destinations once a second: rates, the points of the sparklines and recent errors come from the sampler. A snapshot
// and a sample lock each destination for an instant, one after the other, never two at once: the numbers of two destinations may be of two moments.
// A copy of all states under one lock would be of one moment, and would hold up the reader at ten thousand destinations.
package monitor
