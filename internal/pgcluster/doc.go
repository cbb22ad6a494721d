// Package pgcluster starts throwaway Postgres servers for the tests, the demo and the bench.
//
// A [Cluster] is a server of its own: data directory, port and configuration. The server is found or made in the
// following order:
//
//  1. OUTFLOW_TEST_PG_URL, a superuser's URL of a running server. Only databases are made on such a server; methods to
//     stop, crash or reconfigure the server return [ErrNotOurs].
//  2. Server binaries: the directory OUTFLOW_TEST_PG_BIN, else PATH, else /usr/lib/postgresql/*/bin, else
//     /var/cache/outflow/postgres/*/bin, else ~/.cache/outflow/postgres/*/bin. version.sh installs a major version into
//     either of the last two.
//  3. Docker, with the image postgres of the version wanted, where the program is built with the tag docker (make test, make demo and make
//     bench set the tag). The released program holds no client of Docker's.
//
// With binaries, the postmaster is a direct child of the program's process, in a process group of its own, so a terminal's Ctrl-C leaves an
// orderly stop to the program; on Linux the kernel stops the postmaster when the program dies, however the program dies. Only the directory
// can be left behind then. Under root, the postmaster runs as the user postgres or nobody, because Postgres refuses root.
//
// Every method of a Cluster may be called from many goroutines. Methods which stop and start the server wait for each
// other; methods which only talk to the server fail while the server is down.
//
// # States
//
// A Cluster runs after [Start]. Stop and Crash end the server, Resume starts the server again, Close removes the server and its directory, and
// every later method returns [ErrClosed]. Stopping a stopped server and starting a running one do nothing. The lock mu is held while the
// server is stopped, started or configured, and no other lock is taken under mu.
//
// # Rejected
//
//   - Docker first: a container takes seconds to start and cannot be killed like a process; kill -9 of the postmaster and of single backends is
//     what the tests are about.
//   - pg_ctl start: the postmaster would be no child of the program, and would outlive a program that dies.
//   - A shared server for everything: tests change wal_level, fsync and max_slot_wal_keep_size, and crash the server.
//   - A mock of Postgres, or an embedded one: the guarantees are about the real server's WAL, locks and visibility.
//
// Tests use the package pgtest, which adds testing.TB and keeps package testing out of the program.
package pgcluster
