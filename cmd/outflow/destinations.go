package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/internal/tenantdsn"
	"outflow/mapping"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/sink"
)

// destinations are all configured destinations: the operator's own, and the rows of destinations.query.
func (p *plan) destinations(ctx context.Context, conn *pgx.Conn) ([]sink.Target, error) {
	all, err := p.static(ctx, conn)
	dir := newDirectory(p, all, zap.NewNop())
	found, failed := dir.read(ctx, conn)
	if dir.query == config.DestinationQuery && sqlstateOf(failed) == "42P01" { // undefined_table: the primary is not prepared yet
		failed = nil
	}
	for _, id := range sorted(found) {
		all = append(all, dir.target(id, found[id]))
	}
	return all, errors.Join(err, failed)
}

func destinationFault(tenant, name string, err error) error {
	return config.Faultf("destination %s/%s: %w", tenant, name, err)
}

// static are the operator's own destinations. Destinations without a fault are returned beside an error.
func (p *plan) static(ctx context.Context, conn *pgx.Conn) ([]sink.Target, error) {
	var faults []error
	var all []sink.Target
	for i, d := range p.cfg.Destinations.Static {
		tenant, err := p.canonicalTenant(ctx, conn, d.Tenant)
		if err != nil {
			faults = append(faults, config.Faultf("destinations.static[%d]: tenant %q: %w", i, d.Tenant, err))
			continue
		}
		t := sink.Target{Tenant: tenant, Name: d.Name, DSN: d.DSN.Reveal()}
		if t.Mappings, err = p.order(p.mappings, orDefault(d.Mappings)); err != nil {
			faults = append(faults, destinationFault(d.Tenant, d.Name, err))
		} else if slices.ContainsFunc(all, func(o sink.Target) bool { return o.Tenant == tenant && o.Name == d.Name }) {
			faults = append(faults, destinationFault(d.Tenant, d.Name, errors.New("the tenant has another destination of that name; its id is only written in another way")))
			continue
		}
		all = append(all, t)
	}
	return all, errors.Join(faults...)
}

func orDefault(names []string) []string {
	if len(names) == 0 {
		return defaultMappings
	}
	return names
}

// destinationID names a destination.
type destinationID struct{ tenant, name string }

// destinationRow is one row of destinations.query.
type destinationRow struct {
	dsn, ca               string
	mappings, definitions []string
	fault                 string // of the row itself
}

func (r destinationRow) equal(o destinationRow) bool {
	return r.dsn == o.dsn && r.ca == o.ca && r.fault == o.fault && slices.Equal(r.mappings, o.mappings) && slices.Equal(r.definitions, o.definitions)
}

// directory follows the destinations from destinations.query: rows that an application writes for its tenants. One row's
// fault halts its destination and touches no other.
type directory struct {
	plan    *plan
	query   string
	refresh time.Duration
	policy  tenantdsn.Policy
	offered []string            // the operator's mappings open to tenants, empty: all
	allowed map[string][]string // by table: the columns open to tenants' own mappings
	timeout time.Duration       // of a connection
	bound   int64               // bytes of all rows
	own     *definitions        // of all tenants
	static  map[destinationID]bool
	log     *zap.Logger
	rows    map[destinationID]destinationRow // as the router has the rows

	patience time.Duration // unpackPatience
	spared   int64         // sparedBytes
	sparing  time.Time     // when unpacking took too long the last time

	mu      sync.Mutex
	failure error   // of the last reading
	out     leftOut // in the last reading, for want of a usable name
	said    leftOut // in the last reading
}

