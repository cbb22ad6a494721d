package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/mapping"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink"
	"outflow/sink/external"
	"outflow/sql"
)

// Plan is the configuration's demands on the primary, checked against the primary's catalog. One goroutine uses a Plan at a time.
type Plan struct {
	cfg        *config.Config
	mappings   mapping.Set
	tenants    []tenantColumn           // by table, the tombstones' last
	Tables     []primary.PublishedTable // the tables of source.tables, in order
	tombstones *primary.PublishedTable  // nil: none
	named      [][]string               // by table: the columns named by the operator's mappings and columns:
}

// Published are all tables of the publication.
func (p *Plan) Published() []primary.PublishedTable {
	all := slices.Clone(p.Tables)
	if p.tombstones != nil {
		all = append(all, *p.tombstones)
	}
	return all
}

// Selection chooses destinations. The zero value chooses every destination.
type Selection struct {
	Tenant string // "": every tenant
	Name   string // "": every name
}

// Of gives the chosen destinations among all.
func (s Selection) Of(all []external.DestinationSpec) (chosen []external.DestinationSpec) {
	for _, d := range all {
		if (s.Tenant == "" || d.Tenant == s.Tenant) && (s.Name == "" || d.Name == s.Name) {
			chosen = append(chosen, d)
		}
	}
	return chosen
}

// ErrNoDestination says that a selection has chosen nothing.
var ErrNoDestination = config.Faultf("there is no such destination in the configuration")

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

// TableCheck is [primary.Check], [primary.CheckTables] or a check made of them: it gives a table for each rule, in order, or an error.
type TableCheck func(context.Context, *pgx.Conn, []primary.TableRule) ([]*wal.Table, error)

// NewPlan reads the catalog of the primary after the check, with the mappings of the configuration. NewPlan changes nothing on the primary.
func NewPlan(ctx context.Context, conn *pgx.Conn, cfg *config.Config, check TableCheck) (*Plan, error) {
	set, err := loadMappings(cfg)
	if err != nil {
		return nil, err
	}
	return NewPlanWith(ctx, conn, cfg, set, check)
}

// NewPlanWith is NewPlan with the given mappings.
func NewPlanWith(ctx context.Context, conn *pgx.Conn, cfg *config.Config, set mapping.Set, check TableCheck) (*Plan, error) {
	rules := tableRules(cfg.Source)
	tables, err := check(ctx, conn, rules)
	if err != nil {
		return nil, err
	}
	p := &Plan{cfg: cfg}
	p.name(tables[:len(cfg.Source.Tables)])
	p.noteTenants(tables, rules)
	p.resolve(set, tables[:len(cfg.Source.Tables)])
	rowNeeded := false
	for i, t := range cfg.Source.Tables {
		rowNeeded = p.publish(tables[i], rules[i], t) || rowNeeded
	}
	if cfg.Source.Tombstones != nil {
		return p, p.publishTombstones(tables[len(tables)-1], rules[len(rules)-1], rowNeeded)
	}
	return p, nil
}

// tableRules are the demands on the tables of source.tables and, last, on the table of tombstones.
func tableRules(source config.Source) (rules []primary.TableRule) {
	for _, t := range source.Tables {
		schema, name := t.Qualified()
		rules = append(rules, primary.TableRule{Schema: schema, Name: name, Tenant: t.Tenant})
	}
	if ts := source.Tombstones; ts != nil {
		schema, name := ts.Qualified()
		rules = append(rules, primary.TableRule{Schema: schema, Name: name, Tenant: ts.Tenant, InsertsOnly: true})
	}
	return rules
}

// publish adds a table. publish reports whether a mapping needs more than the key of a row that was deleted.
func (p *Plan) publish(table *wal.Table, rule primary.TableRule, t config.Table) (rowNeeded bool) {
	wanted := append(slices.Clone(t.Columns), t.Tenant)
	all := table.Relation.Names()
	for _, m := range p.mappings {
		named, deletes := m.Columns(table.Relation.Table, all)
		wanted = append(wanted, named...)
		rowNeeded = rowNeeded || !onlyKey(table.Relation, deletes)
	}
	published := rule.Publish(table, wanted)
	for _, m := range p.mappings {
		if !slices.Contains(m.Tables(), table.Relation.Table) {
			published.Apart = append(published.Apart, m.Identity())
		}
	}
	p.Tables = append(p.Tables, published)
	p.named = append(p.named, wanted)
	return rowNeeded
}

