// Package pgtest gives tests a Postgres.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
//	func TestSomething(t *testing.T) {
//		dsn := pgtest.Database(t, pgtest.Shared(t)) // a fresh database on the test binary's own server
//
// A test which stops, crashes or reconfigures the server takes a server of its own from New.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"outflow/internal/pgcluster"
)

// cleanupTimeout bounds the work for a test after the end of the test.
const cleanupTimeout = 30 * time.Second

// shared is the cluster of the test binary. Only Shared starts it.
var shared = struct {
	start   func() (*pgcluster.Cluster, error)
	started atomic.Pointer[pgcluster.Cluster]
}{start: sync.OnceValues(func() (*pgcluster.Cluster, error) {
	// Many small databases on a server never crashed by a test: durability does not matter.
	return pgcluster.Start(context.Background(), pgcluster.Options{
		Dir:      Dir(),
		Settings: map[string]string{"fsync": "off", "full_page_writes": "off"},
	})
})}

// Dir is the parent of the clusters' directories: memory where the machine has plenty of it, "" (the directory for temporary files) elsewhere.
// CREATE DATABASE makes 300 files, which takes ten times as long on a disk, and the tests make a thousand databases. A killed server's
// files survive in memory as well.
func Dir() string {
	const memory, plenty = "/dev/shm", 8 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < plenty {
		return ""
	}
	return memory
}

// Main runs a package's tests, stops the shared cluster, and checks for leftover goroutines. Main returns the exit
// code. More goleak options name goroutines allowed to stay.
func Main(m *testing.M, allowed ...goleak.Option) int {
	code := m.Run()
	if c := shared.started.Load(); c != nil {
		if err := c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = max(code, 1)
		}
	}
	if code != 0 {
		return code // a failed test may well leave something, and the message of the test is the message to read
	}
	if err := goleak.Find(allowed...); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: goroutines are left after the tests:", err)
		return 1
	}
	return 0
}

// IgnoreServers lets goleak pass over the goroutines watching running clusters, for a check while clusters run, such as
// goleak.VerifyNone at the end of one test.
func IgnoreServers() goleak.Option {
	return goleak.IgnoreAnyFunction("outflow/internal/pgcluster.(*process).run")
}

// New starts a cluster for one test and closes the cluster at the test's end. If the test has failed by then, the end
// of the server's log is logged. Where there is no Postgres at all, the test is skipped, but fails when CI is set.
func New(tb testing.TB, o pgcluster.Options) *pgcluster.Cluster {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = Dir()
	}
	c, err := pgcluster.Start(tb.Context(), o)
	must(tb, err)
	tb.Cleanup(func() {
		logOnFailure(tb, c)
		if err := c.Close(); err != nil {
			tb.Errorf("pgtest: closing the cluster: %v", err)
		}
	})
	return c
}

// Shared returns the cluster of all tests of the test binary, and starts the cluster on first use. Tests must not stop, crash or
// reconfigure the cluster, and must keep to databases, roles and slots of their own. The package's TestMain must call Main, which stops the
// cluster. The cluster does not sync to disk.
func Shared(tb testing.TB) *pgcluster.Cluster {
	tb.Helper()
	c, err := shared.start()
	must(tb, err)
	shared.started.Store(c)
	return c
}

// Database makes a new database on a cluster and returns its DSN. At the test's end the database is dropped, with
// sessions and replication slots; if the test has failed, the end of the server's log is logged before.
func Database(tb testing.TB, c *pgcluster.Cluster) string {
	tb.Helper()
	name := uniqueName(tb.Name())
	dsn, err := c.CreateDatabase(tb.Context(), name)
	if err != nil {
		tb.Fatalf("%v\n%s", err, c.Log())
	}
	tb.Cleanup(func() {
		logOnFailure(tb, c)
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		// A server stopped or broken by the test cannot drop anything, and goes away with all its databases.
		if err := c.DropDatabase(ctx, name); err != nil {
			tb.Logf("pgtest: %s is left: %v", name, err)
		}
	})
	return dsn
}

var (
	counter  atomic.Uint64
	unusable = regexp.MustCompile(`[^a-z0-9]+`)
)

// uniqueName makes a database name from a test's: readable in logs and within 63 bytes. The pid and a counter make the
// name unique, also where several test binaries share a given server.
func uniqueName(test string) string {
	test = strings.Trim(unusable.ReplaceAllString(strings.ToLower(test), "_"), "_")
	return fmt.Sprintf("%.36s_%d_%d", test, os.Getpid(), counter.Add(1))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, pgcluster.ErrNotFound) && os.Getenv("CI") == "":
		tb.Skip(err)
	default:
		tb.Fatal(err)
	}
}

// logOnFailure logs the server's log if the test has failed.
func logOnFailure(tb testing.TB, c *pgcluster.Cluster) {
	if tb.Failed() {
		tb.Logf("the end of the server's log:\n%s", c.Log())
	}
}
