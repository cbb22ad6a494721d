package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// Dead databases that wait to be dialled take nothing from a healthy one: its connection is kept between the changes.
func TestDeadDatabasesTakeNoConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	w.cfg.Sink.ShutdownTimeout = time.Second
	dsn := w.destination(tenant1, "main")
	dead, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = dead.Close() })
	dead.Stall(true)
	for n := range 20 {
		w.addDestination(tenant2, fmt.Sprint("dead ", n), dead.DSN("postgres://postgres@127.0.0.1:1/nobody?sslmode=disable"))
	}
	r := w.start()
	becomes(t, r.destination("main"), ledger.Streaming)
	w.user(tenant2, "00000000-0000-4000-8000-000000999999", "for the dead")
	sessions := map[string]bool{}
	for n := range 10 {
		w.arrives(n, dsn)
		for _, s := range query(t, dsn, `SELECT backend_start FROM pg_stat_activity WHERE application_name = 'outflow' AND datname = current_database()`) {
			sessions[s] = true
		}
	}
	if len(sessions) != 1 {
		t.Errorf("the healthy one had %d connections, one after the other", len(sessions))
	}
}

// lined are destinations with a table to copy, in line for a place among the copies, which are switched off.
func (w *world) lined(names ...string) (r *running, on func()) {
	w.tb.Helper()
	w.openPolicy()
	w.cfg.Sink.Backfills = 1
	w.cfg.Sink.IdleClose = 0 // who waits in the line has no connection
	w.exec(`CREATE TABLE items (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO items SELECT $1, n, 'x' FROM generate_series(1, 2500) n`, tenant1) // small copies pass beside the line
	w.table("items", 1, "id int", "note text")
	w.table("others", 1, "id int", "note text")
	w.exec(`CREATE TABLE others (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	r = w.start()
	off := ledger.Switch{Kind: ledger.SwitchBackfills, Off: true}
	w.toggle(off)
	r.effective(off.Kind, true)
	return r, func() {
		off.Off = false
		w.toggle(off)
	}
}

// inLine waits until a destination waits for a place among the copies, without a connection.
func (w *world) inLine(r *running, name, dsn string) {
	w.tb.Helper()
	waitFor(w.tb, name+" to be in line", func() error {
		if s := r.destination(name).Status(); s.State != ledger.Backfilling {
			return fmt.Errorf("it is %s: %w", s.State, s.Err)
		}
		if n := query(w.tb, dsn, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outflow' AND datname = current_database()`)[0]; n != `"0"` {
			return fmt.Errorf("it has a connection")
		}
		if n := query(w.tb, dsn, `SELECT count(*) FROM pg_class WHERE relname = '_stack_sync_metadata'`)[0]; n != `"1"` {
			return fmt.Errorf("it has not begun")
		}
		return nil
	})
}

// A destination in line for a place among the copies needs no copy any more: the mapping to be filled was taken from it. Those behind it in the
// line are copied all the same.
func TestWhoNeedsNoCopyLeavesTheLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	r, on := w.lined()
	on()
	first, second := pgtest.Database(t, w.cluster), pgtest.Database(t, w.cluster)
	w.writes(tenant1, "first", first, "items")
	r.has(1)
	becomes(t, r.destination("first"), ledger.Streaming)
	off := ledger.Switch{Kind: ledger.SwitchBackfills, Off: true}
	w.toggle(off)
	r.effective(off.Kind, true)
	w.exec(`UPDATE outflow.destination SET mappings = '{items,others}' WHERE name = 'first'`)
	waitFor(t, "the new mapping", func() error {
		if s := r.destination("first").Status(); s.State != ledger.Backfilling {
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	w.inLine(r, "first", first)
	w.exec(`UPDATE outflow.destination SET mappings = '{items}' WHERE name = 'first'`)
	becomes(t, r.destination("first"), ledger.Streaming)
	w.writes(tenant1, "second", second, "items")
	r.has(2)
	w.inLine(r, "second", second)
	on()
	becomes(t, r.destination("second"), ledger.Streaming)
	w.mirrored(tenant1, second, "items", "id, note")
}

// The databases at the head of the line fall silent. Those behind them are copied at once.
func TestSilentDatabasesAtTheHeadOfTheLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.ShutdownTimeout = time.Second
	r, on := w.lined()
	proxy, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	for n := range 4 {
		dsn := pgtest.Database(t, w.cluster)
		name := fmt.Sprint("silent ", n)
		w.writes(tenant1, name, proxy.DSN(dsn), "items")
		r.has(n + 1)
		w.inLine(r, name, dsn)
	}
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "main", dsn, "items")
	r.has(5)
	w.inLine(r, "main", dsn)
	proxy.Stall(true)
	began := time.Now()
	on()
	becomes(t, r.destination("main"), ledger.Streaming)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it was copied after %s", took)
	}
	proxy.Stall(false)
}