// publishTombstones adds the table of tombstones; with the deleted rows only where a mapping needs the rows, which may have columns that no
// reader may see.
func (p *Plan) publishTombstones(table *wal.Table, rule primary.TableRule, rowNeeded bool) error {
	ts := p.cfg.Source.Tombstones
	wanted := []string{ts.Tenant, ts.TableName, ts.Key}
	if rowNeeded {
		wanted = append(wanted, ts.Row)
	}
	published := rule.Publish(table, wanted)
	p.tombstones = &published
	if missing := missingColumns(published.Columns, wanted); len(missing) > 0 {
		return &primary.Problem{
			What:   fmt.Sprintf("the tombstone table %s has no column %s", published.Relation, strings.Join(missing, ", ")),
			Remedy: "correct source.tombstones, or remove it: a DELETE is enough"}
	}
	return nil
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

// Setup is the publication and the slot that the plan needs.
func (p *Plan) Setup(server *primary.Server, log *zap.Logger) primary.Setup {
	return primary.Setup{
		Slot: primary.Slot{Server: server, Name: p.cfg.Source.Slot, Waiting: func(n int, oldest string) {
			log.Info("creating the slot; the primary waits for older transactions to end", zap.Int("transactions", n), zap.String("oldest", oldest))
		}},
		Publication: primary.Publication{Name: p.cfg.Source.Publication, Tables: p.Published()},
		Wider: func(excess, statement string) {
			log.Warn("the publication has more than is configured: the primary sends it, and Outflow skips it. This role may not change the publication",
				zap.String("publication", p.cfg.Source.Publication), zap.String("more", excess), zap.String("remedy", "as the owner of the publication and of the tables run: "+statement))
		},
	}
}

// name gives each table its name in mappings: the table's own, with the schema where another table has the same name.
func (p *Plan) name(tables []*wal.Table) {
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
func (p *Plan) resolve(set mapping.Set, tables []*wal.Table) {
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
func (p *Plan) resolved(m *mapping.Mapping) (*mapping.Mapping, error) {
	var tables []*wal.Table
	for _, t := range p.Tables {
		tables = append(tables, t.Table)
	}
	return m.Resolve(func(from string) (string, error) { return tableOf(from, tables) })
}

// order finds the named mappings and checks that their tables are read, and can be read.
func (p *Plan) order(set mapping.Set, names []string) ([]*mapping.Mapping, error) {
	ordered, err := set.Order(names)
	if err != nil {
		return nil, err
	}
	swept := map[string]bool{}
	ts := p.cfg.Source.Tombstones
	for i, m := range ordered {
		if ordered[i], err = p.resolved(m); err != nil {
			return nil, err
		}
		for table := range ordered[i].Keys {
			swept[table] = true
		}
	}
	for i, m := range ordered {
		for _, t := range p.Tables {
			deleted := mapping.Deleted{Tenant: t.Rule.Tenant, Tombstones: ts != nil && ts.Row != "", Swept: swept[t.Relation.Table]}
			if err := ordered[i].CheckTable(t.Table, deleted); err != nil {
				return nil, fmt.Errorf("mapping %q: %w", m.Name, err)
			}
		}
	}
	return ordered, nil
}

// SinkTables are the tables of source.tables as the sink gets their rows.
func (p *Plan) SinkTables() external.SourceTables {
	tables := make(external.SourceTables, len(p.Tables))
	for i, t := range p.Tables {
		tables[i] = external.SourceTable{Relation: t.Relation.Project(t.Columns), Tenant: p.cfg.Source.Tables[i].Tenant, Nullable: t.Ownerless}
	}
	return tables
}

// sinkTombstones is the table of tombstones, nil where there is none.
func (p *Plan) sinkTombstones() *sink.Tombstones {
	ts := p.cfg.Source.Tombstones
	if ts == nil {
		return nil
	}
	return &sink.Tombstones{Table: external.SourceTable{Relation: p.tombstones.Relation.Project(p.tombstones.Columns), Tenant: ts.Tenant},
		TableName: ts.TableName, Key: ts.Key, Row: ts.Row}
}
