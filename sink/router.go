package sink

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/destination"
	"outflow/sink/external"
	"outflow/sink/fold"
	"outflow/sink/ledger"
	"outflow/sink/limits"
	"outflow/sink/queue"
	"outflow/sink/schema"
)

// Tombstones is a table whose inserted rows name deleted rows of other tables.
type Tombstones struct {
	Table               external.SourceTable
	TableName, Key, Row string // columns; Row may be "" where no mapping needs more than the key
}

// Config is the parts of a Router.
type Config struct {
	Options    Options
	SourceID   string // the source as the metadata of external databases names the source: with tenant and name, the owner
	Tables     external.SourceTables
	Tombstones *Tombstones // nil: none
	Acks       *replication.AckTracker
	// Rows reads current rows of the primary by key, for values that an UPDATE left in TOAST: see [tableread.Lookup.Rows].
	Rows    func(context.Context, tableread.Look) (tableread.Found, error)
	Primary *tableread.Tables // where backfills read
	Ledger  *ledger.Store
	Reader  destination.Reader
	// Covered is a place in the WAL: every destination is copied from the tables after Covered, so that earlier changes need not be
	// understood.
	Covered wal.LSN
	// SequenceID is the id of a transaction that committed at the given place.
	SequenceID func(wal.LSN) int64
	Log        *zap.Logger
	Tracer     trace.Tracer // of batches; nil: none
}

// Router hands every change to the destinations of its tenant. Router implements [replication.Sink]; the reader's goroutine calls Write,
// everything else is safe for concurrent use.
type Router struct {
	config Config

	// What is routed, and where to. The reader's goroutine owns routes and arrival.
	tenants    *tenants
	counts     tableCounts
	routes     map[*wal.Relation]*route
	arrival    arrival
	membership membership

	// What all destinations share.
	shared *destination.Shared
	xids   *fold.XIDs

	// What is noted on the primary.
	checkpointer checkpointer
	switches     switches
}

// route is the router's knowledge of a relation.
type route struct {
	table     string // as mappings name the table; "" is not routed
	tenant    int    // index of the tenant column
	nullable  bool   // the tenant column may be NULL: such rows have no tenant
	fault     string // why the stream does not say whose rows are changed; "" where the stream does
	tombstone bool
	count     *tableCount
}

// NewRouter returns a router without destinations.
func NewRouter(c Config) *Router {
	r := &Router{config: c, tenants: newTenants(), arrival: arrival{id: -1}, routes: map[*wal.Relation]*route{}, xids: fold.NewXIDs()}
	schemas, workers := schema.New(c.Tables, c.Primary, c.Log), limits.NewWorkers()
	r.shared = &destination.Shared{Options: c.Options.WorkOptions, SourceID: c.SourceID, Log: c.Log, Tracer: c.Tracer, Acks: c.Acks, Ledger: c.Ledger, Reader: c.Reader,
		Rows: c.Rows, SequenceID: c.SequenceID, Workers: workers, Gate: &queue.Gate{Limit: c.Options.queuesBytes()},
		Lookups: limits.NewMemory(c.Options.lookupBytes()/2, 2, 2), Connections: external.NewConnections(c.Options.MaxConnections),
		BackfillSlots: limits.NewSlots(c.Options.Backfills, c.Options.SlowAfter), Schemas: schemas, Router: asRouter{r},
		Copying: &backfill.Shared{Tables: c.Primary, Schemas: schemas, Relearn: schemas.Relearn, XIDs: r.xids,
			Memory: limits.NewMemory(c.Options.copyBytes()/2, 2, limits.ChunksPerSlot*max(c.Options.Backfills, 1)),
			Intake: workers.Intake, Start: workers.Start, SequenceID: c.SequenceID, CheckpointID: r.checkpointer.checkpointID,
			AnswerTimeout: c.Options.AnswerTimeout(), Quarantine: c.Options.Quarantines()}}
	for _, t := range c.Tables {
		r.counts.add(t.Relation)
	}
	if ts := c.Tombstones; ts != nil {
		r.counts.add(ts.Table.Relation)
	}
	return r
}

// Add adds a destination before the router begins. Afterwards, [Router.Put] adds destinations.
func (r *Router) Add(t external.DestinationSpec) (*destination.Destination, error) {
	d, err := destination.New(r.shared, t)
	if err != nil {
		return nil, err
	}
	r.tenants.insert(d)
	return d, nil
}

// Options are the options that the router was made with.
func (r *Router) Options() Options { return r.config.Options }

// Destinations are all destinations, in the order of their addition.
func (r *Router) Destinations() []*destination.Destination {
	return r.tenants.list()
}

// Full implements [replication.Sink]. A reading switched off stops between transactions: the end of an open transaction must come, or the
// transaction would keep locks in external databases.
func (r *Router) Full() <-chan struct{} {
	if held := r.shared.Gate.Held(); held != nil && !r.arrival.inside {
		return held
	}
	return r.shared.Gate.Full()
}

// Write implements [replication.Sink]: it queues the changes of one part at the destinations of their tenants.
func (r *Router) Write(part *wal.Transaction) error {
	r.shared.LastPart.Set(time.Now())
	if part.SequenceID != r.arrival.id {
		r.xids.Add(part.XID) // before the arrival of a destination that does not get the transaction
		r.tenants.arrive(part.SequenceID)
		r.arrival.begin(part.SequenceID)
	}
	r.arrival.inside = !part.Last
	r.count(part)
	changes := part.Changes
	for i := 0; i < len(changes); {
		rt := r.route(changes[i].Relation)
		skipped, err := r.skip(part, &changes[i], rt)
		switch {
		case err != nil:
			return err
		case skipped:
			i++
		case rt.tombstone:
			if err := r.tombstone(part, &changes[i], rt); err != nil {
				return err
			}
			i++
		case changes[i].Kind == wal.Truncate:
			r.toAll(part, changes[i:i+1])
			i++
		case changes[i].Kind == wal.Update && r.tenantMoved(&changes[i], rt):
			r.moveTenant(part, &changes[i], rt)
			i++
		default:
			tenant := tenantOf(&changes[i], rt)
			n := i + 1
			for n < len(changes) && r.sameRun(&changes[n], tenant) {
				n++
			}
			r.toTenant(part, string(tenant), changes[i:n:n])
			i = n
		}
	}
	if part.Last {
		for _, d := range r.arrival.touched {
			d.Complete(part.SequenceID)
		}
	}
	return nil
}

