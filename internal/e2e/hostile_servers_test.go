package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"outflow/internal/liar"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// lasting is how long a long test runs: OUTFLOW_TEST_DURATION, or short in make test.
func lasting(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("OUTFLOW_TEST_DURATION")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	must(t, err)
	return d
}

// liars are tenants with hostile servers, beside tenant2 with a good server. Half of the liars are made up, half stand before real databases.
type liars struct {
	*world
	t       *testing.T
	rnd     *rand.Rand
	tenants []string
	real    []string       // connection strings of the real databases, "" where there is none
	servers []*liar.Server // nil with a farm
	farm    *farm          // nil: the servers are in this process
	healthy string
	file    string
}

// newLiars lets outflow make its schema and its slot, and gives each tenant a destination.
func newLiars(t *testing.T, n int, farm *farm) *liars {
	l := &liars{world: newWorld(t, pgtest.Shared(t)), t: t, rnd: rand.New(rand.NewPCG(seed(t), 11)), servers: make([]*liar.Server, n), farm: farm}
	l.openPolicy()
	l.existing(20, tenant2)
	l.healthy = l.destination(tenant2, "main")
	l.file = l.configFile()
	p := launch(t, "run", "--config", l.file)
	l.waitState(tenant2, "main", "streaming")
	p.terminate()
	for i := range n {
		tenant, dsn := fmt.Sprintf("aaaaaaaa-aaaa-4aaa-8aaa-%012d", i), ""
		if i%2 == 1 {
			dsn = pgtest.Database(t, l.cluster)
		}
		l.tenants, l.real = append(l.tenants, tenant), append(l.real, dsn)
		l.existing(20, tenant)
		l.writes(tenant, "liar", "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable", allMappings[:2]...)
		l.lies(i)
	}
	return l
}

// lies gives a tenant a new hostile server.
func (l *liars) lies(i int) {
	l.t.Helper()
	if old := l.servers[i]; old != nil {
		must(l.t, old.Close())
	}
	n, rate := l.rnd.Uint64(), []float64{0.005, 0.02, 0.1, 0.5}[l.rnd.IntN(4)]
	target, dsn := "", "postgres://user:password@host/made_up?sslmode=disable"
	if l.real[i] != "" {
		target, dsn = l.cluster.Addr(), l.real[i]
	}
	if l.farm != nil {
		l.exec(`UPDATE outflow.destination SET dsn = $2 WHERE tenant_id = $1`, l.tenants[i], l.farm.dsn(l.t, lying{target, n, rate}, dsn))
		return
	}
	server, err := liar.Listen(target, n, rate)
	must(l.t, err)
	l.t.Cleanup(func() { _ = server.Close() })
	l.servers[i] = server
	l.exec(`UPDATE outflow.destination SET dsn = $2 WHERE tenant_id = $1`, l.tenants[i], server.DSN(dsn))
}

// told logs the lies of all servers.
func (l *liars) told() {
	all := map[string]int{}
	for _, s := range l.servers {
		if s == nil {
			return
		}
		for lie, n := range s.Told() {
			all[lie] += n
		}
	}
	l.t.Logf("lies: %v", all)
}

// impatient are the settings under which a silent server costs a second.
var impatient = []string{"--set", "sink.retry_max=300ms", "--set", "sink.connect_timeout=1s", "--set", "sink.statement_timeout=1s", "--set", "sink.lock_timeout=1s",
	"--set", "sink.park_after=2s", "--set", "sink.slow_after=2s"}

