package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/mapping"
	"outflow/replication"
	"outflow/replication/wal"
	"outflow/sink"
	"outflow/sql"
)

// pipeline is everything between the slot and the external databases, wired together.
type pipeline struct {
	primary *replication.Primary
	reader  *replication.Reader
	router  *sink.Router
	lookup  *replication.Lookup
	state   *sink.StateStore
	watcher *replication.Watcher
	log     *zap.Logger
	acks    *replication.AckTracker

	directory *directory
}

// plan is the configuration's demands on the primary, checked against the primary's catalog.
type plan struct {
	mappings   mapping.Set
	tenants    []tenantColumn               // by table, the tombstones' last
	tables     []replication.PublishedTable // the tables of source.tables, in order
	tombstones *replication.PublishedTable  // nil: none
	named      [][]string                   // by table: the columns named by the operator's mappings and columns:
	// tombstoneRows: tombstones keep the deleted rows.
	tombstoneRows bool
}

// published are all tables of the publication.
func (p *plan) published() []replication.PublishedTable {
	all := slices.Clone(p.tables)
	if p.tombstones != nil {
		all = append(all, *p.tombstones)
	}
	return all
}

// loadMappings are the embedded defaults and the operator's own files.
func loadMappings(cfg *config.Config) (mapping.Set, error) {
	set := mapping.Set{}
	faults := []error{set.LoadFS(sql.Mappings(), "embedded")}
	for _, path := range cfg.Mappings {
		faults = append(faults, set.LoadPath(path))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, &config.Fault{Err: err}
	}
	return set, nil
}

// defaultMappings are the mappings of a destination that names none.
var defaultMappings = []string{"contact_channels", "users"}

// newPlan checks the primary and reads the catalog. newPlan changes nothing on the primary.
func newPlan(ctx context.Context, conn *pgx.Conn, cfg *config.Config) (*plan, error) {
	return newPlanAfter(ctx, conn, cfg, replication.Check)
}

// checkFunc is one of replication's checks, or a part of the checks.
type checkFunc func(context.Context, *pgx.Conn, []replication.TableRule) ([]*wal.Table, error)

func newPlanAfter(ctx context.Context, conn *pgx.Conn, cfg *config.Config, check checkFunc) (*plan, error) {
	set, err := loadMappings(cfg)
	if err != nil {
		return nil, err
	}
	return planWith(ctx, conn, cfg, set, check)
}

// planWith is newPlan with the given mappings.
func planWith(ctx context.Context, conn *pgx.Conn, cfg *config.Config, set mapping.Set, check checkFunc) (*plan, error) {
	var rules []replication.TableRule
	for _, t := range cfg.Source.Tables {
		schema, name := t.Qualified()
		rules = append(rules, replication.TableRule{Schema: schema, Name: name, Tenant: t.Tenant})
	}
	ts := cfg.Source.Tombstones
	if ts != nil {
		schema, name := ts.Qualified()
		rules = append(rules, replication.TableRule{Schema: schema, Name: name, Tenant: ts.Tenant, InsertsOnly: true})
	}
	tables, err := check(ctx, conn, rules)
	if err != nil {
		return nil, err
	}
	p := &plan{tombstoneRows: ts != nil && ts.Row != ""}
	p.name(tables[:len(cfg.Source.Tables)])
	p.noteTenants(tables, rules)
	p.resolve(set, tables[:len(cfg.Source.Tables)])
	rowNeeded := false
	for i, t := range cfg.Source.Tables {
		wanted := append(slices.Clone(t.Columns), t.Tenant)
		all := tables[i].Relation.Names()
		for _, m := range p.mappings {
			named, deletes := m.Columns(tables[i].Relation.Table, all)
			wanted = append(wanted, named...)
			rowNeeded = rowNeeded || !onlyKey(tables[i].Relation, deletes)
		}
		published := rules[i].Publish(tables[i], wanted)
		for _, m := range p.mappings {
			if !slices.Contains(m.Tables(), tables[i].Relation.Table) {
				published.Apart = append(published.Apart, m.Identity())
			}
		}
		p.tables = append(p.tables, published)
		p.named = append(p.named, wanted)
	}
	if ts != nil {
		wanted := []string{ts.Tenant, ts.TableName, ts.Key}
		if rowNeeded { // else the old row, with columns that no reader may see, stays on the primary
			wanted = append(wanted, ts.Row)
		}
		published := rules[len(rules)-1].Publish(tables[len(tables)-1], wanted)
		p.tombstones = &published
		if missing := missingColumns(published.Columns, wanted); len(missing) > 0 {
			return nil, &replication.Problem{
				What:   fmt.Sprintf("the tombstone table %s has no column %s", published.Relation, strings.Join(missing, ", ")),
				Remedy: "correct source.tombstones, or leave it out: a DELETE is enough"}
		}
	}
	return p, nil
}

func missingColumns(have, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(wanted), func(c string) bool { return c == "" || slices.Contains(have, c) })
}

