package pipeline

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/replication/primary"
	"outflow/sink/external"
)

// Destinations are all configured destinations: the operator's own, and the rows of destinations.query.
func (p *Plan) Destinations(ctx context.Context, conn *pgx.Conn) ([]external.DestinationSpec, error) {
	all, err := p.static(ctx, conn)
	dir := newDirectory(p, all, zap.NewNop())
	found, failed := dir.read(ctx, conn)
	if dir.query == config.DestinationQuery && sqlstateOf(failed) == "42P01" { // undefined_table: the primary is not prepared yet
		failed = nil
	}
	for _, id := range sorted(found) {
		all = append(all, dir.specification(id, found[id]))
	}
	return all, errors.Join(err, failed)
}

// Named names all configured destinations. Destinations without a fault are returned beside an error.
func Named(ctx context.Context, cfg *config.Config) (all []Selection, err error) {
	server, err := Primary(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, primary.Patience)
	defer cancel()
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, primary.ExplainConnect(server, err)
	}
	defer primary.HangUp(conn)
	p, err := NewPlan(ctx, conn, cfg, primary.CheckTables)
	if err != nil {
		return nil, err
	}
	specs, err := p.Destinations(ctx, conn)
	for _, d := range specs {
		all = append(all, Selection{Tenant: d.Tenant, Name: d.Name})
	}
	return all, err
}

func destinationFault(tenant, name string, err error) error {
	return config.Faultf("destination %s/%s: %w", tenant, name, err)
}

// static are the operator's own destinations. Destinations without a fault are returned beside an error.
func (p *Plan) static(ctx context.Context, conn *pgx.Conn) ([]external.DestinationSpec, error) {
	var faults []error
	var all []external.DestinationSpec
	for i, d := range p.cfg.Destinations.Static {
		tenant, err := p.CanonicalTenant(ctx, conn, d.Tenant)
		if err != nil {
			faults = append(faults, config.Faultf("destinations.static[%d]: tenant %q: %w", i, d.Tenant, err))
			continue
		}
		t := external.DestinationSpec{Tenant: tenant, Name: d.Name, DSN: d.DSN.Reveal()}
		if t.Mappings, err = p.order(p.mappings, orDefault(d.Mappings)); err != nil {
			faults = append(faults, destinationFault(d.Tenant, d.Name, err))
		} else if slices.ContainsFunc(all, func(o external.DestinationSpec) bool { return o.Tenant == tenant && o.Name == d.Name }) {
			faults = append(faults, destinationFault(d.Tenant, d.Name, errors.New("the tenant, with its id in another spelling, already has a destination of that name")))
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

func sorted(rows map[destinationID]destinationRow) []destinationID {
	return slices.SortedFunc(maps.Keys(rows), func(a, b destinationID) int {
		return cmp.Or(strings.Compare(a.tenant, b.tenant), strings.Compare(a.name, b.name))
	})
}
