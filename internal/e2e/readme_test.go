package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/mapping"
	"outflow/sink"
)

// documentation is the README and the documents in docs.
func documentation(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	var all strings.Builder
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		must(t, err)
		all.Write(text)
	}
	return all.String()
}

// documentedBlock is the fenced block of the documentation that stands under <!-- name -->.
func documentedBlock(t *testing.T, name string) string {
	t.Helper()
	_, rest, found := strings.Cut(documentation(t), "<!-- "+name+" -->\n")
	_, rest, fenced := strings.Cut(rest, "\n")
	block, _, closed := strings.Cut(rest, "```")
	if indent := len(block) - len(strings.TrimLeft(block, " ")); indent > 0 { // of a list's item
		margin := "\n" + block[:indent]
		block = strings.ReplaceAll("\n"+block, margin, "\n")[1:]
	}
	if !found || !fenced || !closed {
		t.Fatalf("the documentation has no block %q", name)
	}
	return block
}

// What docs/primary.md says the primary needs is what outflow init prints.
func TestReadmeShowsWhatInitPrints(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	if w.version() < 15 {
		t.Skip("docs/primary.md shows a publication with column lists")
	}
	u := w.db.Config()
	w.cfg.Source.Slot = "outflow_readme_x" // slots are the cluster's: another test may have made that of the default
	if err := w.db.QueryRow(t.Context(), `SELECT 1 FROM pg_roles WHERE rolname = 'outflow'`).Scan(new(int)); err == nil {
		t.Skip("the given server has a role outflow")
	}
	printed := w.init("outflow", false)
	printed = regexp.MustCompile(`the primary \S+\.`).ReplaceAllString(printed, "the primary db.example.com:5432/app.")
	printed = strings.ReplaceAll(printed, pgx.Identifier{u.Database}.Sanitize(), `"app"`)
	printed = strings.ReplaceAll(printed, w.cfg.Source.Slot, "outflow")
	if diff := cmp.Diff(printed, documentedBlock(t, "init")); diff != "" {
		t.Errorf("docs/primary.md differs from what init prints (-init +docs):\n%s", diff)
	}
}

