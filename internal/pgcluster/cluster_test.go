package pgcluster_test

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // many tests break it on purpose
	return conn
}

func one[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (value T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// skipGiven skips what cannot be done to a server given by URL.
func skipGiven(t *testing.T) {
	t.Helper()
	if os.Getenv("OUTFLOW_TEST_PG_URL") != "" {
		t.Skip("the server is given by OUTFLOW_TEST_PG_URL")
	}
}

func TestDefaults(t *testing.T) {
	skipGiven(t)
	var log bytes.Buffer
	c := pgtest.New(t, pgcluster.Options{
		Settings: map[string]string{"application_name": "it's", "wal_sender_timeout": "7s"}, Log: &log,
	})
	conn := connect(t, c.DSN(""))
	for name, want := range map[string]string{
		"wal_level": "logical", "max_wal_senders": "20", "max_replication_slots": "20", "max_prepared_transactions": "20",
		"fsync": "on", "server_encoding": "UTF8", "wal_sender_timeout": "7s", "application_name": "it's",
	} {
		if got := one[string](t, conn, "SELECT current_setting($1)", name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	ok(t, c.Exec(t.Context(), "", "DO $$ BEGIN RAISE LOG 'seen in the log'; END $$"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !strings.Contains(c.Log(), "seen in the log") { // it comes through a pipe
		if ctx.Err() != nil {
			t.Fatalf("the log does not hold the server's message:\n%s", c.Log())
		}
	}
	ok(t, c.Close())
	if !strings.Contains(log.String(), "seen in the log") {
		t.Error("Options.Log did not get the server's message")
	}
}

func TestStopAndResumeKeepAddressAndRows(t *testing.T) {
	skipGiven(t)
	c := pgtest.New(t, pgcluster.Options{})
	ctx, addr := t.Context(), c.Addr()
	for name, bringDown := range map[string]func() error{
		"stop":  func() error { return c.Stop(ctx) },
		"crash": func() error { return c.Crash(ctx) },
	} {
		ok(t, c.Exec(ctx, "", "DROP TABLE IF EXISTS t; CREATE TABLE t (i int); INSERT INTO t VALUES (42)"))
		ok(t, bringDown())
		ok(t, bringDown()) // twice is no error
		if err := c.Exec(ctx, "", "SELECT 1"); err == nil {
			t.Fatalf("%s: the server still answers", name)
		}
		ok(t, c.Resume(ctx))
		ok(t, c.Resume(ctx))
		if c.Addr() != addr {
			t.Errorf("%s: the address went from %s to %s", name, addr, c.Addr())
		}
		if got := one[int](t, connect(t, c.DSN("")), "SELECT i FROM t"); got != 42 {
			t.Errorf("%s: read %d, want 42", name, got)
		}
	}
	ok(t, c.Restart(ctx))
	ok(t, c.Reconfigure(ctx, map[string]string{"work_mem": "7MB"}))
	ok(t, c.Reconfigure(ctx, map[string]string{"max_wal_senders": "9"}))
	conn := connect(t, c.DSN(""))
	if got := one[string](t, conn, "SHOW work_mem") + one[string](t, conn, "SHOW max_wal_senders"); got != "7MB9" {
		t.Errorf("settings after two changes: %s", got)
	}
}

// A busy backend does not notice by itself that its postmaster has died.
func TestCrashEndsBusyBackends(t *testing.T) {
	skipGiven(t)
	c := pgtest.New(t, pgcluster.Options{})
	conn := connect(t, c.DSN(""))
	pid := int(conn.PgConn().PID())
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$")
		ended <- err
	}()
	watcher := connect(t, c.DSN(""))
	for one[int](t, watcher, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND query LIKE 'DO%' AND state = 'active'", pid) == 0 {
	}
	ok(t, c.Crash(t.Context()))
	if state := processState(pid); state != "" && state != "Z" {
		t.Errorf("backend %d still runs (%s) after Crash", pid, state)
	}
	if err := <-ended; err == nil {
		t.Error("the statement of a crashed server ended well")
	}
	ok(t, c.Resume(t.Context()))
}

// processState is the state letter of a process, "" where there is none.
func processState(pid int) string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))[0]
}

func TestKillBackend(t *testing.T) {
	skipGiven(t)
	c := pgtest.New(t, pgcluster.Options{})
	conn, other := connect(t, c.DSN("")), connect(t, c.DSN(""))
	if err := c.KillBackend(os.Getpid()); err == nil {
		t.Fatal("a process that is not the server's was killed")
	}
	ok(t, c.KillBackend(int(conn.PgConn().PID())))
	if _, err := other.Exec(t.Context(), "SELECT pg_sleep(30)"); err == nil {
		t.Error("the other session outlived the crash of a backend")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for c.Exec(ctx, "", "SELECT 1") != nil { // until crash recovery is over
		ok(t, ctx.Err())
	}
}

func TestDropConnectionsAndDatabaseWithWalsender(t *testing.T) {
	c := pgtest.Shared(t)
	ctx := t.Context()
	const name = `odd "name"`
	dsn, err := c.CreateDatabase(ctx, name)
	ok(t, err)
	bystander := connect(t, pgtest.Database(t, c))
	client := connect(t, dsn)
	walsender := startWalsender(t, dsn)

	ok(t, c.DropConnections(ctx, name))
	if _, err := client.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("the client's session outlived DropConnections")
	}
	for err == nil {
		_, err = walsender.ReceiveMessage(ctx)
	}
	ok(t, ctx.Err())
	one[int](t, bystander, "SELECT 1")

	startWalsender(t, dsn) // the slot is active again
	ok(t, c.Exec(ctx, name, "BEGIN; CREATE TABLE p (); PREPARE TRANSACTION 'left'"))
	ok(t, c.DropDatabase(ctx, name))
	ok(t, c.DropDatabase(ctx, name))
}

// startWalsender streams from a slot of its own in a database.
func startWalsender(t *testing.T, dsn string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), dsn+"&replication=database")
	ok(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // the server has ended it
	slot := "walsender_" + strconv.Itoa(int(conn.PID()))
	_, err = conn.Exec(t.Context(), "CREATE_REPLICATION_SLOT "+slot+" LOGICAL pgoutput NOEXPORT_SNAPSHOT").ReadAll()
	ok(t, err)
	conn.Exec(t.Context(), "START_REPLICATION SLOT "+slot+" LOGICAL 0/0 (proto_version '1', publication_names 'p')")
	for active := false; !active; {
		watcher := connect(t, dsn)
		active = one[bool](t, watcher, "SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot)
		ok(t, watcher.Close(t.Context()))
	}
	return conn
}

func TestDatabasesAreApart(t *testing.T) {
	c := pgtest.Shared(t)
	a, b := pgtest.Database(t, c), pgtest.Database(t, c)
	if a == b {
		t.Fatalf("two databases with the DSN %s", a)
	}
	u, err := url.Parse(a)
	ok(t, err)
	name := strings.TrimPrefix(u.Path, "/")
	if got := one[string](t, connect(t, a), "SELECT current_database()"); got != name || c.DSN(name) != a {
		t.Errorf("connected to %s, the DSN is %s", got, a)
	}
}

// Ports and directories must not clash.
func TestManyClustersAtOnce(t *testing.T) {
	skipGiven(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			c, err := pgcluster.Start(t.Context(), pgcluster.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(c.Exec(t.Context(), "", "SELECT 1"), c.Close(), c.Close()); err != nil {
				t.Error(err)
			}
			if err := c.Resume(t.Context()); !errors.Is(err, pgcluster.ErrClosed) {
				t.Errorf("Resume after Close: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestFailedStartShowsTheLogAndLeavesNothing(t *testing.T) {
	skipGiven(t)
	dir, err := os.MkdirTemp("", "outflow-parent-")
	ok(t, err)
	defer os.RemoveAll(dir)
	ok(t, os.Chmod(dir, 0o755))
	_, err = pgcluster.Start(t.Context(), pgcluster.Options{Dir: dir, Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("the error does not show the cause: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d entries are left in the directory", len(left))
	}
}

func TestGivenServer(t *testing.T) {
	owner := pgtest.Shared(t)
	t.Setenv("OUTFLOW_TEST_PG_URL", owner.DSN(""))
	c := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "on"}})
	ctx := t.Context()
	one[int](t, connect(t, pgtest.Database(t, c)), "SELECT 1")
	for name, err := range map[string]error{
		"Stop": c.Stop(ctx), "Crash": c.Crash(ctx), "Restart": c.Restart(ctx), "Resume": c.Resume(ctx),
		"KillBackend": c.KillBackend(1), "Reconfigure": c.Reconfigure(ctx, nil),
	} {
		if !errors.Is(err, pgcluster.ErrNotOurs) {
			t.Errorf("%s: %v, want ErrNotOurs", name, err)
		}
	}
	ok(t, c.Close())
	ok(t, owner.Exec(ctx, "", "SELECT 1"))
	for _, o := range []pgcluster.Options{{Version: 9}, {Settings: map[string]string{"max_wal_senders": "3"}}} {
		if _, err := pgcluster.Start(ctx, o); !errors.Is(err, pgcluster.ErrNotOurs) {
			t.Errorf("Start(%+v): %v, want ErrNotOurs", o, err)
		}
	}
}

func TestSearchOrder(t *testing.T) {
	skipGiven(t)
	installed := pgcluster.Installed()
	if len(installed) == 0 {
		t.Skip("no server binaries here")
	}
	t.Run("OUTFLOW_TEST_PG_BIN is the only place", func(t *testing.T) {
		t.Setenv("OUTFLOW_TEST_PG_BIN", installed[0].Dir)
		if got := pgcluster.Installed(); len(got) != 1 || got[0] != installed[0] {
			t.Errorf("found %v, want only %v", got, installed[0])
		}
	})
	t.Run("a link on PATH is followed", func(t *testing.T) {
		dir := t.TempDir()
		ok(t, os.Symlink(filepath.Join(installed[0].Dir, "postgres"), filepath.Join(dir, "postgres")))
		t.Setenv("PATH", dir)
		if got := pgcluster.Installed(); len(got) == 0 || got[0] != installed[0] {
			t.Errorf("found %v, want %v first", got, installed[0])
		}
	})
	t.Run("an unusable OUTFLOW_TEST_PG_BIN is an error", func(t *testing.T) {
		t.Setenv("OUTFLOW_TEST_PG_BIN", t.TempDir())
		if _, err := pgcluster.Start(t.Context(), pgcluster.Options{}); err == nil || errors.Is(err, pgcluster.ErrNotFound) {
			t.Errorf("Start: %v", err)
		}
	})
	t.Run("a version that is missing", func(t *testing.T) {
		t.Setenv("DOCKER_HOST", "unix:///nonexistent")
		_, err := pgcluster.Start(t.Context(), pgcluster.Options{Version: 9})
		if !errors.Is(err, pgcluster.ErrNotFound) || !strings.Contains(err.Error(), "apt-get install") {
			t.Errorf("Start: %v, want ErrNotFound with a remedy", err)
		}
	})
}
