package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// refused opens a pipeline that must be refused, with a message that has these parts and names a remedy.
func (w *world) refused(what string, parts ...string) {
	w.tb.Helper()
	_, err := pipeline.Open(context.Background(), w.cfg, zap.NewNop())
	if err == nil {
		w.tb.Errorf("%s: the pipeline was opened", what)
		return
	}
	contains(w.tb, err.Error(), parts...)
	if pipeline.Unreachable(err) {
		w.tb.Errorf("%s: it would be tried again, for ever: %v", what, err)
	}
	if !config.IsFault(err) {
		var problem *primary.Problem
		if !errors.As(err, &problem) || problem.Remedy == "" {
			w.tb.Errorf("%s: neither the user's fault nor with a remedy: %v", what, err)
		}
	}
	if got := query(w.tb, w.source, `SELECT slot_name FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot); len(got) > 0 {
		w.tb.Errorf("%s: it left a slot", what)
	}
	if got := query(w.tb, w.source, `SELECT pubname FROM pg_publication`); len(got) > 0 {
		w.tb.Errorf("%s: it left a publication", what)
	}
}

// with runs a test with a change of the configuration that is taken back.
func (w *world) with(change func(c *config.Config), test func()) {
	w.tb.Helper()
	saved := *w.cfg
	changed := saved
	changed.Source.Tables = append([]config.Table{}, saved.Source.Tables...)
	changed.Mappings = append([]string{}, saved.Mappings...)
	changed.Destinations.Static = append([]config.Static{}, saved.Destinations.Static...)
	w.cfg = &changed
	change(w.cfg)
	test()
	w.cfg = &saved
}

func TestThePrimaryIsNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.destination(tenant1, "main")
	w.exec(`CREATE TABLE nokey (tenant uuid, id int);
		CREATE TABLE nothing (tenant uuid, id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
		CREATE TABLE outside (tenant uuid, id int PRIMARY KEY);
		CREATE UNLOGGED TABLE unlogged (tenant uuid, id int, PRIMARY KEY (tenant, id));
		CREATE VIEW aview AS SELECT * FROM outside`)
	table := func(name, tenant string, test func()) {
		t.Helper()
		w.with(func(c *config.Config) {
			c.Source.Tables = append(c.Source.Tables, config.Table{Name: name, Tenant: tenant})
		}, test)
	}
	table("Missing", "tenant", func() { w.refused("missing table", "public.Missing does not exist", "correct source.tables") })
	table("projectuser", "tenant", func() { w.refused("wrong case", "public.projectuser does not exist", "case-sensitive") })
	table("elsewhere.Order", "tenant", func() { w.refused("missing schema", "elsewhere.Order does not exist") })
	table("aview", "tenant", func() { w.refused("view", "public.aview is a view") })
	table("nokey", "tenant", func() {
		w.refused("no replica identity", "public.nokey has no replica identity", "UPDATE and DELETE fail", "REPLICA IDENTITY USING INDEX")
	})
	table("nothing", "tenant", func() { w.refused("replica identity nothing", "public.nothing has no replica identity") })
	table("outside", "tenancyId", func() {
		w.refused("no tenant column", `public.outside has no column "tenancyId"`, "correct source.tables", "tenant, id")
	})
	table("outside", "tenant", func() {
		w.refused("tenant not in the identity", `tenant column "tenant" is not in the replica identity of public.outside`, "CREATE UNIQUE INDEX", "REPLICA IDENTITY FULL")
	})
	table("unlogged", "tenant", func() { w.refused("unlogged", "public.unlogged is not logged", "SET LOGGED") })
	w.with(func(c *config.Config) {
		c.Source.Tables = append(c.Source.Tables, config.Table{Name: "Missing", Tenant: "x"}, config.Table{Name: "nokey", Tenant: "tenant"})
	}, func() {
		w.refused("all at once", "public.Missing does not exist", "public.nokey has no replica identity")
	})
	w.with(func(c *config.Config) {
		c.Source.Tombstones = &config.Tombstones{Table: "DeletedRow", Tenant: "tenancyId", TableName: "nameOfTable", Key: "primaryKey", Row: "data"}
	}, func() {
		w.refused("tombstone column", "DeletedRow has no column nameOfTable", "correct source.tombstones")
	})
	// The application goes on as before.
	w.exec(`INSERT INTO nokey VALUES (NULL, 1); UPDATE nokey SET id = 2; DELETE FROM nokey`)

	weak := w.role("weak", "")
	w.exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %%I TO %s', current_database()); END $$`, weak))
	w.with(func(c *config.Config) { c.Source.DSN = secret.New(withUser(t, w.source, weak)) }, func() {
		w.refused("no REPLICATION", fmt.Sprintf("role %q may not replicate", weak), fmt.Sprintf(`ALTER ROLE "%s" REPLICATION`, weak))
	})
	w.exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE format('REVOKE CREATE ON DATABASE %%I FROM %s', current_database()); END $$; ALTER ROLE %[1]s REPLICATION`, weak))
	w.with(func(c *config.Config) { c.Source.DSN = secret.New(withUser(t, w.source, weak)) }, func() {
		w.refused("no CREATE", "lacks a right on the primary", "outflow init --apply")
	})
	w.with(func(c *config.Config) { c.Source.DSN = secret.New(withUser(t, w.source, "nobody")) }, func() {
		w.refused("no such role", `refuses the login of "nobody"`, "check user and password in source.dsn")
	})
	w.with(func(c *config.Config) { c.Source.DSN = secret.New(w.cluster.DSN("missing")) }, func() {
		w.refused("no such database", "has no database", "check the database name in source.dsn")
	})
	w.with(func(c *config.Config) { c.Source.DSN = secret.New("postgres://[") }, func() { w.refused("bad dsn", "source.dsn: ") })
}

func TestTheSlotIsSomebodyElses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	other := newWorld(t, w.cluster)
	other.exec(`SELECT pg_create_logical_replication_slot('` + other.cfg.Source.Slot + `', 'pgoutput')`)
	w.exec(`SELECT pg_create_physical_replication_slot('` + w.cfg.Source.Slot + `')`)
	expect := func(parts ...string) {
		t.Helper()
		_, err := pipeline.Open(t.Context(), w.cfg, zap.NewNop())
		contains(t, fmt.Sprint(err), parts...)
	}
	expect("is not a pgoutput slot", "set another slot in source.slot")
	w.with(func(c *config.Config) { c.Source.Slot = other.cfg.Source.Slot }, func() {
		expect("belongs to another database", "set another slot in source.slot")
	})
	w.dropSlot()
	r := w.start()
	r.end()
	w.dropSlot()
	expect("is gone", "remedy: ", "outflow run --slot-reset")
}

func TestWalLevelAndLogin(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"wal_level": "replica", "fsync": "off"}})
	w := newWorld(t, c)
	w.destination(tenant1, "main")
	w.refused("wal_level", `wal_level on the primary is "replica"`, "ALTER SYSTEM SET wal_level = logical", "restart")
	exec(t, w.db, `CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'right'; CREATE ROLE barred LOGIN SUPERUSER`)
	exec(t, w.db, `DO $do$ BEGIN
		EXECUTE format('COPY (VALUES (''host all locked all scram-sha-256''), (''host all barred all reject''), (''host all,replication all all trust'')) TO %L', current_setting('hba_file'));
		PERFORM pg_reload_conf();
	END $do$`)
	login := func(user string, parts ...string) {
		t.Helper()
		w.with(func(c *config.Config) { c.Source.DSN = secret.New(withUser(t, w.source, user)) }, func() {
			waitFor(t, "the new pg_hba.conf", func() error {
				_, err := pipeline.Open(t.Context(), w.cfg, zap.NewNop())
				if strings.Contains(fmt.Sprint(err), "wal_level") {
					return errors.New("it is not in use yet")
				}
				return nil
			})
			w.refused(user, parts...)
		})
	}
	login("locked:wrong", `the primary refuses the login of "locked"`, "check user and password in source.dsn")
	login("barred", `pg_hba.conf does not let "barred" in`, "add a line such as: hostssl", "reload")
}

func TestMappingsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.destination(tenant1, "main", "users", "nonsense")
	w.refused("unknown mapping", tenant1+"/main", `there is no mapping "nonsense"; there are: contact_channels, users`)
	w.with(func(c *config.Config) { c.Destinations.Static[0].Mappings = []string{"item"} }, func() {
		w.mapping("item", mirror("item", 1, "id int", "note text"))
		w.refused("table that is not read", `mapping "item" reads from "item", which is not in source.tables`)
	})
	w.with(func(c *config.Config) {
		c.Destinations.Static[0].Mappings = nil
		c.Destinations.Static[0].Tenant = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
		c.Destinations.Static = append(c.Destinations.Static, c.Destinations.Static[0])
		c.Destinations.Static[1].Tenant = strings.ToUpper(c.Destinations.Static[0].Tenant)
	}, func() { w.refused("the same destination twice", "already has a destination of that name") })
	w.with(func(c *config.Config) { c.Destinations.Static[0].Tenant = "acme" }, func() {
		w.refused("tenant", `destinations.static[0]: tenant "acme"`, "uuid")
	})
	for _, bad := range []struct{ sql, message string }{
		{`COPY item_copy FROM STDIN`, `found "copy"`},
		{`COMMIT`, `found "commit"`},
		{`DELETE FROM a; DELETE FROM b`, "a second statement"},
		{`DELETE FROM item_copy WHERE id = $1`, "a mapping has no parameters"},
		{`INSERT INTO item_copy SELECT * FROM item`, "* is not allowed"},
		{`INSERT INTO item_copy SELECT r.* FROM item r`, "* is not allowed"},
		{`SELECT 'never ends`, "a string does not end"},
	} {
		w.with(func(*config.Config) {}, func() {
			file := w.mapping("bad", fmt.Sprintf("name: bad\ntarget: bad\nsteps:\n  - from: item\n    when: upsert\n    sql: |\n      -- a comment\n      %s\n", bad.sql))
			w.refused(bad.sql, file+":8:", bad.message)
		})
	}
	w.with(func(c *config.Config) { c.Mappings = []string{"/nowhere/at.yaml"} }, func() { w.refused("no such file", "/nowhere/at.yaml") })
}

