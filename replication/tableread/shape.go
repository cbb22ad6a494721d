package tableread

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgorder"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// Part is the rows of a tenant in a table. Only the table's OID and the names of the columns count of the relation: all else is found in
// the moment of the read.
type Part struct {
	Relation *wal.Relation
	Tenant   int    // index of the tenant's column
	Value    string // the tenant, as written by the output function of the column
}

// shape is a table as found by a read, with everything the read needs to compare rows.
type shape struct {
	Table    *wal.Relation // the requested columns which exist, and the key's
	name     tableName
	tenant   int
	key      []int            // the key's columns less the tenant's
	order    []pgorder.Column // of key
	tenantAs pgorder.Column
}

// tableName is a table's schema and name, which may change while the table stays the same.
type tableName struct{ schema, name string }

func (n tableName) String() string { return pgx.Identifier{n.schema, n.name}.Sanitize() }

// shapes keeps earlier results, so an unaltered table gives the same relation: statements are compiled for relations. Safe for concurrent
// use.
type shapes struct {
	mu    sync.Mutex
	found map[*wal.Relation]describedShape
}

type describedShape struct {
	description string
	shape       *shape
}

// lockSQL keeps a table from being altered during a read, as LOCK TABLE would if the role had the right to the whole table. The statement
// comes before the snapshot: a snapshot from before a rewriting ALTER TABLE finds the table empty (the Postgres manual, 13.6, "Caveats").
const lockSQL = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SELECT FROM %s LIMIT 0"

// descriptionSQL begins with the snapshot, and gives the values a shape depends on.
const descriptionSQL = `SELECT pg_current_snapshot()::text, n.nspname::text, c.relname::text, concat_ws(E'\n', c.relreplident, row_security_active(c.oid),
	(SELECT string_agg(i.inhrelid::text, ',') FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind <> 'p'),
	(SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, format_type(a.atttypid, -1)), ',' ORDER BY a.attnum)
		FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
	(SELECT string_agg(concat_ws(' ', i.indexrelid, i.indkey, i.indclass, i.indcollation, i.indisprimary, i.indisreplident), ',' ORDER BY i.indexrelid)
		FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid))
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`

// errRenamed: the locked table is another table.
var errRenamed = errors.New("the table was renamed meanwhile")

// find describes the table in the open transaction, which has locked the table under the name. The following statements see at least the
// commits of snapshot: a commit seen by a later statement and not by snapshot counts as not seen.
func (s *shapes) find(ctx context.Context, conn *pgx.Conn, part Part, locked tableName) (found *shape, snapshot string, err error) {
	var name tableName
	var description string
	err = conn.QueryRow(ctx, descriptionSQL, part.Relation.OID).Scan(&snapshot, &name.schema, &name.name, &description)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, "", &primary.Problem{What: fmt.Sprintf("table %s was dropped", part.Relation), Remedy: "restart outflow if another table has its name"}
	case err != nil:
		return nil, "", fmt.Errorf("reading the catalog of %s: %w", part.Relation, err)
	case name != locked:
		return nil, "", errRenamed
	}
	s.mu.Lock()
	known, ok := s.found[part.Relation]
	s.mu.Unlock()
	if ok && known.description == description && known.shape.name == name && known.shape.Table.Columns[known.shape.tenant].Name == part.Relation.Columns[part.Tenant].Name {
		return known.shape, snapshot, nil
	}
	if found, err = loadShape(ctx, conn, part, name); err != nil {
		return nil, "", err
	}
	if found.Table.SameShape(part.Relation) {
		found.Table = part.Relation
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found == nil {
		s.found = map[*wal.Relation]describedShape{}
	}
	s.found[part.Relation] = describedShape{description, found}
	return found, snapshot, nil
}