func TestReadmeConfigurationLoads(t *testing.T) {
	environment := map[string]string{"OUTFLOW_SOURCE_DSN": "postgres://outflow@db/app", "ACME_DSN": "postgres://outflow@acme/app",
		"OUTFLOW_ADMIN_TOKEN": "0123456789abcdef"}
	for _, name := range []string{"configuration", "configuration of every key"} {
		file := filepath.Join(t.TempDir(), "outflow.yaml")
		if err := os.WriteFile(file, []byte(documentedBlock(t, name)), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(config.LoadOptions{File: file, Env: func(name string) (string, bool) {
			value, ok := environment[name]
			return value, ok
		}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		defaults := config.Default()
		if diff := cmp.Diff(defaults.Sink, cfg.Sink, cmpopts.IgnoreUnexported(sink.Options{})); diff != "" {
			t.Errorf("%s: the documented values are not the defaults (-default +documented):\n%s", name, diff)
		}
		if !slices.EqualFunc(defaults.Source.Tables, cfg.Source.Tables, func(a, b config.Table) bool { return a.Name == b.Name && a.Tenant == b.Tenant }) ||
			*defaults.Source.Tombstones != *cfg.Source.Tombstones || defaults.Log != cfg.Log || defaults.Admin.Listen != cfg.Admin.Listen ||
			defaults.Destinations.Query != cfg.Destinations.Query || defaults.Destinations.Refresh != cfg.Destinations.Refresh ||
			defaults.Destinations.Policy.MinSSLMode != cfg.Destinations.Policy.MinSSLMode || !slices.Equal(defaults.Destinations.Policy.Ports, cfg.Destinations.Policy.Ports) {
			t.Errorf("%s: the documented values are not the defaults", name)
		}
	}
}

// The query for Stack Auth finds the databases of its configuration, however that is written.
func TestReadmeStackAuth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.exec(`CREATE TABLE "Tenancy" ("id" uuid PRIMARY KEY, "projectId" text, "branchId" text);
		CREATE TABLE "BranchConfigOverride" ("projectId" text, "branchId" text, "config" jsonb, PRIMARY KEY ("projectId", "branchId"));
		CREATE TABLE "EnvironmentConfigOverride" ("projectId" text, "branchId" text, "config" jsonb, PRIMARY KEY ("projectId", "branchId"))`)
	w.exec(`INSERT INTO "Tenancy" VALUES ($1, 'p1', 'main'), ($2, 'p2', 'main'), ($3, 'p3', 'main')`, tenant1, tenant2, tenant3)
	nested, dotted := pgtest.Database(t, w.cluster), pgtest.Database(t, w.cluster)
	w.exec(`INSERT INTO "EnvironmentConfigOverride" VALUES
		('p1', 'main', jsonb_build_object('dbSync', jsonb_build_object('externalDatabases', jsonb_build_object('crm', jsonb_build_object('type', 'postgres', 'connectionString', $1::text),
			'lake', '{"type": "parquet", "connectionString": "x"}'::jsonb)), 'other', 1)),
		('p2', 'main', jsonb_build_object('dbSync.externalDatabases.warehouse', jsonb_build_object('type', 'postgres'),
			'dbSync.externalDatabases.warehouse.connectionString', $2::text)), ('p3', 'main', '{"dbSync": null, "x": {"y": 1}}')`, nested, dotted)
	w.existing(5, tenant1, tenant2, tenant3)
	w.cfg.Destinations.Query, w.cfg.Destinations.Refresh = documentedBlock(t, "stack auth"), 100*time.Millisecond
	r := w.start()
	r.has(2)
	r.caughtUp()
	w.equal(tenant1, nested)
	w.equal(tenant2, dotted)
	w.exec(`INSERT INTO "BranchConfigOverride" SELECT "projectId", "branchId", "config" FROM "EnvironmentConfigOverride" WHERE "projectId" = 'p2'`)
	w.exec(`UPDATE "EnvironmentConfigOverride" SET "config" = '{"dbSync.externalDatabases.warehouse": null}' WHERE "projectId" = 'p2'`)
	r.has(1)
	r.destination("crm")
}

// The worked example does what docs/mappings.md says.
func TestReadmeMapping(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dir := t.TempDir()
	example := documentedBlock(t, "mapping")
	if _, err := mapping.Load("mappings.md", []byte(example)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "people.yaml"), []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cfg.Mappings = []string{dir}
	dsn := w.destination(tenant1, "main", "people")
	w.start()
	const ada = "00000000-0000-4000-8000-000000000001"
	w.user(tenant1, ada, "Ada")
	w.user(tenant1, "00000000-0000-4000-8000-000000000002", "")
	w.user(tenant2, "00000000-0000-4000-8000-000000000003", "of somebody else")
	w.synced()
	people := func(want ...string) {
		t.Helper()
		got := query(t, dsn, `SELECT name, version > 0, changed_at <= now() FROM people ORDER BY name`)
		if !slices.Equal(want, got) {
			t.Errorf("people has %q, expected %q", got, want)
		}
	}
	people(`"Ada"|"t"|"t"`, `"nobody"|"t"|"t"`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'Ada L.' WHERE "projectUserId" = $1`, ada)
	w.synced()
	people(`"Ada L."|"t"|"t"`, `"nobody"|"t"|"t"`)
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId" = $1`, ada)
	w.synced()
	people(`"nobody"|"t"|"t"`)
	w.exec(`TRUNCATE "ProjectUser" CASCADE`)
	w.synced()
	people()
}

// docs/troubleshooting.md quotes what the example says when a column is wrong.
func TestReadmeMappingFault(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	file := filepath.Join(t.TempDir(), "people.yaml")
	wrong := strings.Replace(documentedBlock(t, "mapping"), `u."displayName"`, `u.nickname`, 1)
	if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cfg.Mappings = []string{file}
	w.destination(tenant1, "main", "people")
	r := w.start()
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	quoted := regexp.MustCompile("\\| `(people\\.yaml:[^`]+)`").FindStringSubmatch(documentation(t))
	if quoted == nil {
		t.Fatal("the documentation does not quote the fault")
	}
	waitFor(t, "the fault", func() error {
		err := r.Router.Destinations()[0].Status().Err
		if err == nil || !strings.Contains(err.Error(), quoted[1]) {
			return errors.Join(fmt.Errorf("expected %s", quoted[1]), err)
		}
		return nil
	})
	r.end()
}
