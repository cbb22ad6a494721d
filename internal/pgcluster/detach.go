package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// Detach lets the server run on when this process ends, on the same port, and returns the shell command to stop and remove the server.
// Detach closes the cluster. A server run from binaries is restarted on the way, since the kernel would stop the server with the process.
// For a given server Detach returns ErrNotOurs.
func (c *Cluster) Detach(ctx context.Context) (stop string, err error) {
	err = c.with(func() error {
		stop, err = c.srv.detach(ctx)
		c.closed = err == nil
		return err
	})
	return stop, err
}

// detach starts the server again by pg_ctl, which puts the server in a new session.
func (s *local) detach(ctx context.Context) (stop string, err error) {
	if err := s.stop(ctx); err != nil {
		return "", err
	}
	// A separate log: this process owns the other log, and the server may run as another user.
	log := filepath.Join(s.dir, "detached.log")
	cmd := exec.CommandContext(ctx, s.install.path("pg_ctl"), "start", "-w", "-s", "-D", s.data(), "-l", log)
	s.prepare(cmd)
	p, err := spawn(cmd, nil)
	if err != nil {
		return "", err
	}
	<-p.done
	if p.err != nil {
		return "", fmt.Errorf("pg_ctl start: %w\n%s", errors.Join(p.err, context.Cause(ctx)), tail(log, 0))
	}
	pidFile := filepath.Join(s.data(), "postmaster.pid")
	return fmt.Sprintf("kill -QUIT $(head -1 %s) && sleep 1 && rm -rf %s", pidFile, s.dir), nil
}
