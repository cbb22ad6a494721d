package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// The tests of this file have servers that cannot be read for causes whose symptoms resemble those of other causes.

func TestWhatStandsInATablesPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.destination(tenant1, "main")
	w.exec(`CREATE TABLE behind (tenant uuid, id int PRIMARY KEY); CREATE VIEW aview AS SELECT * FROM behind;
		CREATE MATERIALIZED VIEW amatview AS SELECT * FROM behind; CREATE SEQUENCE asequence`)
	for name, kind := range map[string]string{
		"aview": "a view", "amatview": "a materialized view", "asequence": "a sequence", "behind_pkey": "an index",
	} {
		w.with(func(c *config.Config) {
			c.Source.Tables = append(c.Source.Tables, config.Table{Name: name, Tenant: "tenant"})
		}, func() { w.refused(kind, "public."+name+" is "+kind, "the table that holds the rows") })
	}
}

func TestReadOnlyPrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	role := w.role("readonly", "SUPERUSER")
	w.cfg.Source.DSN = secret.New(withUser(t, w.source, role))
	readOnly := func(on string) { w.exec(fmt.Sprintf(`ALTER ROLE %s SET default_transaction_read_only = %s`, role, on)) }
	readOnly("on")
	w.refused("a read-only primary", "read-only", "default_transaction_read_only", fmt.Sprintf(`ALTER ROLE "%s" SET default_transaction_read_only = off`, role))
	readOnly("off")
	p := launch(t, "run", "--config", w.configFile())
	w.waitState(tenant1, "main", "streaming")
	// While it runs the cause may pass by itself: the process says what it waits for, and goes on.
	readOnly("on")
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, role)
	p.says("the primary takes no writes; trying again")
	readOnly("off")
	w.user(tenant1, userID(1), "after the maintenance")
	waitFor(t, "the row", func() error {
		if diff := w.diff(tenant1, dsn); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// A standby that answers where the primary is expected is neither a primary without a slot nor a primary without rights.
func TestStandbyAsSource(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	w := newWorld(t, primary)
	w.destination(tenant1, "main")
	w.cfg.Destinations.Static[0].DSN = secret.New(pgtest.Database(t, pgtest.Shared(t)))
	p := launch(t, "run", "--config", w.configFile())
	w.waitState(tenant1, "main", "streaming")
	data := dataDirectory(t, primary)
	must(t, primary.Stop(t.Context()))
	signal := filepath.Join(data, "standby.signal")
	must(t, os.WriteFile(signal, nil, 0o644))
	must(t, primary.Resume(t.Context()))
	p.says("is a standby (in recovery)") // a failover may be under way: the process waits for the primary
	launch(t, "run", "--config", w.configFile()).fails(1, "is a standby", "use the primary in source.dsn")
	must(t, primary.Stop(t.Context()))
	must(t, os.Remove(signal))
	must(t, primary.Resume(t.Context()))
	w.db = connect(t, w.source)
	w.user(tenant1, userID(1), "after the failover")
	w.synced()
	w.equal(tenant1, w.cfg.Destinations.Static[0].DSN.Reveal())
}

// From 18 on a slot may be invalidated because no process has read it for a time. More WAL would not have helped.
func TestSlotInvalidatedForIdleness(t *testing.T) {
	t.Parallel()
	primary := startVersion(t, 18, map[string]string{"fsync": "off", "idle_replication_slot_timeout": "1s"})
	w := newWorld(t, primary)
	w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	r.end()
	waitFor(t, "the slot to be lost", func() error {
		w.exec(`CHECKPOINT`)
		if now := query(t, w.source, `SELECT wal_status, invalidation_reason FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot)[0]; now != `"lost"|"idle_timeout"` {
			return fmt.Errorf("it is %s", now)
		}
		return nil
	})
	file := w.configFile()
	for _, args := range [][]string{{"run"}, {"check"}} {
		p := launch(t, append(args, "--config", file)...)
		p.fails(1, "is lost", "idle_replication_slot_timeout", "outflow run --slot-reset")
		if got := p.out.String(); strings.Contains(got, "max_slot_wal_keep_size on the primary and run") {
			t.Errorf("it advises to keep more WAL:\n%s", got)
		}
	}
}

// A prepared transaction has no process, and holds the creation of a slot up all the same.
func TestSlotCreationNamesWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	w := newWorld(t, primary)
	w.destination(tenant1, "main")
	w.cfg.Destinations.Static[0].DSN = secret.New(pgtest.Database(t, pgtest.Shared(t)))
	w.exec(`CREATE TABLE busy (n int)`)
	other := connect(t, w.source)
	exec(t, other, `BEGIN`)
	exec(t, other, `INSERT INTO busy VALUES (1)`)
	exec(t, other, `PREPARE TRANSACTION 'it''s forgotten'`)
	p := launch(t, "run", "--config", w.configFile())
	p.says("prepared transaction 'it''s forgotten'")
	p.says("ROLLBACK PREPARED")
	exec(t, other, `ROLLBACK PREPARED 'it''s forgotten'`)
	w.waitState(tenant1, "main", "streaming")
	w.dropSlotAfter(p)
	tx, err := other.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO busy VALUES (1)`)
	must(t, err)
	pid := other.PgConn().PID()
	p = launch(t, "run", "--config", w.configFile(), "--slot-reset", "--yes")
	p.says(fmt.Sprintf("pg_terminate_backend(%d)", pid))
	must(t, tx.Rollback(t.Context()))
	w.waitState(tenant1, "main", "streaming")
}

// dropSlotAfter ends a process and drops the slot.
func (w *world) dropSlotAfter(p *process) {
	w.tb.Helper()
	if code := p.terminate(); code != 0 {
		w.tb.Errorf("exit code %d", code)
	}
	w.dropSlot()
}

// startVersion starts a server of one major version; the test is skipped where the machine has none of that version.
func startVersion(t *testing.T, version int, settings map[string]string) *pgcluster.Cluster {
	t.Helper()
	for _, install := range pgcluster.Installed() {
		if install.Version == version {
			return pgtest.New(t, pgcluster.Options{Version: version, Settings: settings})
		}
	}
	t.Skipf("no server of version %d on this machine", version)
	return nil
}
