package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/tenantdsn"
)

// scanOf is what a query over the tables of a database gives: by name, the sizes of the values that were sent, or why they were not.
func scanOf(t *testing.T, dir *directory, dsn string, stored int64) map[string]string {
	t.Helper()
	list, err := dir.scan(t.Context(), dial(t, dsn), stored, queryTimeout)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, s := range list {
		name, _, _ := strings.Cut(s.name, " ")
		found[name] = s.row.fault
		if s.row.fault == "" {
			found[name] = fmt.Sprintf("%d %d %d %d", len(s.row.dsn), len(s.row.ca), len(s.row.mappings), len(s.row.definitions))
		}
		if len([]rune(s.tenant)) > maxKey || len([]rune(s.name)) > maxKey {
			t.Errorf("%s: the tenant has %d bytes, and the name %d", name, len(s.tenant), len(s.name))
		}
	}
	return found
}

// Each value has its bound, and a row with a value beyond the bound comes without any value.
func TestDestinationsQuery(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, pgtest.Shared(t))
	db := dial(t, dsn)
	run := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	run(`CREATE TABLE app (tenant text, name varchar, dsn text, ca text, mappings varchar[], definitions text[])`)
	put := func(name, dsn, ca string, mappings, definitions []string) {
		run(`INSERT INTO app VALUES ('t', $1, $2, $3, $4, $5)`, name, dsn, ca, mappings, definitions)
	}
	many := func(n int, of string) (all []string) { return slices.Repeat([]string{of}, n) }
	put("whole", "postgres://", "ca", []string{"a", "b"}, []string{"c"})
	put("bare", "postgres://", "", nil, nil)
	put("dsn", strings.Repeat("x", tenantdsn.MaxDSN+1), "", nil, nil)
	put("ca", "postgres://", strings.Repeat("x", tenantdsn.MaxCA+1), nil, nil)
	put("mappings", "postgres://", "", many(2, strings.Repeat("x", maxMappings/2+1)), nil)
	put("number", "postgres://", "", nil, many(maxDefinitions+1, "x"))
	put("longest", "postgres://", "", nil, []string{strings.Repeat("x", maxDefinition+1), "x"})
	put("packed", "postgres://", "", nil, []string{strings.Repeat("x", 20_000_000)}) // a hundredth of that in storage
	put("name "+strings.Repeat("é", maxKey), "postgres://", "", nil, nil)
	run(`INSERT INTO app VALUES ('t', 'null', 'postgres://', NULL, ARRAY['a', NULL], NULL)`)
	dir := &directory{query: `SELECT tenant AS tenant_id, name, dsn, ca, mappings, definitions FROM app -- {columns} {query}
		WHERE true -- of several lines;`, bound: 1 << 30}
	want := map[string]string{
		"whole":    "11 2 2 1",
		"bare":     "11 0 0 0",
		"dsn":      fmt.Sprintf("dsn has %d bytes; %d are allowed", tenantdsn.MaxDSN+1, tenantdsn.MaxDSN),
		"ca":       fmt.Sprintf("ca has %d bytes; %d are allowed", tenantdsn.MaxCA+1, tenantdsn.MaxCA),
		"mappings": fmt.Sprintf("mappings has %d bytes; %d are allowed", maxMappings+2, maxMappings),
		"number":   "the row has 51 definitions; 50 are allowed",
		"longest":  fmt.Sprintf("the longest of definitions has %d bytes; %d are allowed", maxDefinition+1, maxDefinition),
		"packed":   fmt.Sprintf("the longest of definitions has %d bytes; %d are allowed", 20_000_000, maxDefinition),
		"name":     "the row has 11 bytes, and all rows", // the caller refuses the name, by its length
		"null":     "a NULL among mappings or definitions",
	}
	compare := func(got map[string]string) {
		t.Helper()
		for name, text := range want {
			if !strings.HasPrefix(got[name], text) {
				t.Errorf("%s: %q; expected %q", name, got[name], text)
			}
		}
		if len(got) != len(want) {
			t.Errorf("there are %d rows; expected %d", len(got), len(want))
		}
	}
	compare(scanOf(t, dir, dsn, math.MaxInt64))

	// Together the rows have more than the bound: the largest one is not read.
	dir.bound = 50
	want["whole"] = "the row has 16 bytes, and all rows of destinations.query together have more than 50"
	compare(scanOf(t, dir, dsn, math.MaxInt64))

	// Unpacking takes too long: only small arrays are unpacked.
	dir.bound = 1 << 30
	late := "the row's mappings and definitions, "
	want["whole"], want["longest"], want["packed"], want["number"], want["mappings"] = "11 2 2 1", late, late, late, late
	compare(scanOf(t, dir, dsn, 300))
}

