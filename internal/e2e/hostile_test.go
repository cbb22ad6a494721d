package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// shadow has a tenant's database answer with a function of its own in the place of a system function.
func shadow(t *testing.T, dsn, function string) {
	t.Helper()
	db := connect(t, dsn)
	exec(t, db, function)
	exec(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$`)
}

// A tenant's own functions, and what it writes into the metadata, end nothing and hold nothing.
func TestHostileDatabases(t *testing.T) {
	t.Parallel()
	for name, function := range map[string]string{
		"no row": `CREATE FUNCTION public.pg_current_wal_flush_lsn() RETURNS SETOF pg_lsn LANGUAGE sql AS $$ SELECT '0/1'::pg_lsn WHERE false $$`,
		"never":  `CREATE FUNCTION public.pg_current_wal_flush_lsn() RETURNS pg_lsn LANGUAGE sql AS $$ SELECT '0/1'::pg_lsn $$`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.openPolicy()
			w.existing(5, tenant1)
			r := w.start()
			dsn := pgtest.Database(t, w.cluster)
			shadow(t, dsn, function)
			w.writes(tenant1, "main", dsn)
			r.has(1)
			r.caughtUp()
			w.user(tenant1, "00000000-0000-4000-8000-000000999991", "x")
			w.synced()
			w.equal(tenant1, dsn)
		})
	}
	t.Run("cursor", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, pgtest.Shared(t))
		w.openPolicy()
		w.existing(5, tenant1)
		r := w.start()
		dsn := pgtest.Database(t, w.cluster)
		w.writes(tenant1, "main", dsn)
		r.has(1)
		r.caughtUp()
		db := connect(t, dsn)
		exec(t, db, `UPDATE "_stack_sync_metadata" SET backfill = '{"phase":"copy","table":"ProjectUser","after":[]}'`)
		exec(t, db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		w.user(tenant1, "00000000-0000-4000-8000-000000999991", "x")
		w.synced()
		r.caughtUp()
		w.equal(tenant1, dsn)
	})
}

// A server that never flushes by itself is made to, and does not hold the slot.
func TestServerThatDoesNotFlush(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	target := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}})
	dsn := pgtest.Database(t, target)
	w.addDestination(tenant1, "main", dsn)
	r := w.start()
	r.caughtUp()
	began := time.Now()
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "x")
	w.synced()
	t.Logf("it took %s", time.Since(began))
	w.equal(tenant1, dsn)
}

// Parked in the middle of a large transaction, of which parts were let go: it takes all that comes when it is back.
func TestParkedInALargeTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.cfg.Sink.QueueBytes, w.cfg.Sink.BatchRows, w.cfg.Sink.SlowAfter = 1<<20, 200, 700*time.Millisecond
	dsn := w.destination(tenant1, "main", "ledger")
	w.destination(tenant2, "main", "ledger")
	r := w.start()
	w.journalFromHere()
	w.exec(`INSERT INTO "Counter" VALUES ($1, -1, 0), ($2, -1, 0)`, tenant1, tenant2)
	w.synced()
	db := connect(t, dsn)
	exec(t, db, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0005); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON counter FOR EACH ROW EXECUTE FUNCTION slow()`)
	w.exec(`INSERT INTO "Counter" SELECT $1, n, n FROM generate_series(1, 60000) n`, tenant1)
	d := r.Router.Destinations()[0]
	waitFor(t, "it to be parked", func() error {
		for _, e := range d.History() {
			if e.State == ledger.Parked {
				return nil
			}
		}
		return fmt.Errorf("it is %s", d.Status().State)
	})
	exec(t, connect(t, dsn), `DROP TRIGGER slow ON counter`)
	becomes(t, d, ledger.Streaming)
	w.exec(`INSERT INTO "Counter" SELECT $1, n, n FROM generate_series(100001, 100010) n`, tenant1)
	w.synced()
	same(t, dsn, `SELECT count(*) FROM counter`, query(t, w.source, `SELECT count(*) FROM "Counter" WHERE "tenancyId" = $1`, tenant1)...)
}

