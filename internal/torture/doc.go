// Package torture plays a seeded schedule of faults against outflow, a separate process, while writers change the primary. The
// package has tests only.
//
//	make torture SEED=7 DURATION=90s
//
// A run has the following parts, each in a file:
//
//   - The world: a primary, two external servers, five destinations of four tenants, a proxy before each, and outflow processes.
//   - The schedule: timed faults in lanes, a pure function of seed and duration. The lanes play side by side; the faults of a
//     lane never overlap. A failing seed plays the same schedule again; the interleaving of processes is up to the machine.
//   - The writers: each transaction has a number for its writer and tenant, which stands in a ledger of the same transaction.
//   - The external databases keep a record of their own by triggers: a transaction applied twice, and a version going
//     back, are found although the tables converge.
//   - The watch: looks at each external database all the time. Each state shown is a state of the tenant on the primary,
//     and the slot never forgets a transaction before the external database has the transaction on disk.
//   - The judge: when all faults are healed, both sides become equal within a bounded time.
//
// A fault that is impossible at the moment, because another fault is in the way, is logged as refused and is no failure. A fault that cannot be
// healed is a failure.
//
// # What a green run shows
//
// During the run: no reader of an external database saw a state that the tenant's rows never had, no transaction took effect twice, no version
// went back, and the slot never passed a transaction that an external database did not have on disk. At the end: both sides are equal, by
// SQL that is independent of Outflow, and every destination streams. TestWitnessSeesFaults shows that the watch can fail: it feeds states
// that never were.
//
// # Rejected
//
//   - Faults at fixed steps of the program: the failpoints do that (make failpoints); here the faults must also meet states that no author of a
//     point thought of.
//   - One lane of faults: the faults that were found needed two at once, such as a restored external database during a takeover.
//   - A simulated clock and network: Postgres takes part, and cannot be simulated.
//   - Comparing at the end only: two wrong states that cancel each other would pass.
package torture
