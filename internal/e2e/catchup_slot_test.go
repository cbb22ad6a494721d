package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// fails waits for the end of a process that must exit with that code after saying what it has to.
func (p *process) fails(code int, parts ...string) {
	p.tb.Helper()
	stop := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() }) // else a process that goes on keeps the test forever
	defer stop.Stop()
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != code {
		p.tb.Errorf("exit code %d; expected %d:\n%.4000s", p.cmd.ProcessState.ExitCode(), code, p.out)
	}
	contains(p.tb, p.out.String(), parts...)
}

// highest is the highest sequence id that an external database has.
func highest(t *testing.T, dsn string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.Trim(query(t, dsn, `SELECT max(last_synced_sequence_id) FROM _stack_sync_metadata`)[0], `"`), 10, 64)
	must(t, err)
	return n
}

// The slot is invalidated because the primary may keep next to no WAL: while the process is down, and while it streams.
// A reset of it is killed again and again, and heals in the end.
func TestSlotInvalidated(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t, pgcluster.Options{InitdbArgs: []string{"--wal-segsize=1"},
		Settings: map[string]string{"fsync": "off", "max_slot_wal_keep_size": "3MB", "min_wal_size": "2MB", "max_wal_size": "4MB"}})
	w := newWorld(t, primary)
	w.existing(400, tenant1)
	dsn := pgtest.Database(t, pgtest.Shared(t))
	w.addDestination(tenant1, "main", dsn)
	file := w.configFile()
	invalidate := func() {
		t.Helper()
		waitFor(t, "the slot to be lost", func() error {
			w.exec(`SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, 4)`)
			w.exec(`CHECKPOINT`)
			if now := query(t, w.source, `SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot)[0]; now != `"lost"` {
				return fmt.Errorf("it is %s", now)
			}
			return nil
		})
	}
	p := launch(t, "run", "--config", file)
	w.waitState(tenant1, "main", "streaming")
	w.synced()
	ids := highest(t, dsn)

	must(t, p.cmd.Process.Signal(os.Interrupt))
	p.fails(0)
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%2'`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'not in the stream' WHERE "projectUserId"::text LIKE '%3'`)
	invalidate()
	launch(t, "run", "--config", file).fails(1, fmt.Sprintf("replication slot %q is lost", w.cfg.Source.Slot),
		"remedy: raise max_slot_wal_keep_size on the primary and run: outflow run --slot-reset")

	n := seed(t)
	rnd := rand.New(rand.NewPCG(n, 5))
	// How long a reset takes on this machine, to kill it anywhere in that.
	began := time.Now()
	p = launch(t, "run", "--config", file, "--slot-reset")
	p.says("the slot was reset")
	takes := time.Since(began)
	p.kill()
	for i := range kills(t, 4) {
		w.exec(`UPDATE "ProjectUser" SET "displayName" = $1 WHERE "projectUserId"::text LIKE '%4'`, fmt.Sprint("reset ", i))
		p = launch(t, "run", "--config", file, "--slot-reset", "--yes")
		timer := time.NewTimer(time.Duration(rnd.Int64N(int64(takes) * 5 / 4)))
		<-timer.C // a random moment of the reset, which is the point of this test
		p.kill()
		if now := highest(t, dsn); now < ids {
			t.Fatalf("ids went back: %d, then %d", ids, now)
		}
	}
	waitFor(t, "the last reset to take", func() error { // the session of the one that was killed may still hold the slot
		p = launch(t, "run", "--config", file, "--slot-reset", "--yes")
		var said error
		waitFor(t, "the reset to end", func() error {
			if out := p.out.String(); strings.Contains(out, "is in use") {
				said = fmt.Errorf("%s", out)
			} else if !strings.Contains(out, "the slot was reset") {
				return fmt.Errorf("it said %.2000s", out)
			}
			return nil
		})
		return said
	})
	w.waitState(tenant1, "main", "streaming")
	w.synced()
	w.equal(tenant1, dsn)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after all'`)
	w.synced()
	w.equal(tenant1, dsn)
	if now := highest(t, dsn); now <= ids {
		t.Errorf("ids went back: %d, then %d", ids, now)
	}

	// While it streams: a frozen process acknowledges nothing.
	must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%5'`)
	invalidate()
	must(t, p.cmd.Process.Signal(syscall.SIGCONT))
	p.fails(1, "is lost", "outflow run --slot-reset")
	p = launch(t, "run", "--config", file, "--slot-reset") // a lost slot needs no --yes
	p.says("the slot was reset")
	w.waitState(tenant1, "main", "streaming")
	w.synced()
	w.equal(tenant1, dsn)
}

// dataDirectory is where a stopped or running server has its files.
func dataDirectory(t *testing.T, c *pgcluster.Cluster) string {
	t.Helper()
	return strings.Trim(query(t, c.DSN(""), `SHOW data_directory`)[0], `"`)
}

// copyDirectory copies a stopped server's files, owner and all.
func copyDirectory(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	if out, err := osexec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

// restorable is a primary with a tenant that streams, and a copy of its files from an earlier time.
type restorable struct {
	*world
	primary      *pgcluster.Cluster
	data, backup string
	dsn          string
}

func newRestorable(t *testing.T) *restorable {
	t.Helper()
	primary := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	rs := &restorable{world: newWorld(t, primary), primary: primary, data: dataDirectory(t, primary), backup: filepath.Join(t.TempDir(), "data")}
	rs.existing(300, tenant1)
	rs.dsn = pgtest.Database(t, pgtest.Shared(t))
	rs.addDestination(tenant1, "main", rs.dsn)
	r := rs.start()
	r.caughtUp()
	rs.synced()
	r.end()
	must(t, primary.Stop(t.Context()))
	copyDirectory(t, rs.data, rs.backup)
	must(t, primary.Resume(t.Context()))
	rs.db = connect(t, rs.source)
	return rs
}

// goOn makes changes that the backup does not have, and brings them to the external database.
func (rs *restorable) goOn(t *testing.T) {
	t.Helper()
	r := rs.start()
	rs.exec(`UPDATE "ProjectUser" SET "displayName" = 'is lost with the primary' WHERE "projectUserId"::text LIKE '%1'`)
	rs.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%2'`)
	rs.user(tenant1, "00000000-0000-4000-8000-000000999999", "is lost with the primary")
	rs.synced()
	rs.equal(tenant1, rs.dsn)
	r.end()
}

// healed resets the slot and fails unless all is well after it.
func (rs *restorable) healed(t *testing.T, before int64, arguments ...string) {
	t.Helper()
	p := launch(t, append([]string{"run", "--config", rs.configFile(), "--slot-reset"}, arguments...)...)
	p.says("the slot was reset")
	rs.waitState(tenant1, "main", "streaming")
	rs.exec(`UPDATE "ProjectUser" SET "displayName" = 'after the reset' WHERE "projectUserId"::text LIKE '%4'`)
	rs.synced()
	rs.waitState(tenant1, "main", "streaming")
	rs.equal(tenant1, rs.dsn)
	if now := highest(t, rs.dsn); now <= before {
		t.Errorf("ids went back: %d, then %d", before, now)
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// The primary is restored from an older backup: same system identifier, same timeline, and external databases that are
// ahead of it. That is noticed, and never are changes skipped because their ids look old.
func TestPrimaryRestoredFromABackup(t *testing.T) {
	t.Parallel()
	rs := newRestorable(t)
	rs.goOn(t)
	before := highest(t, rs.dsn)
	must(t, rs.primary.Stop(t.Context()))
	copyDirectory(t, rs.backup, rs.data)
	must(t, rs.primary.Resume(t.Context()))
	rs.db = connect(t, rs.source)

	// The application goes on, far less than it had come before.
	rs.exec(`UPDATE "ProjectUser" SET "displayName" = 'after the restore' WHERE "projectUserId"::text LIKE '%3'`)
	p := launch(t, "run", "--config", rs.configFile())
	rs.waitState(tenant1, "main", "halted")
	reason := query(t, rs.source, `SELECT reason FROM outflow.destination_state`)[0]
	contains(t, reason, "the primary was restored from a backup", "remedy: run: outflow run --slot-reset")
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if now := highest(t, rs.dsn); now != before {
		t.Errorf("a halted destination was written to: %d, then %d", before, now)
	}
	rs.healed(t, before, "--yes") // by itself the slot looks healthy

	// The backup was taken by a tool that leaves slots out.
	before = highest(t, rs.dsn)
	must(t, rs.primary.Stop(t.Context()))
	copyDirectory(t, rs.backup, rs.data)
	must(t, rs.primary.Resume(t.Context()))
	rs.db = connect(t, rs.source)
	rs.dropSlot()
	launch(t, "run", "--config", rs.configFile()).fails(1, "is gone", "outflow run --slot-reset")
	rs.healed(t, before)
}

// The same, but the application has written more than was lost when Outflow looks: no position in the WAL tells.
func TestPrimaryRestoredFromABackupLongAgo(t *testing.T) {
	t.Parallel()
	rs := newRestorable(t)
	rs.goOn(t)
	before := highest(t, rs.dsn)
	must(t, rs.primary.Stop(t.Context()))
	copyDirectory(t, rs.backup, rs.data)
	must(t, rs.primary.Resume(t.Context()))
	rs.db = connect(t, rs.source)
	rs.exec(`UPDATE "ProjectUser" SET "displayName" = 'after the restore' WHERE "projectUserId"::text LIKE '%3'`)
	rs.exec(`CREATE TABLE ballast AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 20000) n`)
	same(t, rs.source, fmt.Sprintf(`SELECT pg_current_wal_lsn() > '0/0'::pg_lsn + %d`, before), `"t"`)
	p := launch(t, "run", "--config", rs.configFile())
	rs.waitState(tenant1, "main", "halted")
	contains(t, query(t, rs.source, `SELECT reason FROM outflow.destination_state`)[0], "the primary was restored from a backup", "outflow run --slot-reset")
	rs.exec(`UPDATE "ProjectUser" SET "displayName" = 'and later' WHERE "projectUserId"::text LIKE '%5'`)
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if now := highest(t, rs.dsn); now != before {
		t.Errorf("a halted destination was written to: %d, then %d", before, now)
	}
	rs.healed(t, before, "--yes")
}

// The primary is restored while Outflow runs, which connects again and finds its own notes gone.
func TestPrimaryRestoredUnderOutflow(t *testing.T) {
	t.Parallel()
	rs := newRestorable(t)
	rs.goOn(t)
	before := highest(t, rs.dsn)
	p := launch(t, "run", "--config", rs.configFile())
	rs.waitState(tenant1, "main", "streaming")
	rs.exec(`UPDATE "ProjectUser" SET "displayName" = 'is lost' WHERE "projectUserId"::text LIKE '%1'`)
	rs.synced()
	must(t, rs.primary.Stop(t.Context()))
	copyDirectory(t, rs.backup, rs.data)
	must(t, rs.primary.Resume(t.Context()))
	rs.db = connect(t, rs.source)
	p.fails(1, "it was restored from a backup", "outflow run --slot-reset")
	rs.healed(t, before, "--yes")
}

// A standby that was promoted has no slot and another timeline: refused, and healed by a reset with the new address.
func TestPromotedStandby(t *testing.T) {
	t.Parallel()
	rs := newRestorable(t)
	standby := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	data := dataDirectory(t, standby)
	must(t, standby.Stop(t.Context()))
	settings, err := os.ReadFile(filepath.Join(data, "cluster.conf"))
	must(t, err)
	copyDirectory(t, rs.backup, data)
	host, port, _ := strings.Cut(rs.primary.Addr(), ":")
	conninfo := fmt.Sprintf("\nprimary_conninfo = 'host=%s port=%s user=postgres'\n", host, port)
	must(t, os.WriteFile(filepath.Join(data, "cluster.conf"), append(settings, conninfo...), 0o644))
	must(t, os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644))
	must(t, standby.Resume(t.Context()))
	rs.goOn(t)
	before := highest(t, rs.dsn)
	here := strings.Replace(rs.source, rs.primary.Addr(), standby.Addr(), 1)
	waitFor(t, "the standby to have it all", func() error {
		if n := query(t, here, `SELECT count(*) FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%999999'`)[0]; n != `"1"` {
			return fmt.Errorf("it has not")
		}
		return nil
	})
	must(t, rs.primary.Crash(t.Context()))
	must(t, standby.Exec(t.Context(), "", `SELECT pg_promote()`))
	rs.source, rs.cluster = here, standby
	rs.cfg.Source.DSN = secret.New(here)
	rs.db = connect(t, here)

	// It has the slot of the copied files, of which nobody knows whether it fits: with it, and without.
	launch(t, "run", "--config", rs.configFile()).fails(1, "the primary is not the one that outflow.source describes",
		"timeline 2", "a standby was promoted", "outflow run --slot-reset")
	rs.dropSlot()
	launch(t, "run", "--config", rs.configFile()).fails(1, "outflow run --slot-reset")
	rs.healed(t, before)
}
