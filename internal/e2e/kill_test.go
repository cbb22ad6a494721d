package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
)

// allMappings are the defaults and the journal.
var allMappings = []string{"contact_channels", "users", "ledger"}

func seed(t *testing.T) uint64 {
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("OUTFLOW_TEST_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d; OUTFLOW_TEST_SEED=%d repeats its choices", n, n)
	return n
}

// size is how much of something there is: as the variable OUTFLOW_TEST_<name> says in make load, less in make test.
func size(t *testing.T, name string, short int) int {
	t.Helper()
	s := os.Getenv("OUTFLOW_TEST_" + name)
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("OUTFLOW_TEST_%s=%s: expected a positive number", name, s)
	}
	return n
}

// kills is how often the process is killed.
func kills(t *testing.T, short int) int {
	t.Helper()
	return size(t, "KILLS", short)
}

func TestKillProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn1, dsn2 := w.destination(tenant1, "main", allMappings...), w.destination(tenant2, "main", allMappings...)
	file, n := w.configFile(), seed(t)
	rnd := rand.New(rand.NewPCG(n, 2))
	p := launch(t, "run", "--config", file)
	w.journalFromHere()
	l := w.load(n, tenant1, tenant2, tenant3)
	for range kills(t, 30) {
		timer := time.NewTimer(time.Duration(rnd.IntN(150)) * time.Millisecond)
		<-timer.C // a random moment of work, which is the point of this test
		p.kill()
		p = launch(t, "run", "--config", file)
		p.says(`"streaming"`)
	}
	l.end()
	w.synced()
	w.equal(tenant1, dsn1)
	w.equal(tenant2, dsn2)
	w.exactlyOnce(tenant1, dsn1)
	w.exactlyOnce(tenant2, dsn2)
	if code := p.terminate(); code != 0 {
		t.Errorf("SIGTERM ended the process with %d", code)
	}
	if strings.Contains(p.out.String(), "panic") {
		t.Errorf("it panicked")
	}
}

func TestKillExternalServer(t *testing.T) {
	t.Parallel()
	external := pgtest.New(t, pgcluster.Options{})
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn := pgtest.Database(t, external)
	w.addDestination(tenant1, "main", dsn, allMappings...)
	healthy := w.destination(tenant2, "main", allMappings...)
	n := seed(t)
	rnd := rand.New(rand.NewPCG(n, 3))
	w.start()
	w.journalFromHere()
	l := w.load(n, tenant1, tenant2)
	for i := range kills(t, 6) {
		before := rowsIn(t, healthy)
		if i%2 == 0 {
			must(t, external.Crash(t.Context()))
			must(t, external.Resume(t.Context()))
		} else {
			killBackend(t, external, rnd)
		}
		waitFor(t, "the healthy tenant to go on", func() error {
			if after := rowsIn(t, healthy); after <= before {
				return fmt.Errorf("it has %d rows in the ledger, as before", after)
			}
			return nil
		})
	}
	l.end()
	w.synced()
	w.equal(tenant1, dsn)
	w.exactlyOnce(tenant1, dsn)
	w.equal(tenant2, healthy)
	w.exactlyOnce(tenant2, healthy)
}

// killBackend ends Outflow's own backend with kill -9, whereupon the server restarts them all.
func killBackend(t *testing.T, c *pgcluster.Cluster, rnd *rand.Rand) {
	t.Helper()
	waitFor(t, "a backend of Outflow's", func() error {
		pids := query(t, c.DSN("postgres"), `SELECT pid FROM pg_stat_activity WHERE application_name = 'outflow' AND pid <> pg_backend_pid()`)
		if len(pids) == 0 {
			return fmt.Errorf("there is none")
		}
		pid, err := strconv.Atoi(strings.Trim(pids[rnd.IntN(len(pids))], `"`))
		if err != nil {
			return err
		}
		return c.KillBackend(pid)
	})
	waitFor(t, "the server to be back", func() error { return c.Exec(t.Context(), "postgres", "SELECT 1") })
}

func rowsIn(t *testing.T, dsn string) int {
	t.Helper()
	n := 0
	waitFor(t, "the ledger", func() error {
		rows := query(t, dsn, `SELECT CASE WHEN to_regclass('ledger') IS NULL THEN -1 ELSE 1 END`)
		if rows[0] != `"1"` {
			return fmt.Errorf("there is none yet")
		}
		var err error
		n, err = strconv.Atoi(strings.Trim(query(t, dsn, `SELECT count(*) FROM ledger`)[0], `"`))
		return err
	})
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKillPrimary(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t, pgcluster.Options{})
	w := newWorld(t, primary)
	w.withLedger()
	dsn := pgtest.Database(t, pgtest.Shared(t))
	w.addDestination(tenant1, "main", dsn, allMappings...)
	n := seed(t)
	w.start()
	w.journalFromHere()
	l := w.load(n, tenant1)
	for range kills(t, 3) {
		before := rowsIn(t, dsn)
		must(t, primary.Crash(t.Context()))
		must(t, primary.Resume(t.Context()))
		waitFor(t, "changes to flow again", func() error {
			if after := rowsIn(t, dsn); after <= before {
				return fmt.Errorf("the ledger has %d rows, as before", after)
			}
			return nil
		})
	}
	l.end()
	w.db = connect(t, w.source)
	w.synced()
	w.equal(tenant1, dsn)
	w.exactlyOnce(tenant1, dsn)
}