// TestMappingsThatHalt has mappings that only the external server can find wrong: the destination halts and says where, the
// others go on, and after the repair nothing is lost.
func TestMappingsThatHalt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	bad := func(name, schema, sql string) (dsn, file string) {
		file = w.mapping(name, fmt.Sprintf("name: %s\ntarget: t\nschema: |\n  CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY);\n  %s\nsteps:\n  - from: item\n    when: upsert\n    sql: |\n      -- ünïcödé\n      WITH own AS (SELECT 1)\n      %s\n", name, schema, sql))
		return w.destination(tenant1, name, name), file
	}
	good := w.destination(tenant1, "good", "item")
	_, column := bad("column", "", "INSERT INTO t SELECT r.identifier FROM item r")
	_, syntax := bad("syntax", "", "INSERT INTO t SELEC r.id FROM item r")
	_, table := bad("table", "", "INSERT INTO nowhere SELECT r.id FROM item r")
	_, wrongType := bad("type", "", "INSERT INTO t SELECT r.note FROM item r")
	_, function := bad("function", "", "INSERT INTO t SELECT nofunction(r.id) FROM item r")
	_, schema := bad("schema", "CREATE TABLE IF NOT EXISTS u (id nonsense)", "INSERT INTO t SELECT r.id FROM item r")
	poison, _ := bad("poison", "ALTER TABLE t DROP CONSTRAINT IF EXISTS no13, ADD CONSTRAINT no13 CHECK (id <> 13)",
		"INSERT INTO t SELECT r.id FROM item r ON CONFLICT DO NOTHING")
	// A role that may not create tables.
	role := w.role("small", "")
	confined := pgtest.Database(t, w.cluster)
	exec(t, connect(t, confined), `REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // nobody but the owner has it from 15 on
	w.addDestination(tenant1, "confined", withUser(t, confined, role), "item")
	r := w.start()
	w.exec(`INSERT INTO item SELECT '` + tenant1 + `', n, 'x' FROM generate_series(1, 20) n`)

	halted := func(name string, parts ...string) {
		t.Helper()
		contains(t, becomes(t, r.destination(name), ledger.Halted), append(parts, "mapping "+name)...)
	}
	halted("column", column+":12:28: ", "identifier does not exist", "42703", "remedy: item has the columns tenant, id, note", "columns: of the table in source.tables")
	halted("syntax", syntax+":12:21: ", `syntax error at or near "SELEC"`)
	halted("table", table+":12:19: ", `relation "nowhere" does not exist`)
	halted("type", wrongType+":12:28: ", "integer")
	halted("function", function+":12:28: ", "nofunction(integer) does not exist")
	halted("schema", schema+":5:36: ", `type "nonsense" does not exist`)
	halted("poison", "row of item with tenant="+tenant1+", id=13: ", "no13")
	text := becomes(t, r.destination("confined"), ledger.Halted)
	contains(t, text, "permission denied for schema public", "remedy: as the database's owner: GRANT USAGE, CREATE ON SCHEMA public TO", role)
	waitFor(t, "the good mapping", func() error {
		if s := r.destination("good").Status(); s.Queued > 0 || s.Batches == 0 {
			return fmt.Errorf("it has the status %+v", s)
		}
		return nil
	})
	w.mirrored(tenant1, good, "item", "id, note")
	same(t, poison, `SELECT * FROM t`)

	exec(t, connect(t, confined), `GRANT CREATE ON SCHEMA public TO `+role)
	exec(t, connect(t, poison), `ALTER TABLE t DROP CONSTRAINT no13`)
	becomes(t, r.destination("confined"), ledger.Streaming)
	becomes(t, r.destination("poison"), ledger.Streaming)
	w.mirrored(tenant1, confined, "item", "id, note")
	same(t, poison, `SELECT count(*) FROM t`, `"20"`)
	exec(t, connect(t, confined), `DROP OWNED BY `+role)
}

// TestErrorsWithTwoBatchesInFlight has one transaction of a long queue fail, in a step and at COMMIT: what was sent behind it
// is not applied, what stands before it is, and after the repair nothing is missing.
func TestErrorsWithTwoBatchesInFlight(t *testing.T) {
	t.Parallel()
	for name, constraint := range map[string]string{
		"step": `ALTER TABLE item_copy ADD CONSTRAINT guard CHECK (id <> 7300)`,
		"commit": `CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN IF NEW.id = 7300 THEN RAISE check_violation USING MESSAGE = 'not 7300'; END IF; RETURN NULL; END $$;
			CREATE CONSTRAINT TRIGGER guard AFTER INSERT ON item_copy DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
			w.table("item", 1, "id int", "note text")
			w.cfg.Sink.BatchRows = 1000
			w.cfg.Sink.ParkAfter = time.Hour
			dsn := w.destination(tenant1, "main", "item")
			r := w.start()
			r.caughtUp()
			db := connect(t, dsn)
			exec(t, db, constraint)
			d := r.destination("main")
			applying := ledger.Switch{Kind: ledger.SwitchApplying, Off: true}
			w.toggle(applying)
			becomes(t, d, ledger.Paused)
			const transactions, rows = 40, 500
			for n := range transactions {
				w.exec(`INSERT INTO item SELECT $1, $2 * $3 + n, 'x' FROM generate_series(1, $3) n`, tenant1, n, rows)
			}
			waitFor(t, "the queue to fill", func() error {
				if s := d.Status(); s.Queued != transactions {
					return fmt.Errorf("%d transactions are queued", s.Queued)
				}
				return nil
			})
			applying.Off = false
			w.toggle(applying)
			becomes(t, d, ledger.Halted)
			same(t, dsn, `SELECT count(*), max(id) FROM item_copy`, `"7000"|"7000"`)
			exec(t, db, `DROP TRIGGER IF EXISTS guard ON item_copy; ALTER TABLE item_copy DROP CONSTRAINT IF EXISTS guard`)
			becomes(t, d, ledger.Streaming)
			w.synced()
			w.mirrored(tenant1, dsn, "item", "id, note")
		})
	}
}

