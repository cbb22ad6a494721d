package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"sync"
	"time"
)

// ErrNotOurs is returned by methods impossible on a server given by OUTFLOW_TEST_PG_URL.
var ErrNotOurs = errors.New("the server was given by OUTFLOW_TEST_PG_URL and is not ours to stop or change")

// ErrNotFound is returned by Start where there are neither server binaries nor Docker. The text names the remedies.
var ErrNotFound = errors.New("no Postgres server found: install one (Debian: apt-get install postgresql), or set " +
	"OUTFLOW_TEST_PG_BIN to a directory with initdb and postgres, or OUTFLOW_TEST_PG_URL to a superuser's URL, or start Docker")

// ErrClosed is returned by every method but Close once the cluster is closed.
var ErrClosed = errors.New("the cluster is closed")

// Bounds of the time of a server before a harder way is used, or an error returned.
const (
	startTimeout     = 60 * time.Second // crash recovery on a busy machine included
	fastTimeout      = 8 * time.Second  // a walsender with a stuck client holds a fast shutdown up for minutes
	immediateTimeout = 6 * time.Second  // the postmaster itself kills its children after 5 s
)

// Options describes the wanted server. The zero value is the newest server, with the default settings.
type Options struct {
	// Settings go into postgresql.conf, on top of the defaults: wal_level logical, room for 300 connections, 20 slots,
	// 20 walsenders and 20 prepared transactions, fsync on. Values are plain; quoting is done here.
	Settings map[string]string
	// Version is the major version wanted. 0 takes the newest version of the first place of the search order with any
	// version.
	Version int
	// Dir is the parent of the data directory; Dir must exist. "" is the directory for temporary files.
	Dir string
	// Log gets the server's log as well, from one goroutine; nil is the log file only. With Log, the file may lag behind the server by a
	// moment. Not used where the server is not a child process.
	Log io.Writer
	// InitdbArgs come after the defaults (UTF8, C.UTF-8, trust) and so win over the defaults. Binaries only.
	InitdbArgs []string
}

// defaults are the settings of every cluster. Crashes must be survivable, so fsync keeps the server's default.
var defaults = map[string]string{
	"wal_level":                 "logical",
	"max_wal_senders":           "20",
	"max_replication_slots":     "20",
	"max_connections":           "300",
	"max_prepared_transactions": "20",
	"shared_buffers":            "64MB",
	"log_line_prefix":           "%m [%p] %q%u@%d %a ",
	"log_timezone":              "UTC",
	"lc_messages":               "C",
}

// server is a way to run Postgres: child process, container, or another party's.
type server interface {
	// configure keeps the settings for the next start.
	configure(ctx context.Context, settings map[string]string) error
	// start returns when connections are accepted; start does nothing to a running server.
	start(ctx context.Context) error
	// stop does nothing to a stopped server.
	stop(ctx context.Context) error
	crash(ctx context.Context) error
	killBackend(ctx context.Context, pid int) error
	log() string
	// detach lets the server run on when this process ends, see Detach.
	detach(ctx context.Context) (stop string, err error)
	remove() error
}

// errNoDocker is returned where Docker cannot be used.
var errNoDocker = errors.New("no Docker")

// Cluster is a Postgres server.
type Cluster struct {
	base url.URL // of a superuser, without the database

	mu       sync.Mutex // held while stopping, starting and configuring
	srv      server
	settings map[string]string
	closed   bool
}

// Start makes a server and returns when the server accepts connections. The context bounds the start only; the cluster
// lives until Close. The error wraps ErrNotFound where there is no Postgres, and holds the server's log where the
// server did not start.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if given := os.Getenv("OUTFLOW_TEST_PG_URL"); given != "" {
		return startGiven(ctx, given, o)
	}
	settings := maps.Clone(defaults)
	maps.Copy(settings, o.Settings)

	install, err := find(o.Version)
	if err == nil {
		return startLocal(ctx, install, o, settings)
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	c, dockerErr := startDocker(ctx, o, settings)
	if errors.Is(dockerErr, errNoDocker) {
		return nil, fmt.Errorf("pgcluster: %w (%w)", err, dockerErr)
	}
	return c, dockerErr
}

// DSN is the URL of a database for the superuser, without TLS and, but for a given server, without a password. "" is
// the database postgres. The database need not exist.
func (c *Cluster) DSN(database string) string {
	if database == "" {
		database = "postgres"
	}
	u := c.base
	u.Path = "/" + database
	return u.String()
}

// Addr is the server's host and port; both stay the same over a Restart.
func (c *Cluster) Addr() string { return c.base.Host }

// Stop shuts down fast: sessions are ended and a checkpoint is written. Where the shutdown takes longer than some
// seconds, or the context ends, Stop turns into an immediate shutdown. Stopping a stopped server is no error.
func (c *Cluster) Stop(ctx context.Context) error {
	return c.with(func() error { return c.srv.stop(ctx) })
}

// Crash kills the postmaster and all its children with SIGKILL, and waits for their end: everything outside the WAL on
// disk is lost, as in a power failure. Resume starts the server again.
func (c *Cluster) Crash(ctx context.Context) error {
	return c.with(func() error { return c.srv.crash(ctx) })
}

// Resume starts a stopped or crashed server again, on the same port and data directory, and waits for its recovery.
// Resuming a running server is no error.
func (c *Cluster) Resume(ctx context.Context) error {
	return c.with(func() error { return c.srv.start(ctx) })
}

// Restart is Stop and Resume.
func (c *Cluster) Restart(ctx context.Context) error {
	return c.with(func() error {
		if err := c.srv.stop(ctx); err != nil {
			return err
		}
		return c.srv.start(ctx)
	})
}

// Reconfigure changes settings, on top of earlier settings, and restarts the server.
func (c *Cluster) Reconfigure(ctx context.Context, settings map[string]string) error {
	return c.with(func() error {
		merged := maps.Clone(c.settings)
		maps.Copy(merged, settings)
		if err := c.srv.configure(ctx, merged); err != nil {
			return err
		}
		c.settings = merged
		if err := c.srv.stop(ctx); err != nil {
			return err
		}
		return c.srv.start(ctx)
	})
}

// KillBackend kills a server process with SIGKILL. The postmaster then ends every session and does crash recovery; the
// recovery is under way, not done, when KillBackend returns. A pid not of the server is an error.
func (c *Cluster) KillBackend(pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), immediateTimeout)
	defer cancel()
	return c.with(func() error { return c.srv.killBackend(ctx, pid) })
}

// Log is the tail of the server's log, for a test's failure; "" where the log is out of reach.
func (c *Cluster) Log() string { return c.srv.log() }

// Close stops the server at once and removes its directory. Closing twice is no error.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.srv.remove()
}

// with runs f alone, on an open cluster.
func (c *Cluster) with(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if err := f(); err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	return nil
}

// superuser is the base URL of a server trusting every user of the host.
func superuser(addr string) url.URL {
	return url.URL{Scheme: "postgres", User: url.User("postgres"), Host: addr, RawQuery: "sslmode=disable"}
}