func onlyKey(rel *wal.Relation, columns []string) bool {
	for _, c := range columns {
		if !rel.Columns[rel.Column(c)].Identity {
			return false
		}
	}
	return true
}

// primaryOf is the primary that the configuration names. The error is a [config.Fault].
func primaryOf(cfg *config.Config) (*replication.Primary, error) {
	primary, err := replication.NewPrimary(cfg.Source.DSN.Reveal())
	if err != nil {
		return nil, config.Faultf("source.dsn: %w", err)
	}
	return primary, nil
}

// stateStore is the store of what is noted on the primary about the configuration's slot; the caller closes the store. The error is a
// [config.Fault].
func stateStore(cfg *config.Config) (*sink.StateStore, error) {
	primary, err := primaryOf(cfg)
	if err != nil {
		return nil, err
	}
	return &sink.StateStore{Slot: cfg.Source.Slot, Connect: primary.Connect}, nil
}

// migrate brings the schema outflow to this program's version.
func migrate(ctx context.Context, primary *replication.Primary) error {
	return replication.Explain(sql.Migrate(ctx, primary.Config()), "as a superuser or the database's owner run: outflow init --apply")
}

func slotSetup(primary *replication.Primary, cfg *config.Config, p *plan, log *zap.Logger) replication.Setup {
	return replication.Setup{Primary: primary, Slot: cfg.Source.Slot, Publication: cfg.Source.Publication, Tables: p.published(),
		Waiting: func(n int, oldest string) {
			log.Info("creating the slot; the primary waits for older transactions to end", zap.Int("transactions", n), zap.String("oldest", oldest))
		}}
}

// outline is a pipeline before anything is written: the configuration, checked against the primary.
type outline struct {
	*plan
	static    []sink.Target
	directory *directory
}

