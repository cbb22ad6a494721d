package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"outflow/admin/monitor"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// exits runs a command to its end and returns what the command printed; the exit code must be that one.
func exits(tb testing.TB, code int, args ...string) string {
	tb.Helper()
	p := launch(tb, args...)
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != code {
		tb.Errorf("outflow %s: exit code %d; expected %d:\n%.4000s", strings.Join(args, " "), p.cmd.ProcessState.ExitCode(), code, p.out)
	}
	return p.out.String()
}

// statusAnswer is what outflow status -o json prints.
type statusAnswer struct {
	From         string
	Status       monitor.Status
	Destinations []monitor.Destination
	Total        int
}

// Orders about a destination in its first seconds, before the primary has a note on it: pause holds before the destination begins, and retry and
// resync say that it has not begun. A name that is not configured stays unknown.
func TestOrdersBeforeTheFirstNote(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	r.end()
	w.addDestination(tenant1, "early", pgtest.Database(t, w.cluster))
	file := w.configFile()
	with := func(args ...string) []string { return append(args, "--config", file) }
	w.writes(tenant2, "own", pgtest.Database(t, w.cluster))
	for _, d := range []string{tenant1 + "/early", tenant2 + "/own"} {
		contains(t, exits(t, 0, with("pause", d, "--reason", "too early")...), d+" is paused")
		contains(t, exits(t, 0, with("retry", d)...), d+" has not begun yet")
	}
	contains(t, exits(t, 0, with("retry", tenant1+"/early", tenant1+"/main")...), tenant1+"/early has not begun yet", "1 destinations are retried")
	contains(t, exits(t, 0, with("resync", "--no-wait", "--name", "own")...), "1 destinations have not begun yet")
	contains(t, exits(t, 1, with("resync", "--no-wait", "--name", "owl")...), "no such destination has ever run")
	contains(t, exits(t, 1, with("pause", tenant2+"/owm")...), `no destination "`+tenant2+`/owm" has ever run`, "did you mean "+tenant2+"/own?")
	contains(t, exits(t, 1, with("resume", "raeding")...), "did you mean reading?")
	contains(t, exits(t, 1, with("retry", tenant1+"/eraly")...), "did you mean "+tenant1+"/early?")

	r = w.start()
	r.has(3)
	becomes(t, r.destination("early"), ledger.Paused)
	becomes(t, r.destination("own"), ledger.Paused)
	contains(t, r.destination("own").Status().Reason, "too early")
	contains(t, exits(t, 0, with("resume", tenant1+"/early", tenant2+"/own")...), "is resumed")
	becomes(t, r.destination("early"), ledger.Streaming)
	w.synced()
	w.equal(tenant1, dsn)
}

// status, pause and resume work through the process, and where none runs through what the primary has noted.
func TestStatusPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	s := w.serve()
	s.caughtUp()
	w.waitState(tenant1, "main", "streaming")
	file := w.configFile()
	with := func(args ...string) []string {
		return append(args, "--config", file, "--set", "admin.listen="+strings.TrimPrefix(s.url, "http://"), "--set", "admin.token="+adminToken)
	}
	status := func() (r statusAnswer) {
		t.Helper()
		must(t, json.Unmarshal([]byte(exits(t, 0, with("status", "-o", "json")...)), &r))
		if len(r.Destinations) != 1 || r.Total != 1 || r.Destinations[0].Tenant != tenant1 {
			t.Fatalf("the status is %+v", r)
		}
		return r
	}
	if r := status(); r.From != "process" || r.Status.Role != "streaming" || r.Destinations[0].State != "streaming" {
		t.Errorf("the status is %+v", r)
	}
	contains(t, exits(t, 0, with("status")...), "streaming", "1 of 1 in sync", "slot "+w.cfg.Source.Slot+": active", tenant1+"/main",
		"  users  ", "synced at 20", "0 changes pending in 0 transactions", "streaming destinations p50 0 ms, p99 0 ms, worst 0 ms ("+tenant1+"/main)")

	contains(t, exits(t, 1, with("pause", tenant1+"/mian")...), `no destination "`+tenant1+`/mian"`)
	contains(t, exits(t, 2, with("pause", "reading")...), "retains all WAL", "confirm with --yes")
	contains(t, exits(t, 0, with("pause", tenant1+"/main", "--reason", "moving house", "--by", "Grace")...), "is paused")
	becomes(t, s.destination("main"), ledger.Paused)
	contains(t, exits(t, 0, with("status")...), "paused", "by Grace: moving house")
	s.end()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'later'`)

	// Nobody listens any more where the process was asked.
	file = w.configFile()
	with = func(args ...string) []string {
		return append(args, "--config", file, "--set", "admin.listen=127.0.0.1:1")
	}
	if r := status(); r.From != "primary" || r.Destinations[0].State != "paused" || *r.Status.Slot.Active {
		t.Errorf("the status is %+v", r)
	}
	contains(t, exits(t, 0, with("status")...), "these are the notes on the primary", "no reader", "paused")
	contains(t, exits(t, 0, with("resume", tenant1+"/main", "backfills")...), tenant1+"/main is resumed", "backfills is resumed")
	w.start()
	w.synced()
	w.equal(tenant1, dsn)
}
