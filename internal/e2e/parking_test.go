package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/destination"
	"outflow/sink/ledger"
	"outflow/sink/status"
)

// wasParked reports whether a destination was ever parked.
func wasParked(d *destination.Destination) bool {
	for _, e := range d.History() {
		if e.State == ledger.Parked {
			return true
		}
	}
	return false
}

// A tenant that changes its connection string all the time, before any try has failed, holds the slot for park_after and no longer.
func TestWhoEditsTheStringIsParked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.cfg.Sink.ParkAfter = 2 * time.Second
	silent, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "main", dsn)
	r.has(1)
	r.caughtUp()
	w.synced()
	silent.Stall(true)
	w.exec(`UPDATE outflow.destination SET dsn = $1`, strings.Replace(silent.DSN(dsn), "postgres@", "u0@", 1))
	d, n := r.destination("main"), 0
	waitFor(t, "the change of the string", func() error {
		if at := d.Address(); !strings.HasPrefix(at, silent.Addr()) {
			return fmt.Errorf("it is at %s", at)
		}
		return nil
	})
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "x")
	waitFor(t, "it to be parked", func() error {
		n++
		w.exec(`UPDATE outflow.destination SET dsn = regexp_replace(dsn, 'u\d+@', $1)`, fmt.Sprintf("u%d@", n))
		w.exec(`SELECT pg_sleep(0.2)`)
		if s := d.Status(); s.State != ledger.Parked {
			return fmt.Errorf("it is %s after %d edits: %w", s.State, n, s.Err)
		}
		return nil
	})
	w.synced()
	silent.Stall(false)
	w.exec(`UPDATE outflow.destination SET dsn = $1`, dsn)
	r.caughtUp()
	w.equal(tenant1, dsn)
}

