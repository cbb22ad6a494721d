package main

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
)

func TestDemo(t *testing.T) {
	anyVersion(t)
	pgtest.Shared(t) // skips where there is no Postgres
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // servers may run as another user
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	p := launch(t, "demo", "--duration", "3s", "--rate", "300", "--tenants", "2")
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.out)
	}
	text := p.out.String()
	if !strings.HasSuffix(text, "\nverified\n") {
		t.Errorf("the last line is not verified:\n%s", text)
	}
	for _, want := range []string{"tenant_2    users", "tenant_1    contact_channels", ": equal", "\nDashboard: http://127.0.0.1:"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %q:\n%s", want, text)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("%d things are left in %s, as %s", len(left), dir, left[0].Name())
	}
}

func TestDemoKeepsTheServers(t *testing.T) {
	anyVersion(t)
	if os.Getenv("OUTFLOW_TEST_PG_URL") != "" {
		t.Skip("given servers run on anyway")
	}
	pgtest.Shared(t)
	p := launch(t, "demo", "--duration", "1s", "--rate", "100", "--tenants", "1", "--keep")
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.out)
	}
	text := p.out.String()
	_, commands, _ := strings.Cut(text, "Stop and remove them:\n")
	commands, _, found := strings.Cut(commands, "\n\nverified\n")
	if !found {
		t.Fatalf("the output does not say how to stop the servers:\n%s", text)
	}
	t.Cleanup(func() {
		for command := range strings.Lines(commands) {
			if out, err := osexec.Command("sh", "-c", command).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", command, err, out)
			}
		}
	})
	dsn := regexp.MustCompile(`  tenant_1  (\S+)\n`).FindStringSubmatch(text)
	if dsn == nil {
		t.Fatalf("the output does not say how to reach tenant_1:\n%s", text)
	}
	if rows := query(t, dsn[1], `SELECT count(*) > 9000 FROM users`); rows[0] != `"t"` {
		t.Errorf("the kept database lacks the rows")
	}
}

// The comparison must see what is missing, too much, and different.
func TestDemoSeesDifferences(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.start().caughtUp() // a copy would undo what the test writes below
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	w.user(tenant1, "00000000-0000-4000-8000-000000000002", "Blaise")
	w.user(tenant2, "00000000-0000-4000-8000-000000000003", "of somebody else")
	w.synced()
	var out strings.Builder
	d := &demo{out: &out, servers: demoServers{source: w.source, tenants: []demoTenant{{id: tenant1, name: "one", dsn: dsn}}}}
	if err := d.verify(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	external := connect(t, dsn)
	exec(t, external, `UPDATE users SET display_name = 'Ida' WHERE display_name = 'Ada'`)
	exec(t, external, `INSERT INTO contact_channels (id, user_id, type, value, created_at)
		VALUES (gen_random_uuid(), gen_random_uuid(), 'EMAIL', 'x@example.com', now())`)
	exec(t, external, `DELETE FROM users WHERE display_name = 'Blaise'`)
	out.Reset()
	err := d.verify(t.Context())
	if err == nil || !strings.Contains(err.Error(), "4 rows differ") {
		t.Errorf("%v; expected 4 differences\n%s", err, out.String())
	}
	for _, want := range []string{`only in the external database: {"id"`, "Ida", `only on the primary: {"id"`, "Blaise"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

func TestDemoRefusesBadFlags(t *testing.T) {
	for _, d := range []demoOptions{{Tenants: 0, Rate: 1}, {Tenants: 1, Rate: 0}, {Tenants: 1, Rate: 1, Duration: -1}} {
		if err := d.validate(); err == nil {
			t.Errorf("%+v was taken", d)
		}
	}
}

// What cannot begin is removed, and its reason is told.
func TestDemoPipelineFails(t *testing.T) {
	c := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	s := &demoServers{primary: c, external: c}
	dsn, err := s.create(t.Context(), c, "outflow_demo")
	if err != nil {
		t.Fatal(err)
	}
	s.source, s.tenants = dsn, []demoTenant{{id: tenant1, name: "one", dsn: dsn}}
	if _, _, err := s.openPipeline(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v; expected the missing tables to be named", err)
	}
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
}