// prepare connects to the primary and finds all faults that a person may have to correct. prepare changes nothing on the
// primary. The connection is the caller's where there is no error.
func prepare(ctx context.Context, cfg *config.Config, log *zap.Logger) (*replication.Primary, *pgx.Conn, *outline, error) {
	primary, err := primaryOf(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	var conn *pgx.Conn
	o := &outline{}
	err = asked(ctx, primary, func(ctx context.Context) error {
		if conn, err = primary.Connect(ctx); err != nil {
			return replication.ExplainConnect(primary, err)
		}
		if o.plan, err = newPlan(ctx, conn, cfg); err == nil {
			o.static, err = o.plan.static(ctx, conn, cfg)
		}
		if err != nil {
			hangUp(conn)
		}
		return err
	})
	if err != nil {
		return nil, nil, nil, err
	}
	o.directory = newDirectory(o.plan, cfg, o.static, log)
	return primary, conn, o, nil
}

// openPipeline connects to the primary, prepares the primary, and builds the pipeline. Nothing runs until run is called.
func openPipeline(ctx context.Context, cfg *config.Config, log *zap.Logger) (*pipeline, error) {
	return reopenPipeline(ctx, cfg, "", log)
}

// reopenPipeline is openPipeline where every destination is to be copied again, because of the gap.
func reopenPipeline(ctx context.Context, cfg *config.Config, gap string, log *zap.Logger) (*pipeline, error) {
	primary, conn, p, err := prepare(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	setup := slotSetup(primary, cfg, p.plan, log)
	setup.Gap = gap
	var found map[destinationID]destinationRow
	var source replication.Source
	var confirmed wal.LSN
	err = whileAnswering(ctx, primary, primaryPatience, func(ctx context.Context) error {
		if err := migrate(ctx, primary); err != nil {
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
	pl := &pipeline{primary: primary, lookup: &replication.Lookup{Primary: primary}, acks: replication.NewAckTracker(confirmed),
		log: log, state: &sink.StateStore{Slot: cfg.Source.Slot, Connect: primary.Connect}}
	pl.reader = &replication.Reader{Primary: primary, Slot: cfg.Source.Slot, Publication: cfg.Source.Publication,
		Tables: p.published(), Source: source, Confirmed: confirmed, Acks: pl.acks, Log: log.With(zap.String("slot", cfg.Source.Slot))}
	pl.watcher = &replication.Watcher{Setup: setup, Source: source, Every: cfg.Source.Heartbeat, Log: pl.reader.Log,
		Reading:   pl.state.OwnReading,
		Streaming: func() bool { return pl.reader.State() == replication.Streaming }}
	if cfg.Source.Heartbeat > 0 {
		pl.watcher.Heartbeat = &replication.Heartbeat{}
		pl.reader.Heartbeat = pl.watcher.Heartbeat
	}
	pl.router = sink.NewRouter(sink.Config{Options: sinkOptions(cfg.Sink), SourceID: source.ID, Tables: sinkTables(cfg, p.plan),
		Tombstones: sinkTombstones(cfg, p.plan), Acks: pl.acks, Rows: pl.lookup.Rows, Log: log,
		Primary: primary, State: pl.state, Reader: pl.reader, SequenceID: source.SequenceID, Covered: source.Covered})
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

// name gives each table its name in mappings: the table's own, with the schema where another table has the same name.
func (p *plan) name(tables []*wal.Table) {
	for _, t := range tables {
		rel := t.Relation
		rel.Table = wal.JoinTable("", rel.Name)
		for _, other := range tables {
			if other != t && other.Relation.Name == rel.Name {
				rel.Table = wal.JoinTable(rel.Schema, rel.Name)
			}
		}
	}
}

// resolve keeps the set with the names of the tables here. A mapping that reads other tables stays as before: order tells
// the destination that wants the mapping.
func (p *plan) resolve(set mapping.Set, tables []*wal.Table) {
	p.mappings = mapping.Set{}
	for name, m := range set {
		p.mappings[name] = m
		if resolved, err := m.Resolve(func(from string) (string, error) { return tableOf(from, tables) }); err == nil {
			p.mappings[name] = resolved
		}
	}
}

// tableOf is the configuration's name for the table in a step's from. The error text goes on behind the name.
func tableOf(from string, tables []*wal.Table) (string, error) {
	schema, name, _ := wal.SplitTable(from)
	var found []string
	for _, t := range tables {
		if rel := t.Relation; rel.Name == name && (schema == "" || rel.Schema == schema) {
			found = append(found, rel.Table)
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("which is not in source.tables")
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("which several schemas of source.tables have: write %s", strings.Join(found, " or "))
}

// resolved is a mapping with the names of the tables here.
func (p *plan) resolved(m *mapping.Mapping) (*mapping.Mapping, error) {
	var tables []*wal.Table
	for _, t := range p.tables {
		tables = append(tables, t.Table)
	}
	return m.Resolve(func(from string) (string, error) { return tableOf(from, tables) })
}

// order finds the named mappings and checks that their tables are read, and can be read.
func (p *plan) order(set mapping.Set, names []string) ([]*mapping.Mapping, error) {
	ordered, err := set.Order(names)
	if err != nil {
		return nil, err
	}
	swept := map[string]bool{}
	for i, m := range ordered {
		if ordered[i], err = p.resolved(m); err != nil {
			return nil, err
		}
		for table := range ordered[i].Keys {
			swept[table] = true
		}
	}
	for i, m := range ordered {
		for _, t := range p.tables {
			deleted := mapping.Deleted{Tenant: t.Rule.Tenant, Tombstones: p.tombstoneRows, Swept: swept[t.Relation.Table]}
			if err := ordered[i].CheckTable(t.Table, deleted); err != nil {
				return nil, fmt.Errorf("mapping %q: %w", m.Name, err)
			}
		}
	}
	return ordered, nil
}

func sinkTables(cfg *config.Config, p *plan) []sink.Table {
	tables := make([]sink.Table, len(p.tables))
	for i, t := range p.tables {
		tables[i] = sink.Table{Relation: t.Relation.Project(t.Columns), Tenant: cfg.Source.Tables[i].Tenant, Nullable: t.Ownerless}
	}
	return tables
}

func sinkTombstones(cfg *config.Config, p *plan) *sink.Tombstones {
	ts := cfg.Source.Tombstones
	if ts == nil {
		return nil
	}
	return &sink.Tombstones{Table: sink.Table{Relation: p.tombstones.Relation.Project(p.tombstones.Columns), Tenant: ts.Tenant},
		TableName: ts.TableName, Key: ts.Key, Row: ts.Row}
}

func sinkOptions(s config.Sink) sink.Options {
	return sink.Options{QueueBytes: int64(s.QueueBytes), MemoryBytes: int64(s.MemoryBytes), BatchRows: s.BatchRows,
		MaxConnections: s.MaxConnections, IdleClose: s.IdleClose, ConnectTimeout: s.ConnectTimeout,
		StatementTimeout: s.StatementTimeout, LockTimeout: s.LockTimeout, RetryMin: s.RetryMin, RetryMax: s.RetryMax, VisitEvery: s.VisitEvery,
		ShutdownTimeout: s.ShutdownTimeout, ParkAfter: s.ParkAfter, SlowAfter: s.SlowAfter, RetainedWAL: int64(s.RetainedWAL),
		Checkpoint: s.Checkpoint, Quarantine: s.OnError == "quarantine", Backfills: s.Backfills}
}

// run reads the slot until ctx is done; then run finishes or rolls back the work in flight and reports for the last time.
func (pl *pipeline) run(ctx context.Context) error {
	defer pl.state.Close()
	defer pl.lookup.Close()
	defer pl.router.Settle()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return pl.reader.Run(ctx) })
	g.Go(func() error { return pl.router.Run(ctx) })
	g.Go(func() error { return pl.watcher.Run(ctx) })
	g.Go(func() error { return pl.directory.run(ctx, pl) })
	return g.Wait()
}
