package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
)

// stackAuthConfig is one tenant of Stack Auth; nil means that the table has no row.
type stackAuthConfig struct{ branch, environment any }

// stackAuthTables makes Stack Auth's tables, as far as the query reads them. Each tenant's project and branch are its number; every tenth
// project has a second tenancy, of an organization.
func stackAuthTables(t *testing.T, conn *pgx.Conn, all []stackAuthConfig) {
	t.Helper()
	exec(t, conn, `SET jit = off`) // as in the documentation
	exec(t, conn, `CREATE TABLE "Tenancy" ("id" text PRIMARY KEY, "projectId" text NOT NULL, "branchId" text NOT NULL)`)
	var tenancies [][]any
	rows := map[string][][]any{"BranchConfigOverride": nil, "EnvironmentConfigOverride": nil}
	for i, c := range all {
		project := fmt.Sprint(i)
		tenancies = append(tenancies, []any{project, project, "main"})
		if i%10 == 0 {
			tenancies = append(tenancies, []any{project + "o", project, "main"})
		}
		for table, config := range map[string]any{"BranchConfigOverride": c.branch, "EnvironmentConfigOverride": c.environment} {
			if config == nil {
				continue
			}
			text, err := json.Marshal(config)
			must(t, err)
			rows[table] = append(rows[table], []any{project, "main", text}, []any{project, "other", []byte(`{"dbSync.externalDatabases": {"elsewhere": {"type": "postgres", "connectionString": "x"}}}`)})
		}
	}
	rows["Tenancy"] = tenancies
	columns := map[string][]string{"Tenancy": {"id", "projectId", "branchId"}}
	for _, table := range slices.Sorted(maps.Keys(rows)) {
		if columns[table] == nil {
			exec(t, conn, fmt.Sprintf(`CREATE TABLE %q ("projectId" text, "branchId" text, "config" jsonb NOT NULL, PRIMARY KEY ("projectId", "branchId"))`, table))
			columns[table] = []string{"projectId", "branchId", "config"}
		}
		_, err := conn.CopyFrom(t.Context(), pgx.Identifier{table}, columns[table], pgx.CopyFromRows(rows[table]))
		must(t, err)
		exec(t, conn, fmt.Sprintf(`ANALYZE %q`, table))
	}
}

// stackAuthRows are the rows of a query, sorted.
func stackAuthRows(t *testing.T, conn *pgx.Conn, query string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	must(t, err)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var tenant, name, dsn string
		err := row.Scan(&tenant, &name, &dsn)
		return fmt.Sprintf("%s %q %q", tenant, name, dsn), err
	})
	must(t, err)
	slices.Sort(found)
	return found
}

// stackAuthExpected are the rows of the reference, sorted.
func stackAuthExpected(all []stackAuthConfig) []string {
	var expected []string
	for i, c := range all {
		for name, dsn := range stackAuthDatabases(c.branch, c.environment) {
			expected = append(expected, fmt.Sprintf("%d %q %q", i, name, dsn))
			if i%10 == 0 {
				expected = append(expected, fmt.Sprintf("%do %q %q", i, name, dsn))
			}
		}
	}
	slices.Sort(expected)
	return expected
}

