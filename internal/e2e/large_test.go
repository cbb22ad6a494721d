package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

// One transaction of 300,000 rows is one external transaction; the process stays small, and the primary hears from it.
func TestLargeTransaction(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET wal_sender_timeout = ''3s''', current_database()); END $$`)
	dsn, other := w.destination(tenant1, "main", "ledger"), w.destination(tenant2, "main", "ledger")
	p := launch(t, "run", "--config", w.configFile())
	w.journalFromHere()
	w.exec(`INSERT INTO "Counter" VALUES ($1, -1, 0), ($2, -1, 0)`, tenant1, tenant2)
	w.synced()
	before := query(t, dsn, `SELECT pg_current_xact_id()`)[0]
	w.exec(`INSERT INTO "Counter" SELECT CASE n % 3 WHEN 0 THEN $2::uuid ELSE $1 END, n, n FROM generate_series(1, 300000) n`, tenant1, tenant2)
	w.synced()
	w.exactlyOnce(tenant1, dsn)
	w.exactlyOnce(tenant2, other)
	if n := query(t, dsn, `SELECT count(DISTINCT xmin::text), count(*) FROM ledger WHERE id > 0`)[0]; n != `"1"|"200000"` {
		t.Errorf("external transactions and rows: %s; expected one with 200000 (from %s on)", n, before)
	}
	if peak := peakMemory(t, p.cmd.Process.Pid); peak > 200<<20 && !raceEnabled {
		t.Errorf("the process grew to %d MiB", peak>>20)
	} else {
		t.Logf("the process grew to %d MiB", peak>>20)
	}
	if strings.Contains(p.out.String(), "lost the primary") {
		t.Error("the session with the primary was lost: keepalives did not go on")
	}
}

// A large transaction that fails in its middle, after parts of it were let go of, is read again from the slot.
func TestLargeTransactionFailsInTheMiddle(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.cfg.Sink.QueueBytes = 1 << 20
	dsn, other := w.destination(tenant1, "main", "ledger"), w.destination(tenant2, "main", "ledger")
	w.start()
	w.journalFromHere()
	w.exec(`INSERT INTO "Counter" VALUES ($1, -1, 0), ($2, -1, 0)`, tenant1, tenant2)
	w.synced()
	db := connect(t, dsn)
	// The first attempt fails when most of the rows are in; a sequence is not rolled back, so the second one does not.
	exec(t, db, `CREATE SEQUENCE attempts`)
	exec(t, db, `CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.id = 30000 AND nextval('attempts') = 1 THEN RAISE SQLSTATE '57P01'; END IF; RETURN NEW; END $$`)
	exec(t, db, `CREATE TRIGGER fail_once BEFORE INSERT ON counter FOR EACH ROW EXECUTE FUNCTION fail_once()`)
	w.exec(`INSERT INTO "Counter" SELECT CASE n % 3 WHEN 1 THEN $2::uuid ELSE $1 END, n, n FROM generate_series(1, 40000) n`, tenant1, tenant2)
	w.exec(`INSERT INTO "Counter" VALUES ($1, 50000, 1), ($2, 50000, 1)`, tenant1, tenant2)
	w.synced()
	w.exactlyOnce(tenant1, dsn)
	w.exactlyOnce(tenant2, other)
	if n := query(t, dsn, `SELECT last_value FROM attempts`)[0]; n != `"2"` {
		t.Errorf("it took %s attempts; expected 2", n)
	}
}

// peakMemory is the largest resident set of a process so far, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			return n << 10
		}
	}
	t.Fatal("no VmHWM in the process's status")
	return 0
}
