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
// A fault impossible at the moment, because another fault is in the way, is logged as refused and is no failure. A fault without a
// successful heal is a failure.
package torture
