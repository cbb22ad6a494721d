package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// local is a server run from binaries, as a child process.
type local struct {
	install    Install
	as         *syscall.Credential // nil is the current user
	dir        string              // holds data/ and server.log
	port       int
	copyTo     io.Writer
	postmaster *process // nil or ended while the server is down
}

// errPort is returned by start where another process has the port.
var errPort = errors.New("the port is taken")

func startLocal(ctx context.Context, install Install, o Options, settings map[string]string) (_ *Cluster, err error) {
	as, err := serverUser()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(o.Dir, as)
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	s := &local{install: install, as: as, dir: dir, copyTo: o.Log}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("pgcluster: %w", err), s.remove())
		}
	}()
	if err := s.initdb(ctx, o.InitdbArgs); err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		if s.port, err = freePort(); err != nil {
			return nil, err
		}
		if err := s.configure(ctx, settings); err != nil {
			return nil, err
		}
		err = s.start(ctx)
		if err == nil {
			addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
			return &Cluster{base: superuser(addr), srv: s, settings: settings}, nil
		}
		if !errors.Is(err, errPort) || attempt == 10 {
			return nil, err
		}
	}
}

func (s *local) data() string    { return filepath.Join(s.dir, "data") }
func (s *local) logFile() string { return filepath.Join(s.dir, "server.log") }

// initdb makes the data directory. Nothing is synced: a machine going down ends the test too.
func (s *local) initdb(ctx context.Context, extra []string) error {
	locale := "C.UTF-8"
	if runtime.GOOS == "darwin" {
		locale = "C"
	}
	args := append([]string{"-D", s.data(), "-U", "postgres", "-N", "--auth=trust", "--encoding=UTF8", "--locale=" + locale}, extra...)
	cmd := exec.CommandContext(ctx, s.install.path("initdb"), args...)
	s.prepare(cmd)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := spawn(cmd, nil)
	if err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("initdb: %w\n%s", errors.Join(p.err, context.Cause(ctx)), out.Bytes())
	}
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString("\ninclude 'cluster.conf'\n")
	return errors.Join(err, conf.Close())
}

// prepare sets the user and the directory of a command. Settings of the caller's own Postgres must not leak in.
func (s *local) prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = attributes(s.as)
	cmd.Dir = s.dir // the current directory may be closed to the server's user
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	cmd.Env = append(cmd.Env, "LC_ALL=C")
}

// configure writes the settings to a file of ours, so that tests may still use ALTER SYSTEM, which wins over the file.
func (s *local) configure(_ context.Context, settings map[string]string) error {
	all := maps.Clone(settings)
	maps.Copy(all, map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": "",
	})
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(all[name], "'", "''"))
	}
	return os.WriteFile(filepath.Join(s.data(), "cluster.conf"), []byte(text.String()), 0o644)
}

func (s *local) start(ctx context.Context) error {
	if s.postmaster != nil && s.postmaster.alive() {
		return nil
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd := exec.Command(s.install.path("postgres"), "-D", s.data())
	s.prepare(cmd)
	cmd.Stdout = log
	if s.copyTo != nil {
		cmd.Stdout = io.MultiWriter(log, s.copyTo)
	}
	cmd.Stderr = cmd.Stdout
	p, err := spawn(cmd, log)
	if err != nil {
		return err
	}
	s.postmaster = p
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.ready(ctx); err != nil {
		return s.startFailed(err, from)
	}
	return nil
}

// ready waits until the server's pid file reports a ready server, and a connection succeeds. The file comes first: a
// connection alone could be to another server, on a port our server failed to get.
func (s *local) ready(ctx context.Context) error {
	for s.status() != "ready" {
		if !s.postmaster.alive() {
			return errors.New("the server ended while starting")
		}
		if !wait(ctx, pollEvery) {
			return fmt.Errorf("the server is not ready: %w", context.Cause(ctx))
		}
	}
	base := superuser(net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
	base.Path = "/postgres"
	conn, err := pgconn.Connect(ctx, base.String())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// status is the last status written by the postmaster; "" where the pid file is missing or not the postmaster's.
func (s *local) status() string {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 8 || strings.TrimSpace(lines[0]) != strconv.Itoa(s.postmaster.pid()) {
		return ""
	}
	if status := strings.TrimSpace(lines[7]); status != "standby" {
		return status
	}
	return "ready" // a hot standby takes connections too
}

// startFailed ends the rest of a failed start and adds the server's log since the start.
func (s *local) startFailed(cause error, from int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), immediateTimeout)
	defer cancel()
	err := s.crash(ctx)
	logged := tail(s.logFile(), from)
	if strings.Contains(logged, "Address already in use") {
		cause = fmt.Errorf("%w: %w", errPort, cause)
	}
	return errors.Join(fmt.Errorf("%w\n%s", cause, logged), err)
}

func (s *local) stop(ctx context.Context) error {
	p := s.postmaster
	if p == nil || !p.alive() || p.signal(ctx, syscall.SIGINT, fastTimeout) {
		return nil
	}
	// The caller's context may have ended; a half-stopped server is of no use.
	return s.stopAtOnce(context.WithoutCancel(ctx))
}

// stopAtOnce is Postgres' immediate shutdown; the shutdown tidies up shared memory, which SIGKILL cannot.
func (s *local) stopAtOnce(ctx context.Context) error {
	p := s.postmaster
	if p == nil || !p.alive() || p.signal(ctx, syscall.SIGQUIT, immediateTimeout) {
		return nil
	}
	return s.crash(ctx)
}

func (s *local) crash(ctx context.Context) error {
	if s.postmaster == nil || !s.postmaster.alive() {
		return nil
	}
	return s.postmaster.kill(ctx)
}

func (s *local) killBackend(_ context.Context, pid int) error {
	if s.postmaster == nil || !s.postmaster.alive() {
		return errors.New("the server is down")
	}
	backends, err := children(s.postmaster.pid())
	if err != nil {
		return err
	}
	if !slices.Contains(backends, pid) {
		return fmt.Errorf("process %d is not one of the server's", pid)
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

func (s *local) log() string { return tail(s.logFile(), 0) }

func (s *local) remove() error {
	return errors.Join(s.stopAtOnce(context.Background()), os.RemoveAll(s.dir))
}

// freePort picks a port without a listener. The port lies below the system's range for outgoing connections, so no
// outgoing connection takes the port while the server is stopped.
func freePort() (int, error) {
	var last error
	for range 100 {
		port := 15000 + rand.IntN(32768-15000)
		listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("no free port: %w", last)
}

// tail returns the end of a file, at most 8 KiB and from an offset on, in whole lines.
func tail(file string, from int64) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	const most = 8 << 10
	text = text[min(from, int64(len(text))):]
	if len(text) > most {
		text = text[len(text)-most:]
		text = text[bytes.IndexByte(text, '\n')+1:]
	}
	return string(text)
}