// TestRowsThatWereThereAlready has rows come as new that the external database has: ON CONFLICT, which is left out for rows that are
// new on the source, does what the mapping says.
func TestRowsThatWereThereAlready(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	dsn := w.destination(tenant1, "main", "item")
	r := w.start()
	r.caughtUp()
	insert := func(from, to int) {
		w.exec(`INSERT INTO item SELECT $1, n, 'from the source' FROM generate_series($2::int, $3::int) n`, tenant1, from, to)
		w.synced()
	}
	insert(1, 10)
	db := connect(t, dsn)
	exec(t, db, `CREATE TABLE statement (query text);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO statement VALUES (current_query()); RETURN NULL; END $$;
		CREATE TRIGGER note AFTER INSERT ON item_copy FOR EACH STATEMENT EXECUTE FUNCTION note()`)
	insert(11, 20)
	same(t, dsn, `SELECT query ~ 'ON CONFLICT' FROM statement`, `"f"`)
	exec(t, db, `INSERT INTO item_copy VALUES (23, 'from elsewhere'); TRUNCATE statement`)
	insert(21, 30)
	same(t, dsn, `SELECT query ~ 'ON CONFLICT' FROM statement`, `"t"`)
	w.mirrored(tenant1, dsn, "item", "id, note")
	exec(t, db, `TRUNCATE statement`)
	insert(31, 40) // it has learned
	same(t, dsn, `SELECT query ~ 'ON CONFLICT' FROM statement`, `"t"`)
	w.mirrored(tenant1, dsn, "item", "id, note")
	if s := r.destination("main").Status(); s.Failures > 0 {
		t.Errorf("that was a failure: %+v", s)
	}
}
