package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
)

// slowed has every statement that writes to users take a while, so that a copy can be watched.
func slowed(tb testing.TB, dsn string) {
	tb.Helper()
	exec(tb, connect(tb, dsn), `CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
		CREATE TRIGGER dawdle AFTER INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION dawdle()`)
}

func TestResyncIsWatched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(6000, tenant1)
	w.exec(`ANALYZE "ProjectUser", "ContactChannel"`)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.waitState(tenant1, "main", "streaming")
	rows := query(t, w.source, `SELECT (SELECT count(*) FROM "ProjectUser") + (SELECT count(*) FROM "ContactChannel")`)[0]
	slowed(t, dsn)
	file := w.configFile()

	p := launch(t, "resync", "--config", file)
	p.says("1 destinations are being copied again")
	const noted = `SELECT copied_rows > 0 AND copied_rows < copy_total, copy_total, state FROM outflow.destination_state WHERE slot = $1`
	waitFor(t, "the copy's progress to be noted", func() error {
		got := query(t, w.source, noted, w.cfg.Source.Slot)[0]
		if got != fmt.Sprintf(`"t"|%s|"backfilling"`, rows) { // all rows are this tenant's, and were analyzed
			return errors.New(got)
		}
		return nil
	})
	// Another one watches the same copies; Ctrl-C ends only the watching.
	other := launch(t, "resync", "--config", file, "--name", "main")
	other.says("1 destinations are being copied again")
	_ = other.cmd.Process.Signal(syscall.SIGINT)
	if _ = other.cmd.Wait(); other.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d", other.cmd.ProcessState.ExitCode())
	}
	other.says("the copies go on")
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("exit code %d: %s", p.cmd.ProcessState.ExitCode(), p.out)
	}
	p.says("1 of 1 databases, " + strings.Trim(rows, `"`) + " rows, ")
	if got := query(t, w.source, noted, w.cfg.Source.Slot)[0]; got != `NULL|NULL|"streaming"` {
		t.Errorf("after the copy the primary has %s", got)
	}
	w.equal(tenant1, dsn)

	// One that needs a person is named.
	exec(t, connect(t, dsn), `ALTER TABLE users DROP COLUMN is_anonymous`)
	contains(t, exits(t, 1, "resync", "--config", file), tenant1+"/main is halted", "is_anonymous")
}

// The copy of small tables that were never analyzed is over before anybody looks: the figures are true all the same.
func TestResyncOfSmallTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	w.cfg.Sink.Checkpoint = 2 * time.Second // as it is by default
	w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.waitState(tenant1, "main", "streaming")
	out := exits(t, 0, "resync", "--config", w.configFile())
	contains(t, out, "1 of 1 databases, 40 rows, ", " rows/s")
	if strings.Contains(out, ", 0 rows/s") {
		t.Errorf("no rate in %s", out)
	}
	same(t, w.source, `SELECT copied_rows FROM outflow.destination_state`, `"40"`)
	// Most rows are this tenant's, and no statistics say so.
	w.existing(3000, tenant2)
	w.destination(tenant2, "other")
	r.end()
	r = w.start()
	r.caughtUp()
	if s := r.destination("other").Status(); s.Copied != 6000 || s.CopyTotal != 6000 {
		t.Errorf("it is %+v", s)
	}
}