func newDirectory(p *plan, static []sink.Target, log *zap.Logger) *directory {
	cfg := p.cfg
	dir := &directory{plan: p, query: cfg.Destinations.Query, refresh: cfg.Destinations.Refresh, timeout: cfg.Sink.ConnectTimeout, log: log,
		patience: unpackPatience, spared: sparedBytes, bound: max(int64(cfg.Sink.MemoryBytes)/8, 4<<20), own: newDefinitions(max(int64(cfg.Sink.MemoryBytes)/2, 32<<20)),
		policy:  cfg.Destinations.Policy.Policy,
		offered: cfg.Destinations.Policy.Mappings, allowed: map[string][]string{}, static: map[destinationID]bool{}, rows: map[destinationID]destinationRow{}}
	for _, t := range static {
		dir.static[destinationID{t.Tenant, t.Name}] = true
	}
	for i, t := range p.tables {
		dir.allowed[t.Relation.Table] = p.named[i] // not all published columns: REPLICA IDENTITY FULL publishes everything
		if own := cfg.Source.Tables[i].Columns; len(own) > 0 {
			dir.allowed[t.Relation.Table] = append(slices.Clone(own), cfg.Source.Tables[i].Tenant)
		}
		for _, key := range t.Relation.Key {
			dir.allowed[t.Relation.Table] = append(slices.Clip(dir.allowed[t.Relation.Table]), t.Relation.Columns[key].Name)
		}
	}
	return dir
}

const (
	queryTimeout  = 10 * time.Second
	notifications = "outflow_destination" // channel for changes of outflow.destination
	// gathering is the wait for more changes after a first one: a thousand INSERTs are read once.
	gathering = 200 * time.Millisecond
)

// read runs the query. An error means that nothing is known: not that there are no destinations.
func (dir *directory) read(ctx context.Context, conn *pgx.Conn) (map[destinationID]destinationRow, error) {
	if dir.query == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	list, err := dir.scanInTime(ctx, conn)
	if err != nil {
		return nil, explainQuery(err)
	}
	found := make(map[destinationID]destinationRow, len(list))
	var out, shadowed leftOut
	for _, s := range list {
		id, fault, err := dir.identify(ctx, conn, s)
		if err != nil {
			return nil, explainQuery(err)
		}
		if known, ok := dir.rows[id]; ok && s.late {
			s.row = known
		}
		if fault != "" {
			s.row.fault = fault
		}
		switch _, twice := found[id]; {
		case id == destinationID{}:
			out.add(s, "it has no tenant or no name")
			continue
		case cmp.Or(fit.Check(id.tenant, fit.Tenant), fit.Check(id.name, fit.Name)) != nil:
			out.add(s, cmp.Or(fit.Check(id.tenant, fit.Tenant), fit.Check(id.name, fit.Name)).Error())
			continue
		case dir.static[id]:
			shadowed.add(s, "destinations.static has it too, and that one counts")
			continue
		case twice:
			s.row = destinationRow{fault: "destinations.query gives it more than once"}
		}
		found[id] = s.row
	}
	dir.say(out, shadowed)
	return found, nil
}

// identify is the name of a row's destination, the zero name where the row has none, and why the tenant is no tenant; "" where it is one.
// An error says that the primary does not answer.
func (dir *directory) identify(ctx context.Context, conn *pgx.Conn, s scanned) (id destinationID, fault string, err error) {
	if s.tenant == "" || s.name == "" {
		return id, "", nil
	}
	if id = (destinationID{s.tenant, s.name}); len(s.tenant) > int(fit.Tenant) {
		return id, "", nil // refused by the caller
	}
	tenant, err := dir.plan.canonicalTenant(ctx, conn, s.tenant)
	if found := (*tenantFault)(nil); errors.As(err, &found) {
		return id, "tenant_id: " + found.short, nil
	}
	if tenant == "" {
		return destinationID{}, "", err
	}
	return destinationID{tenant, s.name}, "", err
}

// leftOut are rows of destinations.query that cannot be destinations, each with the reason. No other row is concerned.
type leftOut []string

// maxLeftOut is how many rows that are left out are named.
const maxLeftOut = 20

func (l *leftOut) add(s scanned, why string) {
	if len(*l) < maxLeftOut {
		*l = append(*l, fit.Text(fmt.Sprintf("destinations.query gives a row that is left out (tenant %q, name %q): %s", fit.Text(s.tenant, fit.Value), fit.Text(s.name, fit.Value), why), fit.Reason))
	}
}

