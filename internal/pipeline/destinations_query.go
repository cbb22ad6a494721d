package pipeline

import (
	"context"
	_ "embed"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/config"
	"outflow/internal/tenantdsn"
)

// Bounds of a tenant's input. The primary measures the values: a value beyond its bound is not read.
const (
	maxDefinitions = 50
	maxDefinition  = 64 << 10 // bytes
	maxKey         = 4 << 10  // bytes of tenant_id, and of name: longer ones come cut, and are refused
	maxMappings    = 64 << 10 // bytes of all names
	maxRows        = 200_000  // of the query

	maxPackedMappings    = 1 << 20 // bytes that an allowed array of mappings may take in storage
	maxPackedDefinitions = 4 << 20 // the same of definitions
)

// measuredSQL is destinations.query with the sizes of its values.
//
//go:embed destinations.sql
var measuredSQL string

// Unpacking takes a second for half a gigabyte, and the time is of all destinations. Where the query with all arrays takes longer than
// unpackPatience, arrays are unpacked for a while only as far as they take sparedBytes in storage, all rows together, the smallest first. The rows of
// the others stay as they were; new ones are halted.
const (
	unpackPatience = 4 * time.Second
	sparedBytes    = 16 << 20
	sparingFor     = 10 * time.Minute
)

// scan runs the measured query.
func (dir *directory) scan(ctx context.Context, conn *pgx.Conn, stored int64, patience time.Duration) (list []scanned, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL search_path = "$user", public`); err != nil { // as in psql; the path of this connection is empty
			return err
		}
		sql, err := measureQuery(ctx, tx, dir.query)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", patience.Milliseconds())); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, pgx.QueryExecModeExec, pgx.QueryResultFormats{pgx.TextFormatCode}, dir.bound, stored, maxRows+1, maxKey,
			tenantdsn.MaxDSN, tenantdsn.MaxCA, maxMappings, maxDefinitions, maxDefinition, maxPackedMappings, maxPackedDefinitions)
		if err != nil {
			return err
		}
		list, err = scanDestinations(rows, dir.bound)
		return err
	})
	return list, err
}

// scanInTime is scan with a way out where arrays take long to unpack.
func (dir *directory) scanInTime(ctx context.Context, conn *pgx.Conn) ([]scanned, error) {
	if time.Since(dir.sparing) > sparingFor {
		list, err := dir.scan(ctx, conn, math.MaxInt64, dir.patience)
		if sqlstateOf(err) != "57014" { // query_canceled
			return list, err
		}
		dir.log.Warn("destinations.query takes long to unpack mappings and definitions; the largest ones are skipped for a while")
		dir.sparing = time.Now()
	}
	return dir.scan(ctx, conn, dir.spared, queryTimeout)
}

// queryColumns are the columns of destinations.query: the first three must be there.
var queryColumns = []string{"tenant_id", "name", "dsn", "ca", "mappings", "definitions"}

// stringArrays are the types of mappings and definitions: text[], varchar[], name[], bpchar[].
var stringArrays = []uint32{1009, 1015, 1003, 1014}

// measureQuery makes the measured query of the operator's query.
func measureQuery(ctx context.Context, tx pgx.Tx, query string) (string, error) {
	query = strings.TrimRight(query, "; \t\r\n")
	described, err := tx.Conn().PgConn().Prepare(ctx, "", query, nil)
	if err != nil {
		return "", err
	}
	columns, fault := measuredColumns(described.Fields)
	if fault != nil {
		if _, err := tx.Exec(ctx, query); err != nil { // a query that fails has that fault first
			return "", err
		}
		return "", fault
	}
	return strings.NewReplacer("{columns}", columns, "{query}", query).Replace(measuredSQL), nil
}

// measuredColumns are the expressions for all columns over those that the query gives. The error is a [config.Fault] of the query.
func measuredColumns(given []pgconn.FieldDescription) (list string, fault error) {
	types := map[string]uint32{}
	for _, f := range given {
		if _, twice := types[f.Name]; twice || !slices.Contains(queryColumns, f.Name) {
			fault = config.Faultf("the query returns a column %q that is unknown, or appears twice; known columns are %s", f.Name, strings.Join(queryColumns, ", "))
		}
		types[f.Name] = f.DataTypeOID
	}
	for _, need := range queryColumns[:3] {
		if _, ok := types[need]; !ok {
			return "", config.Faultf("the query returns no column %s; it must return tenant_id, name and dsn, and may return mappings, definitions and ca", need)
		}
	}
	var all []string
	for _, name := range queryColumns {
		as, kind := name, "text"
		if name == "tenant_id" {
			as = "tenant"
		}
		if name == "mappings" || name == "definitions" {
			kind = "text[]"
		}
		oid, ok := types[name]
		value := fmt.Sprintf("x.%q::%s", name, kind)
		if !ok {
			value = "NULL::" + kind
		}
		if ok && kind == "text[]" && !slices.Contains(stringArrays, oid) && fault == nil {
			fault = config.Faultf("mappings and definitions are text[], all others text; %s is not", name)
		}
		all = append(all, value+" AS "+as)
	}
	return strings.Join(all, ", "), fault
}

// scanned is one row of destinations.query.
type scanned struct {
	tenant, name string
	late         bool // the arrays were not unpacked
	row          destinationRow
}

// sizes are the sizes of a row's values, in bytes.
type sizes struct {
	tenant, name, dsn, ca, mappings, definitions, count, longest int64
	late, read                                                   bool
}

// fault says why values of the row were not read; "" where all were.
func (s sizes) fault(all int64) string {
	if s.late {
		return fmt.Sprintf("the row's mappings and definitions, %d bytes in storage, are among the largest, and reading all of them takes longer than %s",
			s.mappings+s.definitions, unpackPatience)
	}
	for _, v := range []struct {
		what        string
		size, bound int64
	}{{"dsn", s.dsn, tenantdsn.MaxDSN}, {"ca", s.ca, tenantdsn.MaxCA}, {"mappings", s.mappings, maxMappings},
		{"the longest of definitions", s.longest, maxDefinition}} {
		if v.size > v.bound {
			return fmt.Sprintf("%s has %d bytes; %d are allowed", v.what, v.size, v.bound)
		}
	}
	switch {
	case s.count > maxDefinitions:
		return fmt.Sprintf("the row has %d definitions; %d are allowed", s.count, maxDefinitions)
	case !s.read:
		return fmt.Sprintf("the row has %d bytes, and all rows of destinations.query together have more than %d: the largest rows are not read; "+
			"the operator may raise sink.memory_bytes",
			s.dsn+s.ca+s.mappings+s.definitions, all)
	}
	return ""
}

// scanDestinations reads the rows of a measured query. bound is the parameter of the query.
func scanDestinations(rows pgx.Rows, bound int64) ([]scanned, error) {
	defer rows.Close()
	var list []scanned
	for rows.Next() {
		var s scanned
		var z sizes
		var tenant, name, dsn, ca *string
		var mappings, definitions []*string
		if err := rows.Scan(&tenant, &name, &dsn, &ca, &mappings, &definitions, &z.tenant, &z.name, &z.dsn, &z.ca, &z.mappings, &z.definitions,
			&z.count, &z.longest, &z.late, &z.read); err != nil {
			return nil, err
		}
		text := func(p *string) string {
			if p == nil {
				return ""
			}
			return *p
		}
		s.tenant, s.name, s.row.dsn, s.row.ca = text(tenant), text(name), text(dsn), text(ca)
		s.row.fault, s.late = z.fault(bound), z.late
		for _, l := range []struct {
			from []*string
			to   *[]string
		}{{mappings, &s.row.mappings}, {definitions, &s.row.definitions}} {
			for _, item := range l.from {
				if item == nil {
					s.row.fault = "a NULL among mappings or definitions"
					continue
				}
				*l.to = append(*l.to, *item)
			}
		}
		list = append(list, s)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(list) > maxRows {
		return nil, config.Faultf("the query returns more than %d rows", maxRows)
	}
	return list, nil
}
