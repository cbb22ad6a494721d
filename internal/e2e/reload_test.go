package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// SIGHUP reads the configuration again. One with a fault is refused, and the old one goes on.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1, tenant2)
	first := w.destination(tenant1, "main")
	file := w.configFile()
	p := launch(t, "run", "--config", file)
	p.says("all rows are copied")
	content, err := os.ReadFile(file)
	must(t, err)
	hangup := func(content, says string) {
		t.Helper()
		must(t, os.WriteFile(file, []byte(content), 0o600))
		must(t, p.cmd.Process.Signal(syscall.SIGHUP))
		p.says(says)
	}
	good := string(content)
	hangup(good+"nonsense: true\n", `unknown key \"nonsense\"`)
	hangup(strings.Replace(good, "\nmappings: []", "\nmappings: [nowhere.yaml]", 1), "nowhere.yaml: no such file")
	hangup(strings.Replace(good, "tenancyId", "tenant_id", 1), "tenant_id")
	hangup(strings.Replace(good, tenant1, "acme", 1), `destinations.static[0]: tenant \"acme\"`)
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "under the old one")
	w.synced()
	w.equal(tenant1, first)
	epoch := w.epoch(tenant1, "main")

	second := pgtest.Database(t, w.cluster)
	w.addDestination(tenant2, "second", second)
	added, err := os.ReadFile(w.configFile())
	must(t, err)
	hangup(string(added), "going on with the new configuration")
	waitFor(t, "the new destination to be filled", func() error {
		if w.state(tenant2, "second") != "streaming" {
			return os.ErrNotExist
		}
		return nil
	})
	w.user(tenant1, "00000000-0000-4000-8000-000000999992", "under the new one")
	w.synced()
	w.equal(tenant1, first)
	w.equal(tenant2, second)
	if now := w.epoch(tenant1, "main"); now != epoch {
		t.Errorf("the reload copied the other one anew: epoch %s is %s", epoch, now)
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
}

// A configuration that is read while the primary is away waits for the primary: nothing else would read the configuration again.
func TestReloadWithoutPrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1, tenant2)
	w.destination(tenant1, "main")
	proxy, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	w.cfg.Source.DSN = secret.New(proxy.DSN(w.source))
	file := w.configFile()
	p := launch(t, "run", "--config", file)
	p.says("all rows are copied")

	proxy.Refuse(true)
	second := pgtest.Database(t, w.cluster)
	w.addDestination(tenant2, "second", second)
	added, err := os.ReadFile(w.configFile())
	must(t, err)
	must(t, os.WriteFile(file, added, 0o600))
	must(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.says("the new configuration waits for the primary")
	proxy.Refuse(false)
	p.says("going on with the new configuration")
	waitFor(t, "the new destination to be filled", func() error {
		if w.state(tenant2, "second") != "streaming" {
			return os.ErrNotExist
		}
		return nil
	})
	w.equal(tenant2, second)
}
