package e2e

import (
	"fmt"
	"testing"
	"time"

	"outflow/internal/config"
	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// hung are destinations of one tenant behind a proxy that can be stalled.
func (w *world) hung(n int) (*faultproxy.Proxy, []string) {
	w.tb.Helper()
	proxy, err := faultproxy.New(w.cluster.Addr())
	must(w.tb, err)
	w.tb.Cleanup(func() { _ = proxy.Close() })
	var dsns []string
	for i := range n {
		dsn := pgtest.Database(w.tb, w.cluster)
		dsns = append(dsns, dsn)
		w.addDestination(tenant2, fmt.Sprintf("hung %d", i), proxy.DSN(dsn))
	}
	return proxy, dsns
}

// arrives is how long it takes until a row of tenant1 is in its external database.
func (w *world) arrives(n int, dsn string) time.Duration {
	w.tb.Helper()
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", 990000+n)
	began := time.Now()
	w.user(tenant1, id, "x")
	waitFor(w.tb, "the row", func() error {
		if query(w.tb, dsn, `SELECT to_regclass('users')`)[0] == "NULL" || len(query(w.tb, dsn, `SELECT 1 FROM users WHERE id = $1`, id)) == 0 {
			return fmt.Errorf("it is not there")
		}
		return nil
	})
	return time.Since(began)
}

// As many servers as there are connections hang after the login, in whatever statement. A healthy destination waits for a moment.
func TestHungServersKeepNoPlaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.MaxConnections, w.cfg.Sink.Backfills = 3, 5
	w.existing(5, tenant1, tenant2)
	dsn := w.destination(tenant1, "main")
	proxy, hung := w.hung(4)
	r := w.start()
	r.caughtUp()
	w.synced()
	proxy.Stall(true)
	w.user(tenant2, "00000000-0000-4000-8000-000000999999", "x")
	waitFor(t, "the hung to have all places", func() error {
		if n := proxy.Open(); n < 3 {
			return fmt.Errorf("they have %d", n)
		}
		return nil
	})
	longest := time.Duration(0)
	for n := range 15 {
		longest = max(longest, w.arrives(n, dsn))
	}
	t.Logf("the longest took %s", longest)
	if longest > 3*time.Second {
		t.Errorf("a row of a healthy destination took %s beside as many hung ones as there are places", longest)
	}
	proxy.Stall(false)
	w.synced()
	for _, dsn := range hung {
		w.equal(tenant2, dsn)
	}
}

// Eighty silent servers at a start do not keep the healthy ones from being met within seconds.
func TestSilentServersAtAStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	silent, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	silent.Stall(true)
	w.cfg.Sink.ShutdownTimeout = time.Second
	for i := range 80 {
		w.cfg.Destinations.Static = append(w.cfg.Destinations.Static, config.Static{Tenant: fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i), Name: "silent",
			DSN: secret.New(silent.DSN("postgres://postgres@127.0.0.1:1/nobody?sslmode=disable"))})
	}
	dsn := w.destination(tenant1, "main")
	for _, what := range []string{"the first start", "another start"} {
		began := time.Now()
		r := w.start()
		r.destination("main")
		w.arrives(len(what), dsn)
		took := time.Since(began)
		t.Logf("%s: the healthy one was served after %s", what, took)
		if took > 25*time.Second {
			t.Errorf("%s: the healthy one was served after %s", what, took)
		}
		r.end()
	}
}

// Copies into databases that take seconds for a chunk, more than there are places, do not keep a new tenant's copy from starting.
func TestSleepingCopiesKeepNoPlaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.cfg.Sink.ShutdownTimeout = time.Second
	w.exec(`CREATE TABLE items (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO items SELECT t::uuid, n, 'x' FROM generate_series(1, 3000) n, unnest(ARRAY[$1, $2]) t`, tenant1, tenant2)
	w.table("items", 1, "id int", "note text")
	for i := range 5 {
		dsn := w.destination(tenant2, fmt.Sprintf("sleeps %d", i), "items")
		exec(t, connect(t, dsn), `CREATE TABLE items_copy (id int PRIMARY KEY, note text);
			CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(25); RETURN NULL; END $$;
			CREATE TRIGGER slow BEFORE INSERT ON items_copy EXECUTE FUNCTION slow()`)
	}
	r := w.start()
	waitFor(t, "copies that sleep", func() error {
		if n := query(t, w.source, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'outflow'`)[0]; n < `"2"` {
			return fmt.Errorf("%s do", n)
		}
		return nil
	})
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "new", dsn, "items")
	r.has(6)
	began := time.Now()
	d := r.destination("new")
	waitFor(t, "the copy to begin", func() error {
		if s := d.Status(); s.Copied == 0 {
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	took := time.Since(began)
	t.Logf("the copy began after %s", took)
	if took > 15*time.Second {
		t.Errorf("the copy began after %s", took)
	}
}