// A tenant whose database is slow edits the string in the middle of a large transaction, which must be read again from the stream each time. All
// others wait each time, so this ends after a few times.
func TestWhoEditsTheStringInALargeTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.cfg.Sink.QueueBytes, w.cfg.Sink.BatchRows, w.cfg.Sink.ShutdownTimeout = 128<<10, 300, time.Second
	w.exec(`CREATE TABLE items (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("items", 1, "id int", "note text")
	other := w.destination(tenant2, "other", "items")
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	exec(t, connect(t, dsn), `CREATE TABLE items_copy (id int PRIMARY KEY, note text);
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON items_copy EXECUTE FUNCTION slow()`)
	w.writes(tenant1, "main", strings.Replace(dsn, "postgres@", "postgres:u0@", 1), "items")
	r.has(2)
	r.caughtUp()
	w.synced()
	d, n := r.destination("main"), 0
	began := time.Now()
	w.exec(`INSERT INTO items SELECT $1, n, repeat('x', 1000) FROM generate_series(1, 20000) n`, tenant1)
	w.exec(`INSERT INTO items VALUES ($1, 1, 'x')`, tenant2)
	waitFor(t, "it to be parked", func() error {
		n++
		w.exec(`UPDATE outflow.destination SET dsn = regexp_replace(dsn, 'u\d+@', $1)`, fmt.Sprintf("u%d@", n))
		w.exec(`SELECT pg_sleep(0.8)`)
		if !slices.ContainsFunc(d.History(), func(e status.Event) bool { return e.State == ledger.Parked }) {
			return fmt.Errorf("after %d edits its states were %v", n, d.History())
		}
		return nil
	})
	waitFor(t, "the row of the other", func() error {
		if len(query(t, other, `SELECT 1 FROM items_copy`)) == 0 {
			return errors.New("it is not there")
		}
		return nil
	})
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("the other waited for %s", took)
	}
	contains(t, fmt.Sprint(d.History()), "the stream was read again 4 times for a transaction that the destination did not take")
	r.caughtUp()
	w.mirrored(tenant1, dsn, "items", "id, note")
}

// A dead destination with one row in its queue does not keep the primary's WAL: however much room the queue has.
func TestDeadDestinationKeepsNoWAL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.ParkAfter, w.cfg.Sink.RetainedWAL = time.Hour, 4<<20
	w.existing(20, tenant1, tenant2)
	gate, other := w.gated(tenant1, "main"), w.destination(tenant2, "main")
	gate.Refuse(false)
	r := w.start()
	r.caughtUp()
	w.synced()
	gate.Refuse(true)
	gate.Cut()
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "x")
	w.exec(`CREATE TABLE unpublished (id int, v text)`)
	d := r.Router.Destinations()[0]
	becomes(t, d, ledger.Retrying)
	w.exec(`INSERT INTO unpublished SELECT n, repeat('x', 1000) FROM generate_series(1, 8000) n`)
	becomes(t, d, ledger.Parked)
	contains(t, d.Status().Reason, "retains more WAL for the destination than sink.retained_wal")
	w.synced()
	if wasParked(r.Router.Destinations()[1]) {
		t.Error("the other was parked")
	}
	gate.Refuse(false)
	r.caughtUp()
	w.equal(tenant1, gate.dsn)
	w.equal(tenant2, other)
}

// A destination that needs a person is halted, also when the stream goes on without it because of the WAL.
func TestHaltedKeepsNoWAL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	w.cfg.Sink.ParkAfter, w.cfg.Sink.RetryMax, w.cfg.Sink.RetainedWAL = time.Hour, time.Hour, 4<<20
	dsn := w.destination(tenant1, "main")
	r := w.start()
	d := poisoned(t, w, r, dsn)
	w.exec(`CREATE TABLE unpublished (id int, v text)`)
	w.exec(`INSERT INTO unpublished SELECT n, repeat('x', 1000) FROM generate_series(1, 8000) n`)
	waitFor(t, "the slot to go on without it", func() error {
		if s := d.Status(); !s.Detached {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	w.synced()
	if s := d.Status(); s.State != ledger.Halted {
		t.Errorf("it is %s", s.State)
	}
	w.waitState(tenant1, "main", "halted")
	same(t, w.source, `SELECT detached FROM outflow.destination_state WHERE slot = '`+w.cfg.Source.Slot+`'`, `"t"`)
}

// One transaction of all tenants reaches those that wait for a connection in their turn. Nobody is parked for waiting.
func TestOneTransactionOfAllTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.MaxConnections, w.cfg.Sink.SlowAfter, w.cfg.Sink.ParkAfter = 3, 300*time.Millisecond, 10*time.Second
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	const tenants = 16
	var dsns []string
	for i := range tenants {
		dsns = append(dsns, w.destination(fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i), "main", "item"))
	}
	r := w.start()
	r.caughtUp()
	w.synced()
	for _, dsn := range dsns {
		exec(t, connect(t, dsn), `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;
			CREATE TRIGGER slow AFTER INSERT ON item_copy EXECUTE FUNCTION slow()`)
	}
	w.exec(`INSERT INTO item SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(t::text, 12, '0'))::uuid, n, 'x' FROM generate_series(1, 20) n, generate_series(0, $1::int) t`, tenants-1)
	w.synced()
	for i, d := range r.Router.Destinations() {
		if wasParked(d) || d.Status().Failures > 0 {
			t.Errorf("%s was parked, or failed: %+v", d, d.History())
		}
		same(t, dsns[i], `SELECT count(*) FROM item_copy`, `"20"`)
	}
}

// A transaction has more changes than the queues hold, and more tenants than there are connections. Whoever has a connection waits for the rest,
// the reader for room, the others for a connection: some make room and are copied, the reading goes on within seconds, and all become equal.
func TestOneTransactionLargerThanTheQueues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.MaxConnections, w.cfg.Sink.MemoryBytes, w.cfg.Sink.ParkAfter = 2, 4<<20, time.Hour
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	const tenants, rows = 8, 2000
	tenant := func(i int) string { return fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i) }
	var dsns []string
	for i := range tenants {
		dsns = append(dsns, w.destination(tenant(i), "main", "item"))
	}
	r := w.start()
	r.caughtUp()
	w.synced()
	w.exec(`INSERT INTO item SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(t::text, 12, '0'))::uuid, n, repeat('x', 200) FROM generate_series(1, $1::int) n, generate_series(0, $2::int) t`,
		rows, tenants-1)
	w.synced()
	parked := 0
	for _, d := range r.Router.Destinations() {
		if wasParked(d) {
			parked++
			contains(t, fmt.Sprint(d.History()), "more changes than the queues hold")
		}
	}
	if parked == 0 || parked > tenants-w.cfg.Sink.MaxConnections {
		t.Errorf("%d of %d were parked", parked, tenants)
	}
	r.caughtUp()
	for i, dsn := range dsns {
		w.mirrored(tenant(i), dsn, "item", "id, note")
	}
}
