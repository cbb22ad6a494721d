package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/internal/install"
	"outflow/internal/pipeline"
	"outflow/mapping"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sql"
)

// checking is a run of check.
type checking struct {
	cfg     *config.Config
	primary *primary.Server
	conn    *pgx.Conn // nil: the primary does not answer
	set     mapping.Set
	plan    *pipeline.Plan // nil: no table can be read
	source  string
	highest int64
	report  Report
}

func (k *checking) close() {
	if k.conn != nil {
		primary.HangUp(k.conn)
	}
}

// checkMappings loads every mapping by itself, so that a faulty mapping does not hide the others.
func (k *checking) checkMappings() {
	var found primary.Findings
	k.set = mapping.Set{}
	faults := []error{k.set.LoadFS(sql.Mappings(), "embedded")}
	for _, path := range k.cfg.Mappings {
		faults = append(faults, k.set.LoadPath(path))
	}
	for _, err := range primary.Flatten(errors.Join(faults...)) {
		remedy := "correct the mapping"
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			remedy = "correct mappings: in the configuration, or the permissions of the file"
		}
		found.Fail("file", remedy, "%v", err)
	}
	found.Pass("well-formed", "%s", strings.Join(k.set.Names(), ", "))
	k.report.group("mappings", found)
}

func (k *checking) checkPrimary(ctx context.Context) {
	var found primary.Findings
	defer func() { k.report.group("primary "+k.primary.Address(), found) }()
	k.highest = -1
	conn, err := k.primary.Connect(ctx)
	if err != nil {
		found.Fault("connection", primary.ExplainConnect(k.primary, err))
		if found[0].Remedy == "" {
			found[0].Remedy = "check that the primary runs, and check host and port in source.dsn"
		}
		found.Skip("tables, schema, publication, slot", "the primary does not answer")
		return
	}
	k.conn = conn
	found = k.primary.Inspect(ctx, conn)
	tables, complete := k.checkTables(ctx)
	found = append(found, tables...)
	if k.plan == nil {
		found.Skip("rights, publication, slot", "no table can be read")
		return
	}
	found = append(found, k.checkSchema(ctx)...)
	if !complete {
		found.Skip("publication", "some tables have faults")
	}
	setup := k.plan.Setup(k.primary, zap.NewNop())
	if complete {
		found = append(found, setup.InspectPublication(ctx, conn)...)
	}
	found = append(found, setup.Slot.Inspect(ctx, conn)...)
	k.readSource(ctx, setup.Slot)
}

// checkTables looks at each table by itself and plans with the tables without faults.
func (k *checking) checkTables(ctx context.Context) (found primary.Findings, complete bool) {
	good := *k.cfg
	good.Source.Tables = nil
	for _, t := range k.cfg.Source.Tables {
		schema, name := t.Qualified()
		table, about := primary.InspectTable(ctx, k.conn, primary.TableRule{Schema: schema, Name: name, Tenant: t.Tenant})
		found = append(found, about...)
		if table != nil {
			good.Source.Tables = append(good.Source.Tables, t)
		}
	}
	if ts := k.cfg.Source.Tombstones; ts != nil {
		schema, name := ts.Qualified()
		table, about := primary.InspectTable(ctx, k.conn, primary.TableRule{Schema: schema, Name: name, Tenant: ts.Tenant, InsertsOnly: true})
		found = append(found, about...)
		if table == nil {
			good.Source.Tombstones = nil
		}
	}
	complete = !found.Failed()
	if len(good.Source.Tables) == 0 {
		return found, false
	}
	// Faults of the tables are found already.
	p, err := pipeline.NewPlanWith(ctx, k.conn, &good, k.set, func(ctx context.Context, conn *pgx.Conn, rules []primary.TableRule) ([]*wal.Table, error) {
		tables, err := primary.CheckTables(ctx, conn, rules)
		if slices.Contains(tables, nil) || len(tables) < len(rules) {
			return nil, err
		}
		return tables, nil
	})
	if err != nil {
		for _, one := range primary.Flatten(err) {
			found.Fault("tables", one)
		}
		return found, false
	}
	k.plan = p
	for i, t := range p.Tables {
		missing := slices.DeleteFunc(slices.Clone(good.Source.Tables[i].Columns), func(c string) bool {
			return slices.Contains(t.Relation.Names(), c)
		})
		for _, c := range t.Generated {
			if at := slices.Index(missing, c); at >= 0 {
				missing = slices.Delete(missing, at, at+1)
				found.Fail("table "+t.Relation.String(), "remove the column from columns:, and write its expression in the mapping",
					"column %q is generated, so it is not in the stream", c)
			}
		}
		if len(missing) > 0 {
			found.Fail("table "+t.Relation.String(), "correct columns: of the table; names are case-sensitive", "it has no column %s", strings.Join(missing, ", "))
		}
	}
	return found, complete
}

