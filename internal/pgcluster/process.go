package pgcluster

import (
	"context"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a running command, mostly a postmaster.
type process struct {
	cmd  *exec.Cmd
	log  io.Closer     // closed at the command's end; may be nil
	done chan struct{} // closed when the command has been waited for
	err  error         // of Wait; to be read after done
}

// spawn starts a command and waits for the end in the background; then spawn closes log, unless log is nil.
func spawn(cmd *exec.Cmd, log io.Closer) (*process, error) {
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// run starts the command and waits for the end, on a thread of its own: the kernel sends the parent-death signal when
// the forking *thread* ends, and Go ends idle threads. So the thread is kept for exactly as long as the server lives.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	if p.log != nil {
		defer p.log.Close()
	}
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal asks the process to end and waits for the end, at most atMost; signal reports whether the process has ended.
func (p *process) signal(ctx context.Context, sig syscall.Signal, atMost time.Duration) bool {
	_ = p.cmd.Process.Signal(sig) // the process has ended already: seen below
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
		return !p.alive()
	}
}

// kill kills the postmaster and its children with SIGKILL and returns when all are gone. The children are killed too: a
// busy child would notice the postmaster's death only at the child's next wait. A postmaster stopped first cannot make
// a child missing from the list.
func (p *process) kill(ctx context.Context) error {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	family, err := children(p.pid())
	_ = p.cmd.Process.Kill()
	if err != nil {
		return err
	}
	for _, child := range family {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	<-p.done
	for _, child := range family {
		for running(child) {
			if !wait(ctx, pollEvery) {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}