// The rules, one by one, with what each must give: of the query, and of the reference, which the random configurations are compared with.
func TestStackAuthQueryByRule(t *testing.T) {
	t.Parallel()
	const whole = `{"type": "postgres", "connectionString": "A"}`
	cases := []struct{ rule, branch, environment, want string }{
		{"nested", ``, `{"dbSync": {"externalDatabases": {"crm": ` + whole + `}}}`, `crm=A`},
		{"dots", ``, `{"dbSync.externalDatabases.crm": ` + whole + `}`, `crm=A`},
		{"dots at the end", ``, `{"dbSync": {"externalDatabases.crm": ` + whole + `}}`, `crm=A`},
		{"a leaf without its record", ``, `{"dbSync.externalDatabases.crm.type": "postgres", "dbSync.externalDatabases.crm.connectionString": "A"}`, ``},
		{"a leaf with its record", ``, `{"dbSync.externalDatabases.crm": {}, "dbSync.externalDatabases.crm.type": "postgres", "dbSync.externalDatabases.crm.connectionString": "A"}`, `crm=A`},
		{"a leaf over its record", ``, `{"dbSync.externalDatabases.crm": ` + whole + `, "dbSync.externalDatabases.crm.connectionString": "B"}`, `crm=B`},
		{"a record over the list", ``, `{"dbSync": {"externalDatabases": {"crm": ` + whole + `}}, "dbSync.externalDatabases.crm": {"type": "postgres"}}`, ``},
		{"fewer dots first", ``, `{"dbSync.externalDatabases.crm": ` + whole + `, "dbSync.externalDatabases": {"lake": ` + whole + `}}`, `crm=A lake=A`},
		{"null of a record", ``, `{"dbSync": {"externalDatabases": {"crm": ` + whole + `}}, "dbSync.externalDatabases.crm": null}`, ``},
		{"null of a leaf", ``, `{"dbSync.externalDatabases.crm": ` + whole + `, "dbSync.externalDatabases.crm.connectionString": null}`, ``},
		{"null of the list", `{"dbSync.externalDatabases.crm": ` + whole + `}`, `{"dbSync.externalDatabases": null}`, ``},
		{"null of the list, then a record", ``, `{"dbSync": null, "dbSync.externalDatabases": null, "dbSync.externalDatabases.crm": ` + whole + `}`, `crm=A`},
		{"null within", ``, `{"dbSync.externalDatabases": {"crm": ` + whole + `, "crm.type": null}}`, ``},
		{"the environment's over the branch's", `{"dbSync.externalDatabases.crm": ` + whole + `}`, `{"dbSync.externalDatabases.crm.connectionString": "B"}`, `crm=B`},
		{"the environment removes", `{"dbSync.externalDatabases.crm": ` + whole + `}`, `{"dbSync.externalDatabases.crm": null}`, ``},
		{"the environment's shallow key over the branch's deep one", `{"dbSync.externalDatabases.crm.connectionString": "B"}`, `{"dbSync": {"externalDatabases": {"crm": ` + whole + `}}}`, `crm=A`},
		{"the environment beside the branch", `{"dbSync.externalDatabases.crm": ` + whole + `}`, `{"dbSync.externalDatabases.lake": ` + whole + `}`, `crm=A lake=A`},
		{"the branch alone", `{"dbSync": {"externalDatabases": {"crm": ` + whole + `}}}`, ``, `crm=A`},
		{"another type", ``, `{"dbSync.externalDatabases": {"crm": {"type": "parquet", "connectionString": "A"}, "lake": {"connectionString": "A"}}}`, ``},
		{"no string", ``, `{"dbSync.externalDatabases": {"a": {"type": "postgres", "connectionString": ""}, "b": {"type": "postgres", "connectionString": 5}, "c": {"type": "postgres"}}}`, ``},
		{"a list that is none", ``, `{"dbSync.externalDatabases": "x", "dbSync.externalDatabases.crm": ` + whole + `}`, ``},
		{"a list of another kind", ``, `{"dbSync.externalDatabases": [` + whole + `]}`, ``},
		{"a list that is none, replaced", `{"dbSync.externalDatabases": 5}`, `{"dbSync": {}, "dbSync.externalDatabases.crm": ` + whole + `}`, `crm=A`},
		{"dbSync that is none", ``, `{"dbSync": 5, "dbSync.externalDatabases": {"crm": ` + whole + `}}`, ``},
		{"a record that is none", ``, `{"dbSync.externalDatabases.crm": "x", "dbSync.externalDatabases.crm.type": "postgres", "dbSync.externalDatabases.crm.connectionString": "A"}`, ``},
		{"empty keys", ``, `{"": {"dbSync": 1}, "dbSync.externalDatabases": {"": ` + whole + `, "crm": ` + whole + `}, "dbSync.externalDatabases.": ` + whole + `}`, `crm=A`},
		{"other keys", ``, `{"dbSyncs.externalDatabases.crm": ` + whole + `, "x": {"dbSync": {"externalDatabases": {"crm": ` + whole + `}}}}`, ``},
		{"no object", `5`, `["dbSync"]`, ``},
	}
	var all []stackAuthConfig
	for _, c := range cases {
		var one stackAuthConfig
		for text, to := range map[string]*any{c.branch: &one.branch, c.environment: &one.environment} {
			if text != "" {
				must(t, json.Unmarshal([]byte(text), to))
			}
		}
		all = append(all, one)
	}
	conn := connect(t, pgtest.Database(t, pgtest.Shared(t)))
	stackAuthTables(t, conn, all)
	found := map[string][]string{}
	for _, row := range stackAuthRows(t, conn, documentedBlock(t, "stack auth")) {
		tenant, rest, _ := strings.Cut(row, " ")
		found[tenant] = append(found[tenant], strings.ReplaceAll(strings.ReplaceAll(rest, `" "`, "="), `"`, ""))
	}
	for i, c := range cases {
		if got := strings.Join(found[fmt.Sprint(i)], " "); got != c.want {
			t.Errorf("%s: the query gives %q, expected %q", c.rule, got, c.want)
		}
		var reference []string
		for name, dsn := range stackAuthDatabases(all[i].branch, all[i].environment) {
			reference = append(reference, name+"="+dsn)
		}
		slices.Sort(reference)
		if got := strings.Join(reference, " "); got != c.want {
			t.Errorf("%s: the reference gives %q, expected %q", c.rule, got, c.want)
		}
	}
}

