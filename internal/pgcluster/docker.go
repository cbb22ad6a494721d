//go:build docker

package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// dockerVersion is the major version taken where none is asked for.
const dockerVersion = 17

// container is a server in Docker. The settings are written by ALTER SYSTEM: a container's command line cannot be
// changed without losing the data, and would win over a later Reconfigure.
type container struct {
	client *docker.Client
	id     string
	addr   string
}

func startDocker(ctx context.Context, o Options, settings map[string]string) (*Cluster, error) {
	const silent = "no Docker daemon answers"
	pool, err := dockertest.NewPool("")
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errNoDocker, silent, err)
	}
	pingCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := pool.Client.PingWithContext(pingCtx); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errNoDocker, silent, err)
	}
	port, err := freePort() // a fixed port: Docker would choose another at each start
	if err != nil {
		return nil, err
	}
	version := o.Version
	if version == 0 {
		version = dockerVersion
	}
	resource, err := pool.RunWithOptions(&dockertest.RunOptions{
		Repository: "postgres",
		Tag:        strconv.Itoa(version),
		Env:        []string{"POSTGRES_HOST_AUTH_METHOD=trust", "LANG=C.UTF-8", "POSTGRES_INITDB_ARGS=--no-sync"},
		PortBindings: map[docker.Port][]docker.PortBinding{
			"5432/tcp": {{HostIP: "127.0.0.1", HostPort: strconv.Itoa(port)}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("pgcluster: docker: %w", err)
	}
	s := &container{client: pool.Client, id: resource.Container.ID, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if err := s.first(ctx, settings); err != nil {
		return nil, errors.Join(fmt.Errorf("pgcluster: docker: %w\n%s", err, s.log()), s.remove())
	}
	return &Cluster{base: superuser(s.addr), srv: s, settings: settings}, nil
}

// first applies the settings to a fresh container.
func (s *container) first(ctx context.Context, settings map[string]string) error {
	// The image runs a first server for the set-up, which listens on a socket only: the server answering here is the real server.
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.configure(ctx, settings); err != nil {
		return err
	}
	if err := s.stop(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}

func (s *container) configure(ctx context.Context, settings map[string]string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := strings.ReplaceAll(settings[name], "'", "''")
		sql := fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", pgx.Identifier{name}.Sanitize(), value)
		if err := conn.Exec(ctx, sql).Close(); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

func (s *container) start(ctx context.Context) error {
	err := s.client.StartContainerWithContext(s.id, nil, ctx)
	var already *docker.ContainerAlreadyRunning
	if err != nil && !errors.As(err, &already) {
		return err
	}
	return s.ready(ctx)
}

// ready waits until connections are accepted. Docker's proxy takes a connection before the server does, so the attempts
// are bounded each.
func (s *container) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		conn, err := s.connect(attempt)
		if err == nil {
			err = conn.Close(attempt)
		}
		cancel()
		if err == nil {
			return nil
		}
		if !wait(ctx, 10*pollEvery) {
			return fmt.Errorf("the server is not ready: %w", err)
		}
	}
}

func (s *container) connect(ctx context.Context) (*pgconn.PgConn, error) {
	base := superuser(s.addr)
	base.Path = "/postgres"
	return pgconn.Connect(ctx, base.String())
}

// stop sends SIGINT, the stop signal of the image: a fast shutdown. Docker kills the container afterwards.
func (s *container) stop(ctx context.Context) error {
	err := s.client.StopContainerWithContext(s.id, uint(fastTimeout/time.Second), ctx)
	return unlessDown(err)
}

// crash kills the container's first process; the kernel kills the others with it.
func (s *container) crash(ctx context.Context) error {
	err := s.client.KillContainer(docker.KillContainerOptions{ID: s.id, Signal: docker.SIGKILL, Context: ctx})
	if err != nil {
		return unlessDown(err)
	}
	_, err = s.client.WaitContainerWithContext(s.id, ctx)
	return err
}

// unlessDown drops the error of a container not running.
func unlessDown(err error) error {
	var down *docker.ContainerNotRunning
	if errors.As(err, &down) {
		return nil
	}
	return err
}

// killBackend takes the server's pid, in the container's own numbering.
func (s *container) killBackend(ctx context.Context, pid int) error {
	made, err := s.client.CreateExec(docker.CreateExecOptions{
		Container: s.id, Context: ctx, AttachStderr: true,
		Cmd: []string{"bash", "-c", "kill -KILL " + strconv.Itoa(pid)},
	})
	if err != nil {
		return err
	}
	var said bytes.Buffer
	if err := s.client.StartExec(made.ID, docker.StartExecOptions{Context: ctx, ErrorStream: &said}); err != nil {
		return err
	}
	result, err := s.client.InspectExec(made.ID)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("killing process %d: %s", pid, said.String())
	}
	return err
}

func (s *container) log() string {
	var out bytes.Buffer
	err := s.client.Logs(docker.LogsOptions{
		Container: s.id, OutputStream: &out, ErrorStream: &out, Stdout: true, Stderr: true, Tail: "60",
	})
	if err != nil {
		return err.Error()
	}
	return out.String()
}

// detach has nothing to do: Docker runs the server on.
func (s *container) detach(context.Context) (stop string, err error) {
	return "docker rm -f -v " + s.id, nil
}

func (s *container) remove() error {
	return s.client.RemoveContainer(docker.RemoveContainerOptions{ID: s.id, Force: true, RemoveVolumes: true})
}
