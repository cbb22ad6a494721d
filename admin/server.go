package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/admin/monitor"
	"outflow/sink/ledger"
)

// Config is the parts of a Server.
type Config struct {
	Options
	Version string // of the program
	Slot    string
	// Store writes switches and requests to the primary. The server owns the store, and closes the store.
	Store *ledger.Store
	// Configuration prints the configuration with its origins, without secrets.
	Configuration func(io.Writer) error
	Log           *zap.Logger
}

// Server is the HTTP server. New makes a server, Listen takes the port, Run serves.
type Server struct {
	Config
	digest   [sha256.Size]byte // of the token
	started  time.Time
	hosts    map[string]bool
	sampler  monitor.Sampler
	events   chan struct{} // one place for each client of /events
	ending   chan struct{} // closed when the server ends: streams of events end then
	registry *prometheus.Registry
	handler  http.Handler
	listener net.Listener

	mu       sync.Mutex
	pipeline *monitor.Pipeline
	problem  error // the reason for the missing pipeline

	lookMu sync.Mutex
	looked *monitor.Snapshot

	loginMu      sync.Mutex
	loginTold    time.Time // of the last line about failed logins
	failedLogins int       // since then

	notesMu sync.Mutex
	notes   monitor.Notebook // the newest; zero while this process knows the destinations itself
}

// maxEvents bounds the clients listening to /events at the same time.
const maxEvents = 32

// New checks the options. Nothing runs and no port is taken yet.
func New(c Config) (*Server, error) {
	if c.Options.Listen == "" {
		return nil, errors.New("admin.listen is \"\": there is nothing to serve")
	}
	for _, fault := range c.Validate() {
		return nil, fmt.Errorf("admin.%s: %s", fault.Key, fault.Message)
	}
	host, _, _ := net.SplitHostPort(c.Options.Listen)
	s := &Server{Config: c, digest: sha256.Sum256([]byte(c.Token.Reveal())), started: time.Now(), hosts: map[string]bool{"localhost": true},
		events: make(chan struct{}, maxEvents), ending: make(chan struct{})}
	for _, name := range append(slices.Clone(c.Hosts), host) {
		s.hosts[hostName(name)] = true
	}
	s.sampler.Reset()
	s.sampler.Ticked = s.started
	s.registry = s.newRegistry()
	s.handler = s.routes()
	return s, nil
}

// Listen takes the port.
func (s *Server) Listen(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Options.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("admin.listen: %s is in use by another process; set another address, or \"\" for no status page", s.Options.Listen)
	case err != nil:
		return fmt.Errorf("admin.listen: %w", err)
	}
	s.listener = l
	return nil
}

// URL is the address of the dashboard, once Listen has returned.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/" }

// Attach shows and steers the given pipeline from now on; nil: there is none, and problem says why (nil where the reason is
// not known).
func (s *Server) Attach(p *monitor.Pipeline, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p != s.pipeline {
		s.sampler.Reset()
	}
	s.pipeline, s.problem = p, problem
}

// current is the attached pipeline, or nil and the reason.
func (s *Server) current() (*monitor.Pipeline, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pipeline, s.problem
}

// shutdownTimeout bounds the unfinished answers when the process ends.
const shutdownTimeout = 3 * time.Second

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	defer s.Store.Close()
	open := &connections{most: maxConnections}
	server := &http.Server{
		Handler:           s.handler,
		ConnState:         open.note,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          quiet(s.Log),
	}
	s.Log.Info("status page", zap.String("url", s.URL()), zap.Bool("token", !s.Token.IsZero()))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.sampleUntil(ctx) })
	g.Go(func() error { return s.readNotesUntil(ctx) })
	g.Go(func() error {
		if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("admin: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		close(s.ending)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			return server.Close()
		}
		return nil
	})
	return g.Wait()
}

// notesEvery is the time between two looks at the notes on the destinations, in a process not reading the slot.
const notesEvery = time.Second

// readNotesUntil keeps the notebook new while another process may be reading the slot.
func (s *Server) readNotesUntil(ctx context.Context) error {
	tick := time.NewTicker(notesEvery)
	defer tick.Stop()
	connected := false
	for {
		if p, _ := s.current(); p != nil && !p.Own() {
			book := monitor.ReadNotebook(ctx, s.Store)
			connected = true
			s.setNotes(book)
		} else if connected {
			s.setNotes(monitor.Notebook{})
			s.Store.Close()
			connected = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Server) setNotes(book monitor.Notebook) {
	s.notesMu.Lock()
	defer s.notesMu.Unlock()
	s.notes = book
}

func (s *Server) notebook() monitor.Notebook {
	s.notesMu.Lock()
	defer s.notesMu.Unlock()
	return s.notes
}

// sampleUntil has the sampler look at all destinations once a second, also while no page is open: the sparklines and the recent errors go
// five minutes back.
func (s *Server) sampleUntil(ctx context.Context) error {
	tick := time.NewTicker(monitor.SampleEvery)
	defer tick.Stop()
	for {
		p, _ := s.current()
		s.sampler.Sample(time.Now(), p)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