// Ten thousand random configurations give what the reference gives, row for row; and a query with one rule wrong gives something else.
func TestStackAuthQueryAgainstReference(t *testing.T) {
	t.Parallel()
	const seed, configurations = 11, 10_000
	w := stackAuthWriter{rand.New(rand.NewPCG(seed, seed))}
	all := make([]stackAuthConfig, configurations)
	for i := range all {
		if w.r.IntN(3) > 0 {
			all[i].branch = w.configuration()
		}
		if w.r.IntN(8) > 0 {
			all[i].environment = w.configuration()
		}
	}
	expected := stackAuthExpected(all)
	if len(expected) < configurations/5 {
		t.Fatalf("only %d databases are expected: the configurations are too wild", len(expected))
	}
	conn := connect(t, pgtest.Database(t, pgtest.Shared(t)))
	stackAuthTables(t, conn, all)
	query := documentedBlock(t, "stack auth")
	found := stackAuthRows(t, conn, query)
	if diff := cmp.Diff(expected, found); diff != "" {
		t.Errorf("seed %d (-reference +query):\n%.4000s", seed, diff)
		stackAuthExplain(t, all, expected, found)
	}
	for right, wrong := range map[string]string{
		"ARRAY[layer, cardinality(string_to_array(key, '.'))]": "ARRAY[3 - layer, cardinality(string_to_array(key, '.'))]",
		"turn || cardinality":         "turn || 9 - cardinality",
		"list, turn DESC":             "list, turn",
		"AND value = 'null'":          "AND value = '5'",
		"turn || 0, '{}'":             "turn || 0, '5'",
		"made > emptied":              "made IS NOT NULL",
		"turn > made":                 "turn <> made",
		"usable AND":                  "",
		"AND value <> '\"\"'":         "",
		" AND value = '\"postgres\"'": "",
		"name <> '' AND":              "",
		"AND item.key <> ''":          "",
		"AND cardinality(path) <= 4":  "",
	} {
		if !strings.Contains(query, right) {
			t.Errorf("the query has no %q", right)
		} else if slices.Equal(expected, stackAuthRows(t, conn, strings.ReplaceAll(query, right, wrong))) {
			t.Errorf("with %q in the place of %q the query gives the same: the configurations do not test that rule", wrong, right)
		}
	}
}

// stackAuthExplain shows the first configurations of those that differ.
func stackAuthExplain(t *testing.T, all []stackAuthConfig, expected, found []string) {
	t.Helper()
	tenants := map[string]bool{}
	for _, lists := range [][2][]string{{expected, found}, {found, expected}} {
		for _, row := range lists[0] {
			if !slices.Contains(lists[1], row) && len(tenants) < 3 {
				tenant, _, _ := strings.Cut(row, " ")
				tenants[strings.TrimSuffix(tenant, "o")] = true
			}
		}
	}
	for _, tenant := range slices.Sorted(maps.Keys(tenants)) {
		var i int
		_, err := fmt.Sscan(tenant, &i)
		must(t, err)
		branch, _ := json.Marshal(all[i].branch)
		environment, _ := json.Marshal(all[i].environment)
		t.Logf("tenant %s: branch %s, environment %s", tenant, branch, environment)
	}
}

// The documented rights suffice for the query.
func TestStackAuthQueryRights(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, pgtest.Shared(t))
	conn := connect(t, dsn)
	stackAuthTables(t, conn, []stackAuthConfig{{environment: map[string]any{"dbSync.externalDatabases.crm": map[string]any{"type": "postgres", "connectionString": "A"}}}})
	role := fmt.Sprintf("stack_auth_%d", rand.Int64())
	exec(t, conn, "CREATE ROLE "+role)
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), "RESET ROLE; DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	exec(t, conn, strings.ReplaceAll(documentedBlock(t, "stack auth rights"), "outflow", role))
	exec(t, conn, "SET ROLE "+role)
	if found := stackAuthRows(t, conn, documentedBlock(t, "stack auth")); !slices.Equal(found, []string{`0 "crm" "A"`, `0o "crm" "A"`}) {
		t.Errorf("with the documented rights: %q", found)
	}
}
