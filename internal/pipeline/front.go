package pipeline

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

// Front is the status API and dashboard, nil where admin.listen is "".
type Front struct{ server *admin.Server }

// NewFront takes the port: a taken port is known before anything else is done.
func NewFront(ctx context.Context, current func() *config.Config, version string, log *zap.Logger) (*Front, error) {
	cfg := current()
	if cfg.Admin.Listen == "" {
		return nil, nil
	}
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		primary, err := Primary(current())
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
	return &Front{server}, server.Listen(ctx)
}

// around serves while f runs, and a moment longer: the page shows how the process ends.
func (f *Front) around(ctx context.Context, run func(context.Context) error) error {
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

// URL is where the dashboard is.
func (f *Front) URL() string { return f.server.URL() }

// Run serves until ctx is done.
func (f *Front) Run(ctx context.Context) error { return f.server.Run(ctx) }

// Attach shows a pipeline. refused is the reason why a newer configuration is not in effect; nil without a reason.
func (f *Front) Attach(pl *Pipeline, refused func() error) {
	if f != nil {
		fault := pl.DestinationsFault
		if refused != nil {
			fault = func() error { return errors.Join(refused(), pl.DestinationsFault()) }
		}
		f.server.Attach(&monitor.Pipeline{Reader: pl.Reader, Router: pl.Router, Acks: pl.Acks, SlotStatus: pl.Watcher.Last, Configuration: fault}, nil)
	}
}

func (f *Front) detach(why error) {
	if f != nil {
		f.server.Attach(nil, why)
	}
}
