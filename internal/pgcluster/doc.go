// Package pgcluster starts throwaway Postgres servers for the tests, the demo and the bench.
//
// A [Cluster] is a server of its own: data directory, port and configuration. It is found or made in this order:
//
//  1. OUTFLOW_TEST_PG_URL, a superuser's URL of a server that runs already. Only databases are made on it; what would
//     stop, crash or reconfigure it returns [ErrNotOurs].
//  2. Server binaries: the directory OUTFLOW_TEST_PG_BIN, else PATH, else /usr/lib/postgresql/*/bin, else
//     /var/cache/outflow/postgres/*/bin, else ~/.cache/outflow/postgres/*/bin. version.sh installs a major version into
//     one of the last two.
//  3. Docker, with the image postgres of the version wanted.
//
// With binaries, the postmaster is a direct child of this process, in a process group of its own, so a terminal's Ctrl-C
// leaves it to the program to stop it in order; on Linux the kernel stops it when this process dies, however it dies. Only
// the directory can be left behind then. As root, it runs as the user postgres or nobody, because Postgres refuses root.
//
// Every method of a Cluster may be called from many goroutines. Those that stop and start the server wait for each
// other; those that only talk to it fail while it is down.
//
// Tests use the package pgtest, which adds testing.TB and keeps package testing out of the program.
package pgcluster
