package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// latencies are how long it takes until a commit of a tenant is visible in its external database: at the 90th and at the
// 99th percentile.
func (w *world) latencies(t *testing.T, tenant, dsn string, samples int, between func(n int)) (p90, p99 time.Duration) {
	t.Helper()
	external := connect(t, dsn)
	var times []time.Duration
	for n := range samples {
		id := fmt.Sprintf("00000000-0000-4000-8001-%012d", slots.Add(1))
		w.user(tenant, id, "probe")
		began := time.Now()
		visible(t, external, id)
		times = append(times, time.Since(began))
		between(n)
	}
	slices.Sort(times)
	p90, p99 = times[samples*9/10], times[samples*99/100]
	t.Logf("p50 %s, p90 %s, p99 %s, max %s", times[samples/2], p90, p99, times[samples-1])
	return p90, p99
}

// One destination is a hundred times slower than the rest, another is dead. Nobody else notices, the slot goes on, and
// both come back by themselves.
func TestSlowAndDeadDestinations(t *testing.T) {
	anyVersion(t)
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.cfg.Sink.QueueBytes = 64 << 10
	w.cfg.Sink.SlowAfter = 200 * time.Millisecond
	w.cfg.Sink.ParkAfter = time.Second
	w.existing(100, tenant1, tenant2, tenant3)
	good := w.destination(tenant1, "good", allMappings...)
	slow, dead := w.destination(tenant2, "slow", allMappings...), w.destination(tenant3, "dead", allMappings...)
	slowProxy, deadProxy := w.proxied(1), w.proxied(2)
	r := w.start()
	r.caughtUp()
	l := w.load(seed(t), tenant1, tenant2, tenant3)
	const samples = 150
	w.latencies(t, tenant1, good, 20, func(int) {}) // connections and plans
	before90, before := w.latencies(t, tenant1, good, samples, func(int) {})

	slowProxy.Delay(50 * time.Millisecond)
	slowProxy.Bandwidth(20 << 10)
	deadProxy.Refuse(true)
	deadProxy.Cut()
	parked := map[string]bool{}
	confirmed, moved := w.confirmed(), 0
	// Enough for the slow one to fall behind: what it cannot take in this time is more than its queue holds.
	wide := func() {
		w.exec(`UPDATE "ProjectUser" SET "clientMetadata" = jsonb_build_object('wide', (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 20)))
			WHERE "tenancyId" IN ($1, $2)`, tenant2, tenant3)
	}
	during90, during := w.latencies(t, tenant1, good, samples, func(n int) {
		if n%25 == 0 {
			wide()
		}
		for _, name := range []string{"slow", "dead"} {
			parked[name] = parked[name] || r.destination(name).Status().State == "parked"
		}
		if now := w.confirmed(); now > confirmed {
			confirmed, moved = now, moved+1
		}
	})
	l.end()
	if during90 > 5*before90+50*time.Millisecond {
		t.Errorf("beside a slow and a dead one a commit is visible after %s at the 90th percentile, and after %s without them", during90, before90)
	}
	// The slow one may keep the others waiting for slow_after, each time before it is parked.
	if during > 5*before+100*time.Millisecond+w.cfg.Sink.SlowAfter {
		t.Errorf("beside a slow and a dead one a commit is visible after %s at the 99th percentile, and after %s without them", during, before)
	}
	if moved < samples/20 {
		t.Errorf("confirmed_flush_lsn moved %d times in %d samples", moved, samples)
	}
	if !parked["slow"] || !parked["dead"] {
		t.Errorf("parked were %v", parked)
	}
	w.synced() // also without them
	w.equal(tenant1, good)
	slowProxy.Delay(0)
	slowProxy.Bandwidth(0)
	deadProxy.Refuse(false)
	r.caughtUp()
	w.synced()
	w.equal(tenant2, slow)
	w.equal(tenant3, dead)
}

// A fifth of the destinations is dead: 100 of 500 in make load.
func TestMemoryOfManyDestinations(t *testing.T) {
	anyVersion(t)
	const budget = 16 << 20
	w, n := newWorld(t, pgtest.Shared(t)), size(t, "DESTINATIONS", 30)
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.cfg.Source.Tombstones = nil
	w.cfg.Source.Tables = nil
	w.cfg.Sink.QueueBytes = 1 << 20
	w.table("item", 1, "id int", "note text")
	var live []config.Static
	for i := range n {
		tenant := fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i)
		d := config.Static{Tenant: tenant, Name: "main", Mappings: []string{"item"}}
		if i%5 == 4 {
			d.DSN = secret.New("postgres://postgres@127.0.0.1:1/nobody?sslmode=disable")
		} else {
			d.DSN = secret.New(pgtest.Database(t, w.cluster))
			live = append(live, d)
		}
		w.cfg.Destinations.Static = append(w.cfg.Destinations.Static, d)
	}
	rows := func(from, to int) {
		w.exec(`INSERT INTO item SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(t::text, 12, '0'))::uuid, n, repeat('x', 400)
			FROM generate_series($1::int, $2::int) n, generate_series(0, $3::int) t`, from, to, n-1)
	}
	rows(1, 100) // are copied
	p := launch(t, "run", "--config", w.configFile(), "--set", fmt.Sprintf("sink.memory_bytes=%d", budget), "--set", "sink.max_connections=40",
		"--set", "sink.idle_close=1s", "--set", "sink.park_after=2s")
	p.says(`"streaming"`)
	for i := range 10 { // in all, far more than the budget, and the dead ones' share alone is more
		rows(1000+i*50, 1000+i*50+49)
	}
	waitFor(t, "all that live to have all rows", func() error {
		for len(live) > 0 {
			d := live[0]
			if got := query(t, d.DSN.Reveal(), `SELECT CASE WHEN to_regclass('item_copy') IS NULL THEN 0 ELSE
				(xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM item_copy', false, true, '')))[1]::text::int END`)[0]; got != `"600"` {
				return fmt.Errorf("%s has %s rows, %d are left to look at", d.Tenant, got, len(live))
			}
			live = live[1:]
		}
		return nil
	})
	w.synced() // the dead hold nothing back
	if states := strings.Join(query(t, w.source, `SELECT state, count(*) FROM outflow.destination_state GROUP BY 1 ORDER BY 1`), " "); states !=
		fmt.Sprintf(`"parked"|"%d" "streaming"|"%d"`, n/5, n-n/5) {
		t.Logf("states: %s", states)
	}
	peak := peakMemory(t, p.cmd.Process.Pid)
	t.Logf("%d destinations: the process grew to %d MiB", n, peak>>20)
	if peak > budget+200<<20 && !raceEnabled {
		t.Errorf("the process grew to %d MiB; the budget is %d MiB and 200 for the rest", peak>>20, budget>>20)
	}
	if strings.Contains(p.out.String(), "panic") {
		t.Error("it panicked")
	}
}
