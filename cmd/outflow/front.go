package main

import (
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/admin"
	"outflow/admin/monitor"
	"outflow/internal/config"
	"outflow/sink/ledger"
)

// front is the status API and dashboard, nil where admin.listen is "".
type front struct{ server *admin.Server }

// newFront takes the port: a taken port is known before anything else is done.
func newFront(ctx context.Context, current func() *config.Config, version string, log *zap.Logger) (*front, error) {
	cfg := current()
	if cfg.Admin.Listen == "" {
		return nil, nil
	}
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		primary, err := primaryOf(current())
		if err != nil {
			return nil, err
		}
		return primary.Connect(ctx)
	}
	server, err := admin.New(admin.Config{Options: cfg.Admin, Version: version, Slot: cfg.Source.Slot,
		Store: &ledger.Store{Slot: cfg.Source.Slot, Connect: connect}, Configuration: func(w io.Writer) error { return current().Print(w) }, Log: log})
	if err != nil {
		return nil, &config.Fault{Err: err}
	}
	return &front{server}, server.Listen(ctx)
}

// around serves while f runs, and a moment longer: the page shows how the process ends.
func (f *front) around(ctx context.Context, run func(context.Context) error) error {
	if f == nil {
		return run(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return f.server.Run(serving) })
	g.Go(func() error {
		defer stop()
		return run(ctx)
	})
	return g.Wait()
}

// url is where the dashboard is.
func (f *front) url() string { return f.server.URL() }

// run serves until ctx is done.
func (f *front) run(ctx context.Context) error { return f.server.Run(ctx) }

// attach shows a pipeline. refused is the reason why a newer configuration is not in effect; nil without a reason.
func (f *front) attach(pl *pipeline, refused func() error) {
	if f != nil {
		fault := pl.destinationsFault
		if refused != nil {
			fault = func() error { return errors.Join(refused(), pl.destinationsFault()) }
		}
		f.server.Attach(&monitor.Pipeline{Reader: pl.reader, Router: pl.router, Acks: pl.acks, SlotStatus: pl.watcher.Last, Configuration: fault}, nil)
	}
}

func (f *front) detach(why error) {
	if f != nil {
		f.server.Attach(nil, why)
	}
}