// A query that cannot be destinations.query is a fault of the configuration that names the column; a query that fails says so first.
func TestDestinationsQueryColumns(t *testing.T) {
	t.Parallel()
	conn := dial(t, pgtest.Database(t, pgtest.Shared(t)))
	for query, text := range map[string]string{
		`SELECT 't' AS tenant_id, 'n' AS name`:                                                   "the query returns no column dsn",
		`SELECT 't' AS tenant_id, 'n' AS name, 'd' AS dsn, 1 AS extra`:                           `a column "extra" that is unknown`,
		`SELECT 't' AS tenant_id, 'n' AS name, 'd' AS dsn, 'x' AS name`:                          `a column "name" that is unknown, or appears twice`,
		`SELECT 't' AS tenant_id, 'n' AS name, 'd' AS dsn, 'a' AS mappings`:                      "mappings and definitions",
		`SELECT 't' AS tenant_id, 'n' AS name, 'd' AS dsn, ARRAY[1] AS definitions`:              "definitions is not",
		`SELECT t AS tenant_id, 'n' AS name FROM nowhere`:                                        `"nowhere" does not exist`,
		`SELECT 't' AS tenant_id, 'n' AS name, 1 / (SELECT 0) AS extra`:                          "division by zero",
		`SELECT 't' || n AS tenant_id, 'n' AS name, '' AS dsn FROM generate_series(0, 200000) n`: "the query returns more than 200000 rows",
	} {
		dir := &directory{query: query, bound: 1 << 30}
		_, err := dir.scan(t.Context(), conn, math.MaxInt64, queryTimeout)
		if err == nil || !strings.Contains(err.Error(), text) || !config.IsFault(explainQuery(err)) {
			t.Errorf("%s: %v; expected %q", query, err, text)
		}
	}
}

// Definitions that take long to unpack do not keep the rows of others from being read, and known rows stay as known.
func TestDefinitionsThatTakeLong(t *testing.T) {
	t.Parallel()
	conn := dial(t, pgtest.Database(t, pgtest.Shared(t)))
	put := func(name, definition string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), `INSERT INTO app SELECT 't', $1, 'postgres://', ARRAY[`+definition+`]`, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), `CREATE TABLE app (tenant_id text, name text, dsn text, definitions text[])`); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Destinations.Query = `SELECT * FROM app`
	dir := newDirectory(&Plan{cfg: cfg}, nil, zap.NewNop())
	dir.patience, dir.spared = 100*time.Millisecond, 10_000
	put("main", `'name: x'`)
	put("before", `repeat('x', 2000000)`)
	read := func() map[destinationID]destinationRow {
		t.Helper()
		found, err := dir.read(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	dir.rows = read()
	put("huge", `repeat('x', 120000000)`)
	put("late", `'name: y'`)
	found := read()
	for name, fault := range map[string]string{"main": "", "late": "", "before": "the longest of definitions has 2000000 bytes", "huge": "among the largest"} {
		row, ok := found[destinationID{"t", name}]
		if !ok || !strings.Contains(row.fault, fault) || fault == "" && (row.fault != "" || len(row.definitions) != 1) {
			t.Errorf("%s: %.200q; expected the fault %q", name, fmt.Sprint(row), fault)
		}
	}
	if err := dir.fault(); err != nil {
		t.Error(err)
	}
}