func loadShape(ctx context.Context, conn *pgx.Conn, part Part, name tableName) (*shape, error) {
	rel := part.Relation
	t, err := primary.LoadTable(ctx, conn, name.schema, name.name)
	if err != nil {
		return nil, err
	}
	if t == nil || t.Relation.OID != rel.OID {
		return nil, fmt.Errorf("table %s has changed", rel)
	}
	if err := primary.Conditions(ctx, conn, &wal.Relation{OID: rel.OID, Schema: name.schema, Name: name.name, Columns: rel.Columns}); err != nil {
		return nil, err
	}
	var names, keys []string
	for _, c := range rel.Columns {
		names = append(names, c.Name)
	}
	for _, i := range t.Relation.Key {
		keys = append(keys, t.Relation.Columns[i].Name)
	}
	tenant := rel.Columns[part.Tenant].Name
	now := t.Relation.Project(append(names, keys...))
	now.Table = rel.Table
	s := &shape{Table: now, name: name, tenant: now.Column(tenant)}
	if s.tenant < 0 {
		return nil, &primary.Problem{What: fmt.Sprintf("table %s no longer has the column %q, which source.tables names as its tenant column", rel, tenant),
			Remedy: "rename the column back, or correct source.tables"}
	}
	ordered, err := loadOrder(ctx, conn, rel.OID, append(keys, tenant))
	if err != nil {
		return nil, err
	}
	for _, i := range now.Key {
		o := ordered[now.Columns[i].Name]
		if !o.Indexed || o.Less == "" {
			return nil, &primary.Problem{What: fmt.Sprintf("table %s has neither a primary key nor a unique index as its replica identity, so its rows cannot be read in chunks", rel),
				Remedy: "ALTER TABLE " + name.String() + " ADD PRIMARY KEY (...)"}
		}
		if i != s.tenant {
			s.key, s.order = append(s.key, i), append(s.order, o)
		}
	}
	s.tenantAs = ordered[tenant]
	return s, nil
}

// loadOrder is the server's order of the columns of a table: the order of the index which names rows, else the type's default.
func loadOrder(ctx context.Context, conn *pgx.Conn, table uint32, columns []string) (map[string]pgorder.Column, error) {
	slices.Sort(columns)
	columns = slices.Compact(columns)
	const wanted = `SELECT a.attnum, a.atttypid, coalesce(k.opclass, 0), coalesce(k.coll, a.attcollation)
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		LEFT JOIN LATERAL ` + primary.KeyIndex + ` named ON true LEFT JOIN pg_index i ON i.indexrelid = named.indexrelid
		LEFT JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[]) AS k (attnum, opclass, coll)
			ON k.attnum = a.attnum AND k.opclass IS NOT NULL
		WHERE a.attrelid = $1 AND a.attname = ANY ($2::text[])`
	rows, err := conn.Query(ctx, pgorder.ColumnsSQL(wanted, "b.opclass <> 0",
		"(SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum = b.n)"), table, columns)
	if err != nil {
		return nil, fmt.Errorf("reading the operators of the key: %w", err)
	}
	ordered := map[string]pgorder.Column{}
	var o pgorder.Column
	var name string
	_, err = pgx.ForEachRow(rows, []any{&o.Type, &o.Domain, &o.Collation, &o.Less, &o.Equal, &o.AtLeast, &o.Greater, &o.Exact, &o.Indexed, &name}, func() error {
		o.Name = "t." + pgx.Identifier{name}.Sanitize()
		ordered[name] = o
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the operators of the key: %w", err)
	}
	return ordered, nil
}

// isTenant is the condition for a row of the tenant whose name is the parameter. Where the type's equality is wider than the equality of
// texts the text decides; the equality still finds the rows by an index. CASE keeps the planner from taking the second condition for a
// selective condition.
func (s *shape) isTenant(parameter string) string {
	o := s.tenantAs
	text := fmt.Sprintf(`CASE WHEN format('%%s', %s) COLLATE "C" = %s::text THEN true ELSE false END`, o.Name, parameter)
	switch {
	case o.Equal == "":
		return text
	case o.Exact:
		return pgorder.Same([]pgorder.Column{o}, []string{o.Value(parameter)})
	}
	return pgorder.Same([]pgorder.Column{o}, []string{o.Value(parameter)}) + " AND " + text
}

func (s *shape) keyNames() []string {
	names := make([]string, len(s.key))
	for n, i := range s.key {
		names[n] = s.Table.Columns[i].Name
	}
	return names
}

func (s *shape) from() string {
	return s.name.String() + " AS t"
}