// say warns of rows that are left out, of each once.
func (dir *directory) say(out, shadowed leftOut) {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	all := slices.Concat(out, shadowed)
	for _, text := range all {
		if !slices.Contains(dir.said, text) {
			dir.log.Warn(text)
		}
	}
	dir.out, dir.said = out, all
}

func sqlstateOf(err error) string {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// explainQuery tells the remedy for a failed query. Failures caused by the server's state pass. The query reads connection strings, and a server
// repeats values in messages.
func explainQuery(err error) error {
	err = pgerror.WithoutValues(err)
	switch state := sqlstateOf(err); {
	case state == "42501":
		return &primary.Problem{What: fmt.Sprintf("destinations.query: %v", err), Remedy: "GRANT SELECT to Outflow's role; for outflow.destination: outflow init --apply --role"}
	case strings.HasPrefix(state, "42") || strings.HasPrefix(state, "22") || state == "25006":
		return config.Faultf("destinations.query: %w", err)
	}
	return fmt.Errorf("destinations.query: %w", err)
}

// target is the checked request of a row. A fault of the request is the destination's.
func (dir *directory) target(id destinationID, row destinationRow) sink.Target {
	t := sink.Target{Tenant: id.tenant, Name: id.name}
	if row.fault != "" {
		t.Fault = sink.NewFault(sink.ClassConfiguration, errors.New(row.fault), "correct the row that destinations.query reads")
		return t
	}
	connect, err := tenantdsn.Parse(row.dsn, row.ca, dir.policy, dir.timeout)
	if own := (*tenantdsn.Error)(nil); errors.As(err, &own) {
		t.Fault = sink.NewFault(own.Class(), own, own.Remedy())
		return t
	}
	if err == nil {
		t.Connect = connect
		t.Mappings, err = dir.mappings(id, row)
	}
	if err != nil {
		t.Fault = sink.NewFault(sink.ClassConfiguration, err, "")
	}
	return t
}

// mappings are the mappings named by a row, or else the row's own ones, or else the default ones.
func (dir *directory) mappings(id destinationID, row destinationRow) ([]*mapping.Mapping, error) {
	if len(row.definitions) > maxDefinitions {
		return nil, fmt.Errorf("it has more than %d mappings", maxDefinitions)
	}
	names := row.mappings
	var own []*mapping.Mapping
	var faults []error
	dir.own.begin(id)
	for i, definition := range row.definitions {
		label := definitionLabel(i)
		if len(definition) > maxDefinition {
			faults = append(faults, fmt.Errorf("%s: longer than %d bytes", label, maxDefinition))
			continue
		}
		m, err := dir.own.load(id, definitionID{label, definition}, func() (*mapping.Mapping, error) { return dir.loaded(label, definition) })
		if err != nil {
			faults = append(faults, err)
			if errors.Is(err, errNoMemory) { // nor would there be for the next
				break
			}
			continue
		}
		if slices.ContainsFunc(own, func(o *mapping.Mapping) bool { return o.Name == m.Name }) {
			faults = append(faults, fmt.Errorf("%s: another mapping is called %q too", label, m.Name))
		}
		own = append(own, m)
		if len(row.mappings) == 0 {
			names = append(names, m.Name)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	names = orDefault(names)
	for _, name := range names {
		mine := slices.ContainsFunc(own, func(m *mapping.Mapping) bool { return m.Name == name })
		if len(dir.offered) > 0 && !mine && !slices.Contains(dir.offered, name) {
			return nil, fmt.Errorf("mapping %q is not among destinations.policy.mappings: %s", name, strings.Join(dir.offered, ", "))
		}
	}
	return dir.plan.order(dir.plan.mappings.With(own), names)
}

// loaded is a tenant's mapping for the tables and columns here.
func (dir *directory) loaded(label, definition string) (*mapping.Mapping, error) {
	m, err := mapping.Load(label, []byte(definition))
	if err != nil {
		return nil, err
	}
	if m, err = dir.plan.resolved(m); err != nil {
		return nil, err
	}
	for table, columns := range dir.allowed {
		m.Restrict(table, columns)
	}
	return m, nil
}

func sorted(rows map[destinationID]destinationRow) []destinationID {
	return slices.SortedFunc(maps.Keys(rows), func(a, b destinationID) int {
		return cmp.Or(strings.Compare(a.tenant, b.tenant), strings.Compare(a.name, b.name))
	})
}

// apply brings the router to the state in the rows. Failures are tried again with the next reading.
func (dir *directory) apply(ctx context.Context, router *sink.Router, found map[destinationID]destinationRow) {
	for _, id := range sorted(dir.rows) {
		if _, still := found[id]; still {
			continue
		}
		if err := router.Remove(ctx, id.tenant, id.name); err != nil {
			dir.log.Warn("a destination cannot be removed", zap.String("tenant", id.tenant), zap.String("destination", id.name), zap.Error(err))
			continue
		}
		delete(dir.rows, id)
	}
	for _, id := range sorted(found) {
		if row, known := dir.rows[id]; known && row.equal(found[id]) {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if err := router.Put(ctx, dir.target(id, found[id])); err != nil {
			dir.log.Warn("a destination cannot be added or changed", zap.String("tenant", id.tenant), zap.String("destination", id.name), zap.Error(err))
			continue
		}
		dir.rows[id] = found[id]
	}
	dir.own.keep(dir.rows)
}

// run keeps the router's destinations as the query gives the rows, until ctx is done. A failed query leaves the destinations
// as they are.
func (dir *directory) run(ctx context.Context, pl *pipeline) error {
	if dir.query == "" {
		return nil
	}
	for {
		err := dir.follow(ctx, pl)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a wanted stop is not an error
		}
		dir.failed(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(dir.refresh):
		}
	}
}

// follow reads the query on one connection: after each notification of a change, and else every refresh.
func (dir *directory) follow(ctx context.Context, pl *pipeline) error {
	conn, err := pl.primary.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	listening, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if _, err := conn.Exec(listening, "LISTEN "+notifications); err != nil {
		return err
	}
	for {
		found, err := dir.read(ctx, conn)
		if err != nil {
			return err
		}
		dir.failed(nil)
		if pl.mayChange() {
			dir.apply(ctx, pl.router, found)
		}
		if err := wait(ctx, conn, dir.refresh); err != nil {
			return err
		}
	}
}

// mayChange reports whether this process may write of destinations to the primary: the process has the slot, or has never
// had the slot, when nothing is written.
func (pl *pipeline) mayChange() bool {
	return !pl.router.Begun() || pl.reader.State() == replication.Streaming
}

// wait returns after the time, or soon after a notification.
func wait(ctx context.Context, conn *pgx.Conn, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		within, cancel := context.WithDeadline(ctx, deadline)
		_, err := conn.WaitForNotification(within)
		cancel()
		switch {
		case err == nil:
			if soon := time.Now().Add(gathering); soon.Before(deadline) {
				deadline = soon
			}
		case ctx.Err() == nil && pgconn.Timeout(err) && !conn.IsClosed():
			return nil
		default:
			return err
		}
	}
}

// failed logs a fault once, and the recovery once.
func (dir *directory) failed(err error) {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	was := dir.failure
	dir.failure = err
	switch {
	case err == nil && was != nil:
		dir.log.Info("destinations.query is answered again")
	case err != nil && (was == nil || was.Error() != err.Error()):
		dir.log.Error("the destinations cannot be read; they stay as they are", zap.Error(err))
	}
}

// Err is the reason why the destinations cannot be read at the moment, or why some rows are left out; nil where all works. Safe for
// concurrent use.
func (dir *directory) Err() error {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	switch {
	case dir.failure != nil:
		return fmt.Errorf("the destinations cannot be read; they stay as they are: %w", dir.failure)
	case len(dir.out) > 0:
		return errors.New(dir.out[0])
	}
	return nil
}
