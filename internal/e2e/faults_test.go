package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/wal"
)

// proxied puts a proxy before the external database of the i-th destination.
func (w *world) proxied(i int) *faultproxy.Proxy {
	w.tb.Helper()
	p, err := faultproxy.New(strings.SplitN(strings.SplitN(w.cfg.Destinations.Static[i].DSN.Reveal(), "@", 2)[1], "/", 2)[0])
	must(w.tb, err)
	w.tb.Cleanup(func() { _ = p.Close() })
	d := &w.cfg.Destinations.Static[i]
	must(w.tb, d.DSN.UnmarshalText([]byte(p.DSN(d.DSN.Reveal()))))
	return p
}

func TestConnectionCutAfterCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn := w.destination(tenant1, "main", allMappings...)
	proxy := w.proxied(0)
	w.start()
	w.journalFromHere()
	for i := range 10 {
		fired := proxy.CutAfterQuery("outflow_commit")
		w.exec(`INSERT INTO "Counter" VALUES ($1, $2, 1)`, tenant1, i)
		<-fired
		w.exec(`UPDATE "Counter" SET version = version + 1`)
		w.synced()
	}
	w.exactlyOnce(tenant1, dsn)
	if n := query(t, dsn, `SELECT count(*) FROM ledger WHERE version = 1`); n[0] == `"0"` {
		t.Error("no cut COMMIT was ever committed, so the test shows nothing")
	}
}

func TestFlushNeverPassesWhatIsDurable(t *testing.T) {
	t.Parallel()
	external := pgtest.New(t, pgcluster.Options{})
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn := pgtest.Database(t, external)
	w.addDestination(tenant1, "main", dsn, allMappings...)
	w.start()
	w.journalFromHere()
	w.exec(`INSERT INTO "Counter" VALUES ($1, 1, 0)`, tenant1)
	w.synced()
	must(t, external.Stop(t.Context()))
	before := w.confirmed()
	var commit string
	for i := range 20 {
		must(t, w.db.QueryRow(t.Context(), `UPDATE "Counter" SET version = $1 RETURNING pg_current_wal_insert_lsn()::text`, i+1).Scan(&commit))
	}
	first, err := wal.ParseLSN(commit)
	must(t, err)
	deadline := time.NewTimer(3 * time.Second) // three status updates
	defer deadline.Stop()
	for done := false; !done; {
		select {
		case <-deadline.C:
			done = true
		default:
		}
		if now := w.confirmed(); now > first {
			t.Fatalf("the slot is confirmed up to %s, and the change at %s was never applied (before: %s)", now, first, before)
		}
	}
	must(t, external.Resume(t.Context()))
	w.synced()
	w.exactlyOnce(tenant1, dsn)
}

func (w *world) confirmed() wal.LSN {
	w.tb.Helper()
	lsn, err := wal.ParseLSN(strings.Trim(query(w.tb, w.source,
		`SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot)[0], `"`))
	must(w.tb, err)
	return lsn
}

// An idle tenant, or a database where only others write, must not hold back the slot.
func TestSlotAdvancesOnIdlePrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.destination(tenant1, "main")
	w.start()
	w.exec(`CREATE TABLE unrelated (n int)`)
	for range 3 {
		w.exec(`INSERT INTO unrelated SELECT generate_series(1, 1000)`)
		w.user(tenant3, fmt.Sprintf("00000000-0000-4000-8000-%012d", time.Now().UnixNano()%1e12), "nobody's")
		w.synced()
	}
}

func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET wal_sender_timeout = ''3s''', current_database()); END $$`)
	dsn := w.destination(tenant1, "main", allMappings...)
	file := w.configFile()
	first := launch(t, "run", "--config", file)
	w.journalFromHere()
	l := w.load(seed(t), tenant1)
	second := launch(t, "run", "--config", file)
	second.says("waiting as standby")

	rowsIn(t, dsn)

	// The first one is frozen in the middle of its work. Its session ends, the second takes over, and then it wakes.
	must(t, first.cmd.Process.Signal(syscall.SIGSTOP))
	second.says(`"streaming"`)
	before := rowsIn(t, dsn)
	must(t, first.cmd.Process.Signal(syscall.SIGCONT))
	first.says("waiting as standby")
	waitFor(t, "the second to go on", func() error {
		if rowsIn(t, dsn) <= before {
			return fmt.Errorf("the ledger does not grow")
		}
		return nil
	})

	// A wanted stop hands the slot back to the first.
	if code := second.terminate(); code != 0 {
		t.Errorf("SIGTERM ended the second process with %d:\n%s", code, second.out)
	}
	waitFor(t, "the first to stream again", func() error {
		if n := strings.Count(first.out.String(), `"streaming"`); n < 2 {
			return fmt.Errorf("it has streamed %d times", n)
		}
		return nil
	})
	l.end()
	w.synced()
	w.equal(tenant1, dsn)
	w.exactlyOnce(tenant1, dsn)
	if code := first.terminate(); code != 0 {
		t.Errorf("SIGTERM ended the first process with %d", code)
	}
}

// SIGTERM in the middle of work: what is in flight is finished or rolled back, and the last status update tells.
func TestTerminateInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn := w.destination(tenant1, "main", allMappings...)
	file := w.configFile()
	p := launch(t, "run", "--config", file)
	w.journalFromHere()
	l := w.load(seed(t), tenant1)
	for range 5 {
		rowsIn(t, dsn)
		if code := p.terminate(); code != 0 {
			t.Fatalf("SIGTERM ended the process with %d:\n%s", code, p.out)
		}
		p = launch(t, "run", "--config", file)
		p.says(`"streaming"`)
	}
	l.end()
	w.synced()
	if code := p.terminate(); code != 0 {
		t.Errorf("SIGTERM ended the process with %d", code)
	}
	w.equal(tenant1, dsn)
	w.exactlyOnce(tenant1, dsn)
}

// A mapping that ends the transaction by itself, in whatever way, is refused by the metadata's check of the transaction id.
func TestTwoProcessesWithoutTheSlotsLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn := w.destination(tenant1, "main", allMappings...)
	r := w.start()
	w.journalFromHere()
	w.exec(`INSERT INTO "Counter" VALUES ($1, 1, 1)`, tenant1)
	w.synced()
	// Somebody moves the metadata behind the process's back: as an older process that is still alive would.
	other, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer other.Close(t.Context())
	exec(t, other, `UPDATE _stack_sync_metadata SET last_synced_sequence_id = last_synced_sequence_id + 1`)
	w.exec(`UPDATE "Counter" SET version = 2`)
	w.synced()
	w.exactlyOnce(tenant1, dsn)
	if s := r.Router.Destinations()[0].Status(); s.Err != nil {
		t.Errorf("it did not recover: %v", s.Err)
	}
}
