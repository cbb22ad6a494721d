// Package config holds the configuration of Outflow: the values, the origin of each value, and whether the values make sense together.
//
// # Where a value comes from
//
// The command line's flag wins, then the environment (OUTFLOW_ and the path in upper case: OUTFLOW_SINK_BATCH_ROWS), then the file, then the
// default. A secret may also come from a file that OUTFLOW_..._FILE names; giving both is a fault. ${NAME} in the file is the value of
// an environment variable. source.dsn alone may also come from DATABASE_URL or from the PG* variables of libpq (the Postgres manual, 34.15).
//
// # What the package guarantees
//
//   - [Load] reports every fault, all at once, each with the place to change: line and column of the file, the flag, or the variable. The
//     error is a [Fault], which ends a command with exit code 2.
//   - An unknown key, an unknown OUTFLOW_ variable and an unknown flag are faults, so a misspelled setting never falls back to the default.
//   - A [Config] does not change after Load and is safe for concurrent use. A reload makes another Config.
//   - [Config.Print] shows every value with its origin, and no secret.
//   - After [Scrub], the environment has nothing that could change the meaning of a tenant's connection string.
//
// # One field, one setting
//
// A new setting is one field of an options struct, with key, default and range in the tag: flag, variable, check and the line of Print follow
// from the field (settings.go). A package that does the work declares its own options ([sink.Options], [admin.Options]), and the
// configuration embeds the options.
//
// # Rejected
//
//   - A configuration library: none reports all faults with line and column, and all of them accept unknown keys in some way.
//   - Reading the environment where a value is used: the value would have no origin, and would not appear in Print.
//   - Merging lists of the file with the defaults: an operator could not remove a default table.
package config
