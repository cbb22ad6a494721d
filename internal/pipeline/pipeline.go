package pipeline

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

// Pipeline is everything between the slot and the external databases, wired together. The exported parts may be changed before Run, and are
// safe for concurrent use afterwards.
type Pipeline struct {
	Reader  *replication.Reader
	Router  *sink.Router
	Watcher *primary.Watcher
	Ledger  *ledger.Store // the notes on the primary; Run closes the store
	Acks    *replication.AckTracker

	primary   *primary.Server
	lookup    *tableread.Lookup
	directory *directory
	log       *zap.Logger
}

// Primary is the primary that the configuration names. The error is a [config.Fault].
func Primary(cfg *config.Config) (*primary.Server, error) {
	server, err := primary.New(cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, config.Faultf("source.dsn: %w", err)
	}
	return server, nil
}

// Ledger is the store of what is noted on the primary about the configuration's slot; the caller closes the store. The error is a
// [config.Fault].
func Ledger(cfg *config.Config) (*ledger.Store, error) {
	server, err := Primary(cfg)
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
	*Plan
	static    []external.DestinationSpec
	directory *directory
}

// prepare connects to the primary and finds all faults that a person may have to correct. prepare changes nothing on the
// primary. The connection is the caller's where there is no error.
func prepare(ctx context.Context, cfg *config.Config, log *zap.Logger) (*primary.Server, *pgx.Conn, *outline, error) {
	server, err := Primary(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	var conn *pgx.Conn
	o := &outline{}
	err = primary.Ask(ctx, server, func(ctx context.Context) error {
		if conn, err = server.Connect(ctx); err != nil {
			return primary.ExplainConnect(server, err)
		}
		if o.Plan, err = NewPlan(ctx, conn, cfg, primary.Check); err == nil {
			o.static, err = o.Plan.static(ctx, conn)
		}
		if err != nil {
			primary.HangUp(conn)
		}
		return err
	})
	if err != nil {
		return nil, nil, nil, err
	}
	o.directory = newDirectory(o.Plan, o.static, log)
	return server, conn, o, nil
}

// Open connects to the primary, prepares the primary, and builds the pipeline. Each change alters the router's parts before the router is made from
// the parts. Nothing runs until Run is called.
func Open(ctx context.Context, cfg *config.Config, log *zap.Logger, change ...func(*sink.Config)) (*Pipeline, error) {
	return reopen(ctx, cfg, "", log, change...)
}

// reopen is [Open] where every destination is to be copied again, because of the gap.
func reopen(ctx context.Context, cfg *config.Config, gap string, log *zap.Logger, change ...func(*sink.Config)) (*Pipeline, error) {
	server, conn, p, err := prepare(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer primary.HangUp(conn)
	setup := p.Setup(server, log)
	setup.Gap = gap
	var found map[destinationID]destinationRow
	var source primary.Source
	var confirmed wal.LSN
	err = primary.WhileAnswering(ctx, server, primary.Patience, func(ctx context.Context) error {
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
	pl := &Pipeline{primary: server, lookup: &tableread.Lookup{Tables: tables}, Acks: replication.NewAckTracker(confirmed),
		log: log, Ledger: &ledger.Store{Slot: cfg.Source.Slot, Connect: server.Connect}}
	pl.Reader = &replication.Reader{Slot: setup.Slot, Publication: setup.Publication, Source: source, Confirmed: confirmed,
		Acks: pl.Acks, Log: log.With(zap.String("slot", cfg.Source.Slot))}
	pl.Watcher = &primary.Watcher{Setup: setup, Source: source, Log: pl.Reader.Log,
		Reading:   pl.Ledger.OwnReading,
		Streaming: func() bool { return pl.Reader.State() == replication.Streaming }}
	if cfg.Source.Heartbeat > 0 {
		pl.Reader.Heartbeat = &replication.Heartbeat{Every: cfg.Source.Heartbeat}
	}
	parts := sink.Config{Options: cfg.Sink, SourceID: source.ID, Tables: p.SinkTables(),
		Tombstones: p.sinkTombstones(), Acks: pl.Acks, Rows: pl.lookup.Rows, Log: log,
		Primary: tables, Ledger: pl.Ledger, Reader: pl.Reader, SequenceID: source.SequenceID, Covered: source.Covered}
	for _, f := range change {
		f(&parts)
	}
	pl.Router = sink.NewRouter(parts)
	pl.Reader.Sink = pl.Router
	for _, t := range p.static {
		if _, err := pl.Router.Add(t); err != nil {
			return nil, destinationFault(t.Tenant, t.Name, err)
		}
	}
	p.directory.apply(ctx, pl.Router, found)
	pl.directory = p.directory
	return pl, nil
}

// DestinationsFault is the reason why destinations.query cannot be read at the moment, or why some rows are left out; nil where all works.
// Safe for concurrent use.
func (pl *Pipeline) DestinationsFault() error { return pl.directory.fault() }

// Run reads the slot until ctx is done; then Run finishes or rolls back the work in flight and reports for the last time.
func (pl *Pipeline) Run(ctx context.Context) error {
	defer pl.Ledger.Close()
	defer pl.lookup.Close()
	defer pl.Router.Settle()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return pl.Reader.Run(ctx) })
	g.Go(func() error { return pl.Reader.Heartbeats(ctx) })
	g.Go(func() error { return pl.Router.Run(ctx) })
	g.Go(func() error { return pl.Watcher.Run(ctx) })
	g.Go(func() error { return pl.directory.run(ctx, pl) })
	return g.Wait()
}
