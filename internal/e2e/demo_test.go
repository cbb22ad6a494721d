package e2e

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
