package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sql"
)

// pipeline is everything between the slot and the external databases, wired together.
type pipeline struct {
	primary *primary.Server
	reader  *replication.Reader
	router  *sink.Router
	lookup  *tableread.Lookup
	state   *ledger.Store
	watcher *primary.Watcher
	log     *zap.Logger
	acks    *replication.AckTracker

	directory *directory
}

// primaryOf is the primary that the configuration names. The error is a [config.Fault].
func primaryOf(cfg *config.Config) (*primary.Server, error) {
	server, err := primary.New(cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, config.Faultf("source.dsn: %w", err)
	}
	return server, nil
}

// stateStore is the store of what is noted on the primary about the configuration's slot; the caller closes the store. The error is a
// [config.Fault].
func stateStore(cfg *config.Config) (*ledger.Store, error) {
	server, err := primaryOf(cfg)
	if err != nil {
		return nil, err
	}
	return &ledger.Store{Slot: cfg.Source.Slot, Connect: server.Connect}, nil
}

// migrate brings the schema outflow to this program's version.
func migrate(ctx context.Context, server *primary.Server) error {
	return primary.Explain(sql.Migrate(ctx, server.Config()), "as a superuser or the database's owner run: outflow init --apply")
}

// outline is a pipeline before anything is written: the configuration, checked against the primary.
type outline struct {
	*plan
	static    []external.DestinationSpec
	directory *directory
}

// prepare connects to the primary and finds all faults that a person may have to correct. prepare changes nothing on the
// primary. The connection is the caller's where there is no error.
func prepare(ctx context.Context, cfg *config.Config, log *zap.Logger) (*primary.Server, *pgx.Conn, *outline, error) {
	server, err := primaryOf(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	var conn *pgx.Conn
	o := &outline{}
	err = asked(ctx, server, func(ctx context.Context) error {
		if conn, err = server.Connect(ctx); err != nil {
			return primary.ExplainConnect(server, err)
		}
		if o.plan, err = newPlan(ctx, conn, cfg, primary.Check); err == nil {
			o.static, err = o.plan.static(ctx, conn)
		}
		if err != nil {
			hangUp(conn)
		}
		return err
	})
	if err != nil {
		return nil, nil, nil, err
	}
	o.directory = newDirectory(o.plan, o.static, log)
	return server, conn, o, nil
}

// openPipeline connects to the primary, prepares the primary, and builds the pipeline. Nothing runs until run is called.
func openPipeline(ctx context.Context, cfg *config.Config, log *zap.Logger) (*pipeline, error) {
	return reopenPipeline(ctx, cfg, "", log)
}

// reopenPipeline is openPipeline where every destination is to be copied again, because of the gap.
func reopenPipeline(ctx context.Context, cfg *config.Config, gap string, log *zap.Logger) (*pipeline, error) {
	server, conn, p, err := prepare(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	setup := p.setup(server, log)
	setup.Gap = gap
	var found map[destinationID]destinationRow
	var source primary.Source
	var confirmed wal.LSN
	err = whileAnswering(ctx, server, primaryPatience, func(ctx context.Context) error {
		if err := migrate(ctx, server); err != nil {
			return err
		}
		// All faults for a person to correct come before a slot is made, since a slot would hold the primary's WAL from then on.
		if found, err = p.directory.read(ctx, conn); err != nil {
			return err
		}
		source, confirmed, err = setup.Ensure(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	tables := tableread.NewTables(server)
	pl := &pipeline{primary: server, lookup: &tableread.Lookup{Tables: tables}, acks: replication.NewAckTracker(confirmed),
		log: log, state: &ledger.Store{Slot: cfg.Source.Slot, Connect: server.Connect}}
	pl.reader = &replication.Reader{Slot: setup.Slot, Publication: setup.Publication, Source: source, Confirmed: confirmed,
		Acks: pl.acks, Log: log.With(zap.String("slot", cfg.Source.Slot))}
	pl.watcher = &primary.Watcher{Setup: setup, Source: source, Log: pl.reader.Log,
		Reading:   pl.state.OwnReading,
		Streaming: func() bool { return pl.reader.State() == replication.Streaming }}
	if cfg.Source.Heartbeat > 0 {
		pl.reader.Heartbeat = &replication.Heartbeat{Every: cfg.Source.Heartbeat}
	}
	pl.router = sink.NewRouter(sink.Config{Options: cfg.Sink, SourceID: source.ID, Tables: p.sinkTables(),
		Tombstones: p.sinkTombstones(), Acks: pl.acks, Rows: pl.lookup.Rows, Log: log,
		Primary: tables, Ledger: pl.state, Reader: pl.reader, SequenceID: source.SequenceID, Covered: source.Covered})
	pl.reader.Sink = pl.router
	for _, t := range p.static {
		if _, err := pl.router.Add(t); err != nil {
			return nil, destinationFault(t.Tenant, t.Name, err)
		}
	}
	p.directory.apply(ctx, pl.router, found)
	pl.directory = p.directory
	return pl, nil
}

// destinationsFault is the reason why destinations.query cannot be read at the moment, or why some rows are left out; nil where all works.
// Safe for concurrent use.
func (pl *pipeline) destinationsFault() error { return pl.directory.fault() }

// run reads the slot until ctx is done; then run finishes or rolls back the work in flight and reports for the last time.
func (pl *pipeline) run(ctx context.Context) error {
	defer pl.state.Close()
	defer pl.lookup.Close()
	defer pl.router.Settle()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return pl.reader.Run(ctx) })
	g.Go(func() error { return pl.reader.Heartbeats(ctx) })
	g.Go(func() error { return pl.router.Run(ctx) })
	g.Go(func() error { return pl.watcher.Run(ctx) })
	g.Go(func() error { return pl.directory.run(ctx, pl) })
	return g.Wait()
}