// Databases that take long over a question about the copy, before the first chunk or between chunks, keep a new tenant's copy from its place for
// a moment only, as those do which take long over a chunk.
func TestSlowQuestionsKeepNoPlaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.ShutdownTimeout = time.Second
	w.mapping("naps", strings.NewReplacer("name: items", "name: naps", "SELECT id FROM items_copy", "SELECT id FROM items_copy, pg_sleep(25)").Replace(
		mirror("items", 1, "id int", "note text")))
	for n := range 3 {
		w.destination(tenant1, fmt.Sprint("naps ", n), "naps")
	}
	r, on := w.lined()
	on()
	waitFor(t, "questions that sleep", func() error {
		if n := query(t, w.source, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'outflow'`)[0]; n < `"1"` {
			return fmt.Errorf("%s do", n)
		}
		return nil
	})
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "new", dsn, "items")
	r.has(4)
	began := time.Now()
	becomes(t, r.destination("new"), ledger.Streaming)
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("it was copied after %s", took)
	}
}

// The reads of a copy end with the session that wants them: a tenant who edits its string again and again, while the primary's table is locked, has
// one read on the primary, and not one for each edit.
func TestReadsEndWithTheirSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	r, on := w.lined()
	tx, err := connect(t, w.source).Begin(t.Context())
	must(t, err)
	exec(t, tx.Conn(), `LOCK items`)
	on()
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "main", strings.Replace(dsn, "postgres@", "postgres:u0@", 1), "items")
	waits := func() string {
		return query(t, w.source, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outflow' AND datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%items%'`)[0]
	}
	w.waitsForLock()
	for n := range 8 {
		w.exec(`UPDATE outflow.destination SET dsn = regexp_replace(dsn, 'u\d+@', $1)`, fmt.Sprintf("u%d@", n+1))
		w.exec(`SELECT pg_sleep(0.4)`)
	}
	if n := waits(); n > `"2"` { // one may be about to end
		t.Errorf("%s reads wait on the primary", n)
	}
	must(t, tx.Rollback(t.Context()))
	r.caughtUp()
	w.mirrored(tenant1, dsn, "items", "id, note")
}

// A slow database whose rows are as large as the memory of all copies keeps a copy of small rows waiting once, and not for each row.
func TestLargeRowsOfASlowDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.MemoryBytes, w.cfg.Sink.ShutdownTimeout = 64<<20, time.Second
	w.wide()
	w.exec(`INSERT INTO doc SELECT $1, n, 0, repeat('x', 4000000) FROM generate_series(1, 12) n`, tenant2)
	w.exec(`INSERT INTO doc SELECT $1, n, 0, repeat('x', 10000) FROM generate_series(1, 800) n`, tenant1)
	slowDSN := w.destination(tenant2, "slow", "doc")
	exec(t, connect(t, slowDSN), `CREATE TABLE doc_copy (id int PRIMARY KEY, n int NOT NULL, body text);
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON doc_copy EXECUTE FUNCTION slow()`)
	w.openPolicy()
	r := w.start()
	waitFor(t, "a large row to be written", func() error {
		if n := query(t, w.source, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'outflow' AND datname <> current_database()`)[0]; n == `"0"` {
			return fmt.Errorf("none is")
		}
		return nil
	})
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "main", dsn, "doc")
	r.has(2)
	began := time.Now()
	becomes(t, r.destination("main"), ledger.Streaming)
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("the small rows took %s", took)
	}
	w.sameDocs(tenant1, dsn)
}