// checkSchema looks at the schema outflow and at the role's rights.
func (k *checking) checkSchema(ctx context.Context) (found primary.Findings) {
	role := k.conn.Config().User
	remedy := "as a superuser or the database's owner run: outflow init --apply --role " + role
	script, err := sql.Script(ctx, k.conn)
	if err != nil {
		found.Fault("schema outflow", primary.Explain(err, remedy))
		return found
	}
	pending := script != ""
	if pending {
		var may bool
		err := k.conn.QueryRow(ctx, `SELECT coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'outflow'),
			has_database_privilege(current_database(), 'CREATE'))`).Scan(&may)
		switch {
		case err != nil:
			found.Fault("schema outflow", fmt.Errorf("reading the rights on the schema: %w", err))
		case may:
			found.Pass("schema outflow", "the schema has another version; outflow run migrates it")
		default:
			found.Fail("schema outflow", remedy, "the schema is missing or has another version, and this role may not migrate it")
		}
	} else {
		found.Pass("schema outflow", "the schema has the current version")
	}
	missing, err := k.missingRights(ctx, role, pending)
	if err != nil {
		found.Fault("rights", err)
	} else if len(missing) > 0 {
		found.Fail("rights", strings.Join(missing, ";\n"), "%d rights are missing", len(missing))
	} else {
		found.Pass("rights", "on the published columns, and on the schema outflow")
	}
	return found
}

// missingRights are the GRANTs that the role lacks, less rights on the schema outflow where the schema is still to be made.
func (k *checking) missingRights(ctx context.Context, role string, pending bool) (missing []string, err error) {
	for _, g := range install.Grants(k.conn, k.plan) {
		held, err := g.HeldBy(ctx, k.conn, role)
		if err != nil {
			return nil, err
		}
		if !held && (!pending || !g.Notes) {
			missing = append(missing, g.To(role))
		}
	}
	return missing, nil
}

// readSource reads the reference for external databases. Where nothing ever ran there is nothing to compare.
func (k *checking) readSource(ctx context.Context, slot primary.Slot) {
	source, err := slot.Known(ctx, k.conn)
	if err != nil {
		return
	}
	k.source = source.ID
	if now, err := (&tableread.Copier{Tables: tableread.NewTables(k.primary)}).Once(ctx); err == nil {
		k.highest = source.SequenceID(now.Horizon)
	}
}

// chosen are the destinations of the selection. Where the primary does not answer, the destinations are as configured.
func (k *checking) chosen(ctx context.Context, s pipeline.Selection) ([]external.DestinationSpec, error) {
	var all []external.DestinationSpec
	var found primary.Findings
	if k.plan == nil {
		for _, d := range k.cfg.Destinations.Static {
			all = append(all, external.DestinationSpec{Tenant: d.Tenant, Name: d.Name, DSN: d.DSN.Reveal()})
		}
	} else {
		var err error
		all, err = k.plan.Destinations(ctx, k.conn)
		for _, one := range primary.Flatten(err) {
			found.Fail("configuration", "correct destinations: in the configuration", "%v", one)
		}
		if s.Tenant != "" {
			if canonical, err := k.plan.CanonicalTenant(ctx, k.conn, s.Tenant); err == nil {
				s.Tenant = canonical
			}
		}
	}
	all = s.Of(all)
	if len(all) == 0 && s != (pipeline.Selection{}) && len(found) == 0 {
		return nil, pipeline.ErrNoDestination
	}
	if len(all) == 0 && len(found) == 0 {
		found.Warn("configuration", "insert rows into outflow.destination, or add destinations to destinations.static", "no destination is configured")
	}
	k.report.group("destinations", found)
	return all, nil
}

// checker looks at external databases.
func (k *checking) checker() *external.Checker {
	c := &external.Checker{Options: k.cfg.Sink.Options, SourceID: k.source, Highest: k.highest}
	if k.plan != nil {
		c.Tables = k.plan.SinkTables()
	}
	return c
}