// sameRun reports whether the change goes unchanged to the tenant.
func (r *Router) sameRun(c *wal.Change, tenant []byte) bool {
	rt := r.route(c.Relation)
	return rt.table != "" && !rt.tombstone && c.Kind != wal.Truncate && rt.unclear(c) == "" && !rt.withoutTenant(c) &&
		(c.Kind != wal.Update || !r.tenantMoved(c, rt)) && string(tenantOf(c, rt)) == string(tenant)
}

func tenantOf(c *wal.Change, rt *route) []byte {
	if c.Kind == wal.Delete {
		return c.Old.Value(rt.tenant).Text
	}
	return c.New.Value(rt.tenant).Text
}

func (r *Router) tenantMoved(c *wal.Change, rt *route) bool {
	return !c.Old.IsZero() && string(c.Old.Value(rt.tenant).Text) != string(c.New.Value(rt.tenant).Text)
}

// moveTenant splits an update that gave a row to another tenant into a delete at the old tenant and an insert at the new tenant.
func (r *Router) moveTenant(part *wal.Transaction, c *wal.Change, rt *route) {
	gone, came := *c, *c
	gone.Kind, gone.New = wal.Delete, wal.Tuple{}
	came.Kind, came.Old = wal.Insert, wal.Tuple{}
	r.toTenant(part, string(c.Old.Value(rt.tenant).Text), []wal.Change{gone})
	r.toTenant(part, string(c.New.Value(rt.tenant).Text), []wal.Change{came})
}

func (r *Router) toTenant(part *wal.Transaction, tenant string, changes []wal.Change) {
	destinations := r.tenants.of(tenant)
	if len(destinations) > 0 && len(changes) < len(part.Changes) {
		changes = slices.Clone(changes) // or one row would keep all rows of the part in memory
	}
	for _, d := range destinations {
		r.enqueue(d, part, changes)
	}
}

func (r *Router) toAll(part *wal.Transaction, changes []wal.Change) {
	for _, d := range r.Destinations() {
		r.enqueue(d, part, changes)
	}
}

func (r *Router) enqueue(d *destination.Destination, part *wal.Transaction, changes []wal.Change) {
	if d.Enqueue(part, changes) {
		r.arrival.touch(d)
	}
}

// route finds the rule for a relation, once.
func (r *Router) route(rel *wal.Relation) *route {
	if rt, ok := r.routes[rel]; ok {
		return rt
	}
	rt := &route{}
	if rt.count = r.counts.of(rel); rt.count == nil {
		rt.count = r.unconfigured(rel)
	}
	if t := r.shared.Schemas.Configured(rel); t != nil {
		rt.table, rt.tenant, rt.nullable = rel.Table, rel.Column(t.Tenant), t.Nullable
		if rt.fault = rt.faultOf(rel, t.Tenant); rt.fault == "" {
			r.shared.Schemas.Learn(rel)
		}
	}
	if ts := r.config.Tombstones; ts != nil && ts.Table.Relation.OID == rel.OID {
		rt.table, rt.tenant, rt.tombstone = rel.Table, rel.Column(ts.Table.Tenant), true
		rt.fault = rt.faultOf(rel, ts.Table.Tenant)
	}
	r.routes[rel] = rt
	return rt
}

// Settle implements [replication.Sink]: no batch begins any more; batches in flight have ShutdownTimeout to commit and are then rolled
// back. Connections are closed. Settle may be called again.
func (r *Router) Settle() {
	if !r.shared.Workers.Drain(r.config.Options.ShutdownTimeout) {
		r.config.Log.Warn("batches in flight did not finish in time and are rolled back")
		r.shared.Workers.RollBack()
	}
	var last sync.WaitGroup
	for _, d := range r.Destinations() {
		last.Go(func() {
			defer d.Contained()
			d.Settle()
			d.Stop()
		})
	}
	last.Wait()
	r.shared.Workers.Cancel()
	if err := r.checkpoint(context.Background()); err != nil && !errors.Is(err, primary.ErrFenced) {
		r.config.Log.Warn("the last checkpoint failed; unacknowledged changes are read again and skipped", zap.Error(err))
	}
}

// ForeignRows counts the rows of other tenants that were about to be sent to external databases since the process started, and were refused.
// Any other number than 0 is a fault of Outflow's. Safe for concurrent use.
func (r *Router) ForeignRows() int64 { return r.shared.ForeignRows.Load() }

// asRouter is the router in the eyes of a destination.
type asRouter struct{ r *Router }

func (a asRouter) CheckpointID() string                 { return a.r.checkpointer.checkpointID() }
func (a asRouter) Checkpoint(ctx context.Context) error { return a.r.checkpoint(ctx) }
func (a asRouter) Arriving() int64                      { return a.r.tenants.arrivingID() }
func (a asRouter) Configured(tenant, name string) bool  { return a.r.tenants.find(tenant, name) != nil }
func (a asRouter) BegunAt() wal.LSN                     { return a.r.membership.begunAt }
func (a asRouter) ReadingOff() *ledger.Switch           { return a.r.switches.notReading() }
