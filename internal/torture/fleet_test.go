package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"outflow/admin/monitor"
)

// stopsWithin bounds the end of a process after SIGTERM.
const stopsWithin = 40 * time.Second

// fleet runs outflow in two seats. A wanted seat is kept running, as Kubernetes does: an ended process is started again, with
// --slot-reset where the last words of the process ask for --slot-reset.
type fleet struct {
	w       *world
	binary  string
	running sync.WaitGroup
	seats   [2]*seat
}

// seat is a place for processes, never two at a time.
type seat struct {
	f      *fleet
	name   string
	listen string // of the admin API

	mu      sync.Mutex
	wanted  bool
	stop    chan struct{} // closed when the seat is no longer wanted
	process *process      // the present process, or the last
	armed   string        // failpoints of the next process
	inReset string        // failpoints of the next process with --slot-reset
	count   int
}

// process is an outflow process.
type process struct {
	cmd   *exec.Cmd
	log   string // the file
	ended chan struct{}
	err   error // of Wait; to be read after ended
}

func newFleet(w *world, binary string) *fleet {
	f := &fleet{w: w, binary: binary}
	for i, name := range []string{"blue", "green"} {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		must(w.t, err)
		f.seats[i] = &seat{f: f, name: name, listen: listener.Addr().String()}
		must(w.t, listener.Close())
	}
	return f
}

// want has the seat run from now on. Wanting a wanted seat does nothing.
func (s *seat) want() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted {
		return
	}
	s.wanted, s.stop = true, make(chan struct{})
	stop := s.stop
	s.f.running.Go(func() { s.supervise(stop) })
}

// supervise runs processes, never two at a time, until the seat is no longer wanted, which ends the process in order.
func (s *seat) supervise(stop chan struct{}) {
	var args []string
	for {
		p, err := s.launch(args)
		if err != nil {
			s.f.w.fail("outflow cannot be started: %v", err)
			return
		}
		select {
		case <-p.ended:
		case <-stop:
			s.terminate(p)
			return
		}
		words := p.lastWords()
		s.f.w.say("%s ended: %v: %s", s.name, p.err, words)
		args = nil
		if strings.Contains(words, "--slot-reset") {
			args = []string{"--slot-reset", "--yes"}
		}
		timer := time.NewTimer(300 * time.Millisecond)
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return
		}
	}
}

// arm gives failpoints to the next process of the seat, or to the next process with --slot-reset.
func (s *seat) arm(failpoints string, inReset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if inReset {
		s.inReset = failpoints
	} else {
		s.armed = failpoints
	}
}

// hits is the file with the failpoints reached by processes.
func (f *fleet) hits() string { return filepath.Join(f.w.dir, "failpoints") }

// launch starts a process. The thread stays: the kernel sends the parent-death signal when the starting thread ends.
func (s *seat) launch(args []string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	p := &process{log: filepath.Join(s.f.w.dir, fmt.Sprintf("outflow-%s-%03d.log", s.name, s.count)), ended: make(chan struct{})}
	p.cmd = s.f.command(append([]string{"run"}, args...)...)
	p.cmd.Env = append(p.cmd.Env, "OUTFLOW_ADMIN_LISTEN="+s.listen, "OUTFLOW_FAILPOINTS_HITS="+s.f.hits())
	armed := &s.armed
	if len(args) > 0 {
		armed = &s.inReset
	}
	p.cmd.Env = append(p.cmd.Env, "OUTFLOW_FAILPOINTS="+*armed)
	words := strings.Join(append(args, *armed), " ")
	*armed = ""
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer log.Close()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	s.process = p
	s.f.w.say("%s starts as %d %s", s.name, p.cmd.Process.Pid, words)
	return p, nil
}

// current is the newest process of the seat; nil before the first.
func (s *seat) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// command is outflow with the configuration of the run. Settings of the caller's own Postgres must not leak in.
func (f *fleet) command(args ...string) *exec.Cmd {
	cmd := exec.Command(f.binary, append(args, "--config", f.w.configFile())...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "OUTFLOW_") })
	cmd.Env = append(cmd.Env, "GORACE=halt_on_error=1 exitcode=66")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// outflow runs a command, such as pause, to the end.
func (f *fleet) outflow(ctx context.Context, args ...string) (string, error) {
	cmd := f.command(args...)
	out, err := runBounded(ctx, cmd)
	f.w.look("outflow "+args[0], out)
	if err != nil {
		return out, fmt.Errorf("outflow %s: %w: %.300s", args[0], err, out)
	}
	return out, nil
}

