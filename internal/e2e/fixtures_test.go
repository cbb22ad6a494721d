package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"outflow/internal/config"
	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/mapping"
	"outflow/sink/destination"
	"outflow/sink/ledger"
	"outflow/sql"
)

// gated is a destination that cannot be reached before the gate is opened.
type gated struct {
	*faultproxy.Proxy
	dsn string // around the gate
}

func (w *world) gated(tenant, name string, mappings ...string) *gated {
	w.tb.Helper()
	proxy, err := faultproxy.New(w.cluster.Addr())
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = proxy.Close() })
	g := &gated{proxy, pgtest.Database(w.tb, w.cluster)}
	proxy.Refuse(true)
	w.addDestination(tenant, name, proxy.DSN(g.dsn), mappings...)
	return g
}

// open lets the destination be reached when n transactions wait for it.
func (g *gated) open(r *running, d *destination.Destination, n int) {
	r.tb.Helper()
	waitFor(r.tb, fmt.Sprintf("%d transactions to be queued", n), func() error {
		if queued := d.Status().Queued; queued != n {
			return fmt.Errorf("%d are", queued)
		}
		return nil
	})
	g.Refuse(false)
}

// destination finds one by its name.
func (r *running) destination(name string) *destination.Destination {
	r.tb.Helper()
	all := r.Router.Destinations()
	i := slices.IndexFunc(all, func(d *destination.Destination) bool { return d.Name == name })
	if i < 0 {
		r.tb.Fatalf("there is no destination %s", name)
	}
	return all[i]
}

// becomes waits for a state and returns the error that goes with it, "" for none.
func becomes(tb testing.TB, d *destination.Destination, state ledger.State) string {
	tb.Helper()
	var text string
	waitFor(tb, fmt.Sprintf("%s to be %s", d, state), func() error {
		s := d.Status()
		if s.State != state {
			return fmt.Errorf("it is %s: %w", s.State, s.Err)
		}
		if text = ""; s.Err != nil {
			text = s.Err.Error()
		}
		return nil
	})
	return text
}

// contains checks that a message has all of these parts.
func contains(tb testing.TB, text string, parts ...string) {
	tb.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			tb.Errorf("expected %q in:\n%s", part, text)
		}
	}
}

// createTables makes a mapping's tables before Outflow does.
func createTables(tb testing.TB, dsn string, mappings ...*mapping.Mapping) {
	tb.Helper()
	db := connect(tb, dsn)
	for _, m := range mappings {
		for _, f := range m.DDL() {
			exec(tb, db, f.SQL)
		}
	}
}

// journal has every write to a table noted: its kind, and the row.
func journal(tb testing.TB, dsn string, tables ...string) {
	tb.Helper()
	db := connect(tb, dsn)
	exec(tb, db, `
		CREATE TABLE journal (n bigserial, tbl text, op text, row jsonb);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO journal (tbl, op, row) VALUES (TG_TABLE_NAME, TG_OP,
				to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END));
			RETURN NULL;
		END $$`)
	for _, t := range tables {
		exec(tb, db, fmt.Sprintf(`CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %q FOR EACH ROW EXECUTE FUNCTION note()`, t))
	}
}

// defaults are the embedded mappings.
func defaults() (mapping.Set, error) {
	set := mapping.Set{}
	return set, set.LoadFS(sql.Mappings(), "embedded")
}

// journaled makes the tables of the default mappings, with a journal.
func journaled(tb testing.TB, dsn string) {
	tb.Helper()
	set, err := defaults()
	if err != nil {
		tb.Fatal(err)
	}
	createTables(tb, dsn, set["contact_channels"], set["users"])
	journal(tb, dsn, "contact_channels", "users")
}

// mapping adds a mapping file to the configuration and returns its path.
func (w *world) mapping(name, yaml string) string {
	w.tb.Helper()
	file := filepath.Join(w.tb.TempDir(), name+".yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		w.tb.Fatal(err)
	}
	w.cfg.Mappings = append(w.cfg.Mappings, file)
	return file
}

// mirror is a mapping that keeps a table as it is in a table "<name>_copy". The columns are "name type", those of the
// key first; the external key has the same columns.
func mirror(table string, keys int, columns ...string) string {
	var names, defs, updates, joins []string
	for i, c := range columns {
		name, _, _ := strings.Cut(c, " ")
		names, defs = append(names, name), append(defs, c)
		if i < keys {
			joins = append(joins, fmt.Sprintf("t.%s = r.%s", name, name))
		} else {
			updates = append(updates, fmt.Sprintf("%s = excluded.%s", name, name))
		}
	}
	conflict := "DO NOTHING"
	if len(updates) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(updates, ", ")
	}
	key := strings.Join(names[:keys], ", ")
	return fmt.Sprintf(`name: %[1]s
target: %[1]s_copy
schema: |
  CREATE TABLE IF NOT EXISTS %[1]s_copy (%[2]s, PRIMARY KEY (%[3]s))
steps:
  - from: %[1]s
    when: delete
    sql: |
      DELETE FROM %[1]s_copy t USING %[1]s r WHERE %[4]s
  - from: %[1]s
    when: upsert
    sql: |
      INSERT INTO %[1]s_copy (%[5]s)
      SELECT %[6]s FROM %[1]s r
      ON CONFLICT (%[3]s) %[7]s
keys:
  %[1]s: SELECT %[3]s FROM %[1]s_copy
`, table, strings.Join(defs, ", "), key, strings.Join(joins, " AND "), strings.Join(names, ", "),
		"r."+strings.Join(names, ", r."), conflict)
}

// table adds a table of the primary to the configuration, with a mirror under its name.
func (w *world) table(name string, keys int, columns ...string) {
	w.tb.Helper()
	w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: name, Tenant: "tenant"})
	w.mapping(name, mirror(name, keys, columns...))
}

// mirrored fails unless a mirror's table holds what the primary's table has for that tenant.
func (w *world) mirrored(tenant, dsn, table, columns string) {
	w.tb.Helper()
	want := query(w.tb, w.source, fmt.Sprintf(`SELECT %s FROM %s WHERE tenant = $1 ORDER BY 1, 2`, columns, table), tenant)
	got := query(w.tb, dsn, fmt.Sprintf(`SELECT %s FROM %s_copy ORDER BY 1, 2`, columns, table))
	if diff := cmp.Diff(want, got); diff != "" {
		w.tb.Errorf("%s of tenant %s differs (-primary +external):\n%.4000s", table, tenant, diff)
	}
}

// same fails unless the query gives those rows.
func same(tb testing.TB, dsn, sql string, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(append([]string{}, want...), append([]string{}, query(tb, dsn, sql)...)); diff != "" {
		tb.Errorf("%s (-expected +found):\n%.4000s", sql, diff)
	}
}

// role makes a role for this test, which owns nothing at its end; the cluster trusts everybody.
func (w *world) role(name, options string) string {
	w.tb.Helper()
	role := fmt.Sprintf("%s_%d_%d", name, os.Getpid(), slots.Add(1))
	w.exec(fmt.Sprintf("CREATE ROLE %s LOGIN %s", role, options))
	w.tb.Cleanup(func() {
		if err := w.cluster.Exec(context.Background(), "", "DROP ROLE IF EXISTS "+role); err != nil {
			w.tb.Logf("role %s is left: %v", role, err)
		}
	})
	return role
}

func withUser(tb testing.TB, dsn, role string) string {
	tb.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Replace(dsn, config.User+"@", role+"@", 1)
}