// Servers that lie at each step do not end the process, do not delay the tenant with a good server, and do not hold the slot; each is shown
// with a cause. Told the truth again, and copied again, each is equal.
func TestHostileServers(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	l := newLiars(t, size(t, "LIARS", 6), nil)
	p := launch(t, append([]string{"run", "--config", l.file}, impatient...)...)
	p.says(`"streaming"`)
	slowest := time.Duration(0)
	for end, n := time.Now().Add(lasting(t, 6*time.Second)), 0; time.Now().Before(end); n++ {
		l.exec(`UPDATE "ProjectUser" SET "displayName" = $1`, fmt.Sprint("version ", n))
		began := time.Now()
		waitFor(t, "the good server to have the change", func() error {
			if got := query(t, l.healthy, `SELECT count(*) FROM users WHERE display_name = '`+fmt.Sprint("version ", n)+`'`)[0]; got != `"20"` {
				return fmt.Errorf("it has %s rows of it; outflow says %.2000s", got, p.out)
			}
			return nil
		})
		slowest = max(slowest, time.Since(began))
		if n%8 == 7 {
			l.lies(l.rnd.IntN(len(l.tenants)))
		}
	}
	l.told()
	t.Logf("the good server had each change within %s; peak memory %d MiB", slowest, peakMemory(t, p.cmd.Process.Pid)>>20)
	if slowest > 10*time.Second && !raceEnabled { // the race detector's servers and process want all processors
		t.Errorf("the good server waited %s", slowest)
	}
	if limit := int64(600 << 20); !raceEnabled && peakMemory(t, p.cmd.Process.Pid) > limit {
		t.Errorf("the process took %d MiB", peakMemory(t, p.cmd.Process.Pid)>>20)
	}
	l.synced()
	for _, row := range query(t, l.source, `SELECT tenant_id, state, reason, error_class FROM outflow.destination_state
		WHERE name = 'liar' AND state NOT IN ('streaming', 'backfilling') AND reason = '' AND error_class IS NULL`) {
		t.Errorf("no cause is noted: %s", row)
	}
	l.cleanText(p.out.String())
	l.truth(p)
}

// truth has the real databases answer themselves. A server that lied about its rows gets them again with a resync.
func (l *liars) truth(p *process) {
	l.t.Helper()
	for i, dsn := range l.real {
		if dsn == "" {
			l.exec(`DELETE FROM outflow.destination WHERE tenant_id = $1`, l.tenants[i])
			continue
		}
		l.exec(`UPDATE outflow.destination SET dsn = $2 WHERE tenant_id = $1`, l.tenants[i], dsn)
	}
	waitFor(l.t, "the destinations to answer", func() error { return l.allAre("streaming") })
	state := &ledger.Store{Slot: l.cfg.Source.Slot, Connect: l.primary().Connect}
	defer state.Close()
	if _, err := state.RequestResync(l.t.Context(), "", "", "test", "the servers lied"); err != nil {
		l.t.Fatal(err)
	}
	waitFor(l.t, "the destinations to be copied", func() error {
		if err := l.allAre("streaming"); err != nil {
			return err
		}
		for i, dsn := range l.real {
			if dsn != "" {
				if diff := l.diff(l.tenants[i], dsn); diff != "" {
					return fmt.Errorf("%s", diff)
				}
			}
		}
		return nil
	})
	if code := p.terminate(); code != 0 {
		l.t.Errorf("SIGTERM has ended the process with %d", code)
	}
	if out := p.out.String(); strings.Contains(out, "goroutine ") || strings.Contains(out, "DATA RACE") {
		l.t.Errorf("a panic, or a race:\n%.8000s", out[max(0, strings.Index(out, "goroutine ")-2000):])
	}
}

// allAre reports whether all configured destinations are in a state.
func (l *liars) allAre(state string) error {
	others := query(l.t, l.source, `SELECT s.tenant_id, s.state, s.reason FROM outflow.destination_state s
		JOIN outflow.destination d USING (tenant_id, name) WHERE s.state <> $1`, state)
	if len(others) > 0 {
		return fmt.Errorf("%v", others)
	}
	return nil
}

// cleanText finds control characters in a command's output, and lines far too long for a person or a log.
func (l *liars) cleanText(out string) {
	l.t.Helper()
	if i := strings.IndexFunc(out, func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) || r == unicode.ReplacementChar
	}); i >= 0 {
		l.t.Errorf("the output has the character %q in %q", []rune(out[i:])[0], out[max(0, i-100):min(len(out), i+100)])
	}
	if i := slices.IndexFunc(strings.Split(out, "\n"), func(line string) bool { return len(line) > 64<<10 }); i >= 0 {
		l.t.Errorf("line %d of the output is longer than 64 KiB", i+1)
	}
}