func runBounded(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			done <- err
			return
		}
		kill := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		defer kill()
		done <- cmd.Wait()
	}()
	err := <-done
	return out.String(), err
}

// terminate ends a process by SIGTERM, which must take effect within a bounded time.
func (s *seat) terminate(p *process) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopsWithin)
	defer timer.Stop()
	select {
	case <-p.ended:
		s.f.w.say("%s ended on request: %v", s.name, p.err)
	case <-timer.C:
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // the runtime prints all goroutines
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
		s.f.w.fail("%s did not end within %s of SIGTERM; its goroutines are in %s", s.name, stopsWithin, p.log)
	}
}

// release ends the seat's process in order and keeps the seat empty.
func (s *seat) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted {
		s.wanted = false
		close(s.stop)
	}
}

// signal sends a signal to the seat's process.
func (s *seat) signal(sig syscall.Signal) error {
	p := s.present()
	if p == nil {
		return fmt.Errorf("%s does not run", s.name)
	}
	return p.cmd.Process.Signal(sig)
}

// present is the seat's process, nil where none runs.
func (s *seat) present() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.process; p != nil && !p.gone() {
		return p
	}
	return nil
}

func (p *process) gone() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// said waits until the process has logged a text.
func (p *process) said(ctx context.Context, text string) error {
	for {
		out, err := os.ReadFile(p.log)
		switch {
		case err != nil:
			return err
		case bytes.Contains(out, []byte(text)):
			return nil
		case p.gone():
			return errors.New("the process ended")
		case !pause(ctx, 50*time.Millisecond):
			return fmt.Errorf("the process has not said %q", text)
		}
	}
}

// lastWords is the final error printed by the process, "" for a killed process.
func (p *process) lastWords() string {
	out, err := os.ReadFile(p.log)
	if at := bytes.LastIndex(out, []byte("\noutflow: ")); err == nil && at >= 0 {
		return strings.TrimSpace(fmt.Sprintf("%.600s", out[at:]))
	}
	return ""
}

// end ends all processes and looks at their logs.
func (f *fleet) end() {
	for _, s := range f.seats {
		_ = s.signal(syscall.SIGCONT)
		s.release()
	}
	f.running.Wait()
	logs, _ := filepath.Glob(filepath.Join(f.w.dir, "outflow-*.log"))
	for _, file := range logs {
		out, err := os.ReadFile(file)
		if err != nil {
			f.w.fail("%v", err)
			continue
		}
		f.w.look(file, string(out))
	}
}

// unwanted finds crashes and secrets in an output.
var unwanted = regexp.MustCompile(`panic:|panicked|fatal error:|DATA RACE|goroutine \d+ \[` + "|" + canary + "|" + adminToken)

// look looks at an output for crashes and secrets.
func (w *world) look(where, out string) {
	if at := unwanted.FindStringIndex(out); at != nil {
		w.fail("%s has %q: %.3000s", where, out[at[0]:at[1]], out[max(0, at[0]-300):])
	}
}

// ask gets a part of the admin API of the slot's reader, false where there is no reader.
func (f *fleet) ask(ctx context.Context, path string, answer any) bool {
	for _, s := range f.seats {
		var status monitor.Status
		if s.present() == nil || s.get(ctx, "/api/status", &status) != nil || status.Role != "streaming" {
			continue
		}
		if s.get(ctx, path, answer) == nil {
			return true
		}
	}
	return false
}

var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}

func (s *seat) get(ctx context.Context, path string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.listen+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	s.f.w.look(path, string(body))
	return json.Unmarshal(body, answer)
}

// states are the destinations as the slot's reader shows the destinations, by database; nil where there is no reader.
func (f *fleet) states(ctx context.Context) map[string]monitor.Destination {
	var page monitor.Page
	if !f.ask(ctx, "/api/destinations?limit=1000", &page) {
		return nil
	}
	states := map[string]monitor.Destination{}
	for _, shown := range page.Destinations {
		for _, d := range f.w.destinations {
			if d.tenant == shown.Tenant && d.name == shown.Name {
				states[d.database] = shown
			}
		}
	}
	return states
}

// reader is the seat of the slot's reader, nil where there is no reader.
func (f *fleet) reader(ctx context.Context) *seat {
	for _, s := range f.seats {
		var status monitor.Status
		if s.present() != nil && s.get(ctx, "/api/status", &status) == nil && status.Role == "streaming" {
			return s
		}
	}
	return nil
}
