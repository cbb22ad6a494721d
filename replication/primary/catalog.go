package primary

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"outflow/replication/wal"
)

// LoadTable reads a table from the catalog. LoadTable returns nil where there is no such table.
func LoadTable(ctx context.Context, conn *pgx.Conn, schema, name string) (*wal.Table, error) {
	t := &wal.Table{Relation: &wal.Relation{Schema: schema, Name: name, Table: name}}
	var kind, persist, identity string
	err := conn.QueryRow(ctx, `SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`, schema, name).
		Scan(&t.Relation.OID, &kind, &persist, &identity)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading the catalog of %s.%s: %w", schema, name, err)
	}
	if persist == "" || identity == "" {
		return nil, fmt.Errorf("reading the catalog of %s.%s: the server's answer has no persistence or no replica identity", schema, name)
	}
	t.Partition, t.Persist, t.Relation.Identity = kind == "p", persist[0], identity[0]
	rows, err := conn.Query(ctx, `SELECT a.attname::text, a.atttypid, a.atttypmod, a.attgenerated <> '',
			coalesce(a.attnum = ANY (k.columns) AND c.relreplident <> 'f', false)
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN LATERAL `+KeyIndex+` k ON true
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, t.Relation.OID)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s.%s: %w", schema, name, err)
	}
	var c wal.Column
	var generated bool
	_, err = pgx.ForEachRow(rows, []any{&c.Name, &c.TypeOID, &c.TypeMod, &generated, &c.Identity}, func() error {
		if generated {
			t.Generated = append(t.Generated, c.Name)
			return nil
		}
		c.Identity = c.Identity || identity == "f"
		t.Relation.Columns = append(t.Relation.Columns, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s.%s: %w", schema, name, err)
	}
	return t, resolveRelation(ctx, conn, t.Relation)
}

// resolveRelation sets the type names and the key.
//
// Types: without a modifier, for a value on the primary fits the modifier, and a value from another moment need not. format_type with -1
// gives names for any length ("bit", bpchar), with NULL the names of the standard, which mean a single character. A domain counts as its
// base type. Enums and composite types are text, and arrays of either are text[]: the external database need not have the types. A type
// dropped meanwhile is text.
//
// Key: with REPLICA IDENTITY FULL every column is of the identity, and rows are named by the primary key or another unique index without NULLs.
func resolveRelation(ctx context.Context, conn *pgx.Conn, r *wal.Relation) error {
	oids := make([]uint32, len(r.Columns))
	for i, c := range r.Columns {
		oids[i] = c.TypeOID
		r.Columns[i].Type = "text"
	}
	rows, err := conn.Query(ctx, `
		WITH RECURSIVE base AS (
			SELECT a.i, t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory
			FROM unnest($1::oid[]) WITH ORDINALITY AS a (oid, i) JOIN pg_type t ON t.oid = a.oid
			UNION ALL
			SELECT b.i, t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory
			FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
		SELECT b.i::int4, CASE
			WHEN b.typtype IN ('e', 'c') THEN 'text'
			WHEN b.typcategory = 'A' AND e.typtype IN ('e', 'c', 'd') THEN 'text[]'
			ELSE format_type(b.oid, -1) END
		FROM base b LEFT JOIN pg_type e ON e.oid = b.typelem WHERE b.typtype <> 'd'`, oids)
	if err != nil {
		return fmt.Errorf("resolving the types of %s: %w", r, err)
	}
	var i int32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&i, &name}, func() error {
		if i < 1 || int(i) > len(r.Columns) {
			return fmt.Errorf("the server names column %d of %d", i, len(r.Columns))
		}
		r.Columns[i-1].Type = name
		return nil
	})
	if err != nil {
		return fmt.Errorf("resolving the types of %s: %w", r, err)
	}
	return resolveKey(ctx, conn, r)
}

func resolveKey(ctx context.Context, conn *pgx.Conn, r *wal.Relation) error {
	r.Key = nil
	for i := range r.Columns {
		if r.Columns[i].Identity {
			r.Key = append(r.Key, i)
		}
	}
	if r.Identity != 'f' {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT a.attname::text FROM pg_class c CROSS JOIN LATERAL `+KeyIndex+` k
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (k.columns) WHERE c.oid = $1`, r.OID)
	if err != nil {
		return fmt.Errorf("reading the key of %s: %w", r, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("reading the key of %s: %w", r, err)
	}
	var key []int
	for i, c := range r.Columns {
		if slices.Contains(names, c.Name) {
			key = append(key, i)
		}
	}
	if len(key) == len(names) && len(key) > 0 {
		r.Key = key
	}
	return nil
}
