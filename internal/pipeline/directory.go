package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	"outflow/replication/primary"
	"outflow/sink/external"
)

// directory follows the destinations from destinations.query: rows that an application writes for its tenants. One row's
// fault halts its destination and touches no other.
type directory struct {
	plan    *Plan
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

func newDirectory(p *Plan, static []external.DestinationSpec, log *zap.Logger) *directory {
	cfg := p.cfg
	dir := &directory{plan: p, query: cfg.Destinations.Query, refresh: cfg.Destinations.Refresh, timeout: cfg.Sink.ConnectTimeout, log: log,
		patience: unpackPatience, spared: sparedBytes,
		bound: max(int64(cfg.Sink.MemoryBytes)/8, 4<<20), own: newDefinitions(max(int64(cfg.Sink.MemoryBytes)/2, 32<<20)),
		policy:  cfg.Destinations.Policy.Policy,
		offered: cfg.Destinations.Policy.Mappings, allowed: map[string][]string{}, static: map[destinationID]bool{}, rows: map[destinationID]destinationRow{}}
	for _, t := range static {
		dir.static[destinationID{t.Tenant, t.Name}] = true
	}
	for i, t := range p.Tables {
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
			out.add(s, "the row has no tenant or no name")
			continue
		case cmp.Or(fit.Check(id.tenant, fit.Tenant), fit.Check(id.name, fit.Name)) != nil:
			out.add(s, cmp.Or(fit.Check(id.tenant, fit.Tenant), fit.Check(id.name, fit.Name)).Error())
			continue
		case dir.static[id]:
			shadowed.add(s, "destinations.static has the same destination, which takes precedence")
			continue
		case twice:
			s.row = destinationRow{fault: "destinations.query returns the destination more than once"}
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
	tenant, err := dir.plan.CanonicalTenant(ctx, conn, s.tenant)
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
		text := fmt.Sprintf("destinations.query returns a row that is left out (tenant %q, name %q): %s", fit.Text(s.tenant, fit.Value), fit.Text(s.name, fit.Value), why)
		*l = append(*l, fit.Text(text, fit.Reason))
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
		return &primary.Problem{What: fmt.Sprintf("destinations.query: %v", err),
			Remedy: "GRANT SELECT to Outflow's role; for outflow.destination: outflow init --apply --role"}
	case strings.HasPrefix(state, "42") || strings.HasPrefix(state, "22") || state == "25006":
		return config.Faultf("destinations.query: %w", err)
	}
	return fmt.Errorf("destinations.query: %w", err)
}
