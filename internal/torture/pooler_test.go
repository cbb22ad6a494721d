package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
)

// pooler is a pgbouncer in transaction mode before a server.
type pooler struct {
	addr string
	file string // configuration
	log  string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// newPooler starts a pgbouncer; nil where the machine has none.
func newPooler(w *world, server *targetServer) *pooler {
	if _, err := exec.LookPath("pgbouncer"); err != nil {
		w.t.Logf("no destination is behind a pooler: %v (apt-get install pgbouncer)", err)
		return nil
	}
	host, port, err := net.SplitHostPort(server.Addr())
	must(w.t, err)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	must(w.t, err)
	p := &pooler{addr: listener.Addr().String()}
	must(w.t, listener.Close())
	_, own, _ := net.SplitHostPort(p.addr)
	dir, err := os.MkdirTemp("", "outflow-torture-pooler-") // of a user who may not enter the directory of the run
	must(w.t, err)
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(w.t, os.Chmod(dir, 0o755))
	p.file, p.log = filepath.Join(dir, "pgbouncer.ini"), filepath.Join(w.dir, "pgbouncer.log")
	users := filepath.Join(dir, "users")
	must(w.t, os.WriteFile(users, []byte(`"postgres" ""`+"\n"), 0o644))
	must(w.t, os.WriteFile(p.file, fmt.Appendf(nil, "[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\n"+
		"auth_type = trust\nauth_file = %s\npool_mode = transaction\nserver_login_retry = 1\nmax_client_conn = 100\n", host, port, own, users), 0o644))
	w.t.Cleanup(p.kill)
	must(w.t, p.start(w.t.Context()))
	return p
}

// start starts pgbouncer where pgbouncer does not run, and waits until connections are taken.
func (p *pooler) start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cmd, ended, started := exec.Command("pgbouncer", p.file), make(chan struct{}), make(chan error)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: unprivileged()}
	go func() {
		runtime.LockOSThread() // see seat.launch
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.cmd, p.ended = cmd, ended
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr)
		if err == nil {
			return conn.Close()
		}
		if !pause(ctx, pollEvery) {
			return err
		}
	}
}

// kill is kill -9.
func (p *pooler) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.cmd = nil
	}
}

// unprivileged is the user of pgbouncer, which refuses root; nil is the present user.
func unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("nobody")
	if err != nil {
		return nil
	}
	uid, _ := strconv.ParseUint(account.Uid, 10, 32)
	gid, _ := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func killPooler(_ context.Context, w *world, _ *rand.Rand) (heal, error) {
	if w.pooler == nil {
		return nil, fmt.Errorf("there is no pooler")
	}
	w.pooler.kill()
	return w.pooler.start, nil
}