// Who gives a destination another target all the time, none of which answers, does not hold the slot.
func TestRewrittenAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.cfg.Sink.ParkAfter = 2 * time.Second
	r := w.start()
	w.writes(tenant1, "main", pgtest.Database(t, w.cluster))
	r.has(1)
	r.caughtUp()
	w.exec(`UPDATE outflow.destination SET dsn = 'postgres://u:p@127.0.0.1:1/d?sslmode=disable'`)
	d := r.destination("main")
	becomes(t, d, ledger.Retrying)
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "x")
	waitFor(t, "it to be parked", func() error {
		if s := d.Status(); s.State != ledger.Parked {
			w.exec(`UPDATE outflow.destination SET dsn = replace(dsn, 'u:p', 'u:pp')`)
			w.exec(`SELECT pg_sleep(0.5)`)
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	w.synced()
}

// REPLICA IDENTITY FULL publishes every column; a tenant's mapping may name those of the operator's mappings only.
func TestMappingsOfTenantsWithFullIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, secret text, PRIMARY KEY (tenant, id)); ALTER TABLE item REPLICA IDENTITY FULL`)
	w.exec(`INSERT INTO item SELECT $1, n, 'note ' || n, 'canary' FROM generate_series(1, 20) n`, tenant1)
	w.table("item", 1, "id int", "note text")
	w.cfg.Destinations.Policy.Mappings = []string{"contact_channels", "users"}
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, definitions) VALUES ($1, 't', $2, ARRAY[$3])`, tenant1, dsn,
		"name: mine\ntarget: mine\nschema: CREATE TABLE IF NOT EXISTS mine (id int PRIMARY KEY, s text)\nsteps:\n"+
			"  - from: item\n    when: upsert\n    sql: INSERT INTO mine SELECT r.id, r.secret FROM item r ON CONFLICT (id) DO NOTHING\n")
	w.writes(tenant1, "asks", dsn, "item")
	r.has(2)
	contains(t, becomes(t, r.destination("t"), ledger.Halted), "r.secret does not exist", "item has the columns tenant, id, note;")
	contains(t, becomes(t, r.destination("asks"), ledger.Halted), `mapping "item" is not among destinations.policy.mappings: contact_channels, users`)
}

// One row that cannot be is that row's fault alone.
func TestRowsThatCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, mappings) VALUES ($1, 'bad', $2, ARRAY[NULL]::text[])`, tenant2, dsn)
	w.writes(tenant1, "main", dsn)
	r.has(2)
	becomes(t, r.destination("main"), ledger.Streaming)
	contains(t, becomes(t, r.destination("bad"), ledger.Halted), "a NULL among mappings")
}

// A standby does not work, whatever is paused and resumed.
func TestStandbyDoesNotWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	second := launch(t, "run", "--config", w.configFile(), "--set", "log.level=debug")
	second.says("waiting as standby")
	one := ledger.Switch{Kind: ledger.SwitchDestination, Tenant: tenant1, Name: "main", Off: true}
	w.toggle(one)
	becomes(t, r.destination("main"), ledger.Paused)
	second.says(`"paused"`)
	exec(t, connect(t, dsn), `DROP TABLE "_stack_sync_metadata", users, contact_channels`)
	one.Off = false
	w.toggle(one)
	second.says(`"resumed"`)
	waitFor(t, "the tables to be filled again", func() error {
		if gone := query(t, dsn, `SELECT to_regclass('users') IS NULL OR to_regclass('contact_channels') IS NULL`); gone[0] != `"f"` {
			return errors.New("a table is missing")
		}
		if diff := w.diff(tenant1, dsn); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
	if out := second.out.String(); strings.Contains(out, "does not take the changes") || strings.Contains(out, "is filled from the primary") {
		t.Errorf("the standby has worked: %s", out)
	}
}

// What comes while all are paused is paused too.
func TestNewWhilePaused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.existing(5, tenant1)
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	w.toggle(ledger.Switch{Kind: ledger.SwitchApplying, Off: true})
	r.effective(ledger.SwitchApplying, true)
	w.writes(tenant1, "main", dsn)
	r.has(1)
	if s := r.destination("main").Status(); s.State != ledger.Paused {
		t.Errorf("it is %s", s.State)
	}
	w.exec(`SELECT pg_sleep(1)`) // in which it would have been filled
	same(t, dsn, `SELECT to_regclass('users')`, "NULL")
}
