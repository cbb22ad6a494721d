package schema

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
)

// CatalogTimeout bounds a question to the primary's catalog.
const CatalogTimeout = 10 * time.Second

// Schemas are the source tables as the stream, and the primary's catalog, have described the tables last. The stream describes a table as
// published at the time of a change: Schemas has every column that any description had, until the catalog says that a column is gone. Safe for
// concurrent use.
type Schemas struct {
	tables external.SourceTables // as configured
	server *tableread.Tables     // the primary
	log    *zap.Logger

	mu       sync.RWMutex
	latest   map[string]*wal.Relation        // by table, with all known columns
	wide     map[*wal.Relation]*wal.Relation // see widened
	doubtful map[string]string               // the columns of tables in which a step missed a column: see Doubt
}

// New knows the tables as configured. server is where [Schemas.Relearn] asks.
func New(tables external.SourceTables, server *tableread.Tables, log *zap.Logger) *Schemas {
	s := &Schemas{tables: tables, server: server, log: log, latest: map[string]*wal.Relation{}, wide: map[*wal.Relation]*wal.Relation{},
		doubtful: map[string]string{}}
	for _, t := range tables {
		s.latest[t.Relation.Table] = t.Relation
	}
	return s
}

// Relation is the latest relation of a source table, nil where there is no such table.
func (s *Schemas) Relation(table string) *wal.Relation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.latest[table]
}

// Learn takes over the stream's description of a table; other known columns stay known.
func (s *Schemas) Learn(rel *wal.Relation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[rel.Table] = union(rel, s.latest[rel.Table])
	clear(s.wide)
}

// replace takes over the catalog's description of a table: columns that the description lacks are gone.
func (s *Schemas) replace(rel *wal.Relation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[rel.Table] = rel
	clear(s.wide)
}

// widened is the relation with all known columns of the table; often widened is rel itself. The same relation gives the same pointer until
// a description changes.
func (s *Schemas) widened(rel *wal.Relation) *wal.Relation {
	s.mu.RLock()
	w := s.wide[rel]
	s.mu.RUnlock()
	if w != nil {
		return w
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w = union(rel, s.latest[rel.Table])
	s.wide[rel] = w
	return w
}

// union is rel with the columns of other (which may be nil) that rel lacks behind its own.
func union(rel, other *wal.Relation) *wal.Relation {
	if other == nil || other == rel {
		return rel
	}
	var more []wal.Column
	for _, c := range other.Columns {
		if rel.Column(c.Name) < 0 {
			more = append(more, c)
		}
	}
	if len(more) == 0 {
		return rel
	}
	wide := *rel
	wide.Columns = append(slices.Clone(rel.Columns), more...)
	return &wide
}

// Doubt marks a table, with the columns that the table has now (nil: the table is gone), in which a step missed a column. The step may succeed
// once the table has other columns.
func (s *Schemas) Doubt(table string, now *wal.Relation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful[table] = columnsOf(now)
}

// InDoubt are the doubtful tables.
func (s *Schemas) InDoubt() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Keys(s.doubtful))
}

// Resolve reports whether a doubtful table has other columns than at the time of the doubt; the doubt is then over.
func (s *Schemas) Resolve(table string, now *wal.Relation) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, doubtful := s.doubtful[table]
	if !doubtful || before == columnsOf(now) {
		return false
	}
	delete(s.doubtful, table)
	return true
}

func columnsOf(rel *wal.Relation) string {
	if rel == nil {
		return ""
	}
	return fmt.Sprintf("%q", rel.Names())
}

// Configured is the configuration of a relation's table; nil where the table is no source table.
func (s *Schemas) Configured(rel *wal.Relation) *external.SourceTable { return s.tables.Find(rel) }

// TenantColumn is the index of the tenant's column, -1 where the column is not known.
func (s *Schemas) TenantColumn(rel *wal.Relation) int { return s.tables.TenantColumn(rel) }

// Names are the source tables in the configuration's order.
func (s *Schemas) Names() []string { return s.tables.Names() }

// Relearn reads from the primary which columns a table has now: the known or configured columns that exist. A column may have been renamed
// or dropped, and may have come back. The result is nil where there is no such table.
func (s *Schemas) Relearn(ctx context.Context, table string) (*wal.Relation, error) {
	rel := s.Relation(table)
	i := slices.IndexFunc(s.tables, func(t external.SourceTable) bool { return t.Relation.Table == table })
	if rel == nil || i < 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, CatalogTimeout)
	defer cancel()
	conn, err := s.server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	now, err := primary.LoadTable(ctx, conn, rel.Schema, rel.Name)
	if err != nil || now == nil {
		return nil, err
	}
	now.Relation.Table = table
	now.Relation = now.Relation.Project(append(rel.Names(), s.tables[i].Relation.Names()...))
	if !slices.Equal(rel.Names(), now.Relation.Names()) {
		s.log.Warn("a table has different columns on the primary", zap.Stringer("table", rel), zap.Strings("columns", now.Relation.Names()))
	}
	s.replace(now.Relation)
	return now.Relation, nil
}
