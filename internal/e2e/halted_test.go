package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/destination"
	"outflow/sink/ledger"
	"outflow/sink/status"
)

// poisoned has a destination halt over one row, and returns the destination.
func poisoned(t *testing.T, w *world, r *running, dsn string) *destination.Destination {
	t.Helper()
	r.caughtUp()
	exec(t, connect(t, dsn), `ALTER TABLE users ADD CONSTRAINT nobad CHECK (display_name <> 'bad')`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'bad' WHERE "tenancyId" = $1 AND "projectUserId" = $2`, tenant1, userID(3))
	d := r.destination("main")
	contains(t, becomes(t, d, ledger.Halted), "nobad")
	return d
}

// A person is needed until what failed was done: also while the slot goes on without the destination, its server is away, and over a
// restart.
func TestHaltedStaysHalted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(2000, tenant1)
	w.cfg.Sink.ParkAfter, w.cfg.Sink.RetryMax = 500*time.Millisecond, time.Second
	gate := w.gated(tenant1, "main")
	gate.Refuse(false)
	r := w.start()
	d := poisoned(t, w, r, gate.dsn)
	since := d.Status().Since
	detached := func() {
		t.Helper()
		waitFor(t, "the slot to go on without it", func() error {
			if s := d.Status(); !s.Detached {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		w.synced()
		waitFor(t, "that to be noted", func() error { // each try lets the stream feed it for a moment, and a queue without changes holds nothing
			w.exec(`UPDATE "ProjectUser" SET "displayName" = 'changed' WHERE "projectUserId" = $1`, userID(1000))
			noted := query(t, w.source, `SELECT state, detached, reason ~ 'nobad', abs(extract(epoch FROM since) - $2) < 2 FROM outflow.destination_state WHERE slot = $1`,
				w.cfg.Source.Slot, float64(since.UnixMilli())/1000)[0]
			if noted != `"halted"|"t"|"t"|"t"` {
				return fmt.Errorf("noted is %s", noted)
			}
			return nil
		})
	}
	detached()
	gate.Refuse(true)
	failures := d.Status().Failures
	waitFor(t, "tries that do not reach it", func() error {
		if s := d.Status(); s.Failures < failures+3 {
			return fmt.Errorf("%d", s.Failures)
		}
		return nil
	})
	halted := func() {
		t.Helper()
		if s := d.Status(); s.State != ledger.Halted || s.Since.Sub(since).Abs() > 2*time.Second || !strings.Contains(s.Reason, "nobad") || s.Err == nil {
			t.Errorf("it is %+v", s)
		}
		for _, e := range d.History()[slices.IndexFunc(d.History(), func(e status.Event) bool { return e.State == ledger.Halted }):] {
			if e.State != ledger.Halted {
				t.Errorf("its history is %+v", d.History())
			}
		}
	}
	halted()
	r.end()
	r = w.start()
	d = r.destination("main")
	waitFor(t, "the notes", func() error {
		if s := d.Status(); s.State != ledger.Halted {
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	halted()
	// The copy's first chunks succeed. That proves nothing of the row that is refused.
	gate.Refuse(false)
	waitFor(t, "rows to be copied", func() error {
		if s := d.Status(); s.Copied == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	halted()
	exec(t, connect(t, gate.dsn), `ALTER TABLE users DROP CONSTRAINT nobad`)
	becomes(t, d, ledger.Streaming)
	if s := d.Status(); s.Detached || s.Err != nil {
		t.Errorf("it is %+v", s)
	}
	w.synced()
	w.equal(tenant1, gate.dsn)
	waitFor(t, "the notes", func() error {
		if got := query(t, w.source, `SELECT state, detached FROM outflow.destination_state WHERE slot = $1`, w.cfg.Source.Slot)[0]; got != `"streaming"|"f"` {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// What was mended while no process ran is found well, also where nothing is left to do.
func TestHaltedThatIsMendedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	w.cfg.Sink.ParkAfter = time.Hour
	dsn := w.destination(tenant1, "main")
	r := w.start()
	poisoned(t, w, r, dsn)
	w.waitState(tenant1, "main", "halted")
	r.end()
	w.exec(`UPDATE outflow.source SET flush_lsn = pg_current_wal_lsn()`) // as if nothing were left to read
	waitFor(t, "the slot to be free", func() error {
		_, err := w.db.Exec(t.Context(), `SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())`, w.cfg.Source.Slot)
		return err
	})
	exec(t, connect(t, dsn), `ALTER TABLE users DROP CONSTRAINT nobad`)
	becomes(t, w.start().destination("main"), ledger.Streaming)
}

// A try is made now, by the process that reads the slot, wherever it was asked for; and switches and requests are on record there.
func TestRetryAndTheRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	w.cfg.Sink.RetryMax = time.Hour
	dsn := w.destination(tenant1, "main")
	w.gated(tenant2, "away")
	file := w.configFile()
	p := launch(t, "run", "--config", file, "--set", "sink.retry_min=1h")
	w.waitState(tenant1, "main", "streaming")
	exec(t, connect(t, dsn), `ALTER TABLE users ADD CONSTRAINT nobad CHECK (display_name <> 'bad')`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'bad'`)
	w.waitState(tenant1, "main", "halted")
	exec(t, connect(t, dsn), `ALTER TABLE users DROP CONSTRAINT nobad`)
	with := func(args ...string) []string { return append(args, "--config", file, "--by", "Grace") }
	contains(t, exits(t, 0, with("retry", tenant1+"/main", "--reason", "it is repaired")...), "1 destinations are being retried now")
	w.waitState(tenant1, "main", "streaming")
	p.says(`"msg":"a retry was requested","tenant":"` + tenant1 + `","destination":"main","by":"Grace","reason":"it is repaired","waits":true`)
	contains(t, exits(t, 0, with("retry", "--halted")...), "0 destinations")
	contains(t, exits(t, 0, with("retry", "--all")...), "2 destinations")
	contains(t, exits(t, 1, with("retry", tenant1+"/mian")...), `no destination "`+tenant1+`/mian"`)
	w.exec(`UPDATE outflow.destination_state SET reason = 'it is not in the configuration' WHERE tenant_id = $1`, tenant2) // as of one that was taken out
	w.cfg.Destinations.Static = w.cfg.Destinations.Static[:1]
	contains(t, exits(t, 1, "retry", tenant2+"/away", "--config", w.configFile(), "--by", "Grace"), `no destination "`+tenant2+`/away" of the configuration`)
	exits(t, 2, with("retry")...)
	exits(t, 2, with("retry", "--all", tenant1+"/main")...)

	exits(t, 0, with("pause", "backfills", "--reason", "peak hours")...)
	p.says(`"msg":"switched off","switch":"backfills","tenant":"","destination":"","by":"Grace","reason":"peak hours"`)
	w.exec(`UPDATE outflow.switch SET off = false, set_by = 'psql', reason = 'over'`)
	p.says(`"msg":"switched on","switch":"backfills","tenant":"","destination":"","by":"psql","reason":"over"`)
	exits(t, 0, with("pause", "backfills", "--reason", "bytes \xff,\x1b[31m colours\nand lines")...)
	p.says(`"msg":"switched off","switch":"backfills","tenant":"","destination":"","by":"Grace","reason":"bytes ?, [31m colours and lines"`)
	exits(t, 0, with("resume", "backfills")...)
	exits(t, 0, with("resync", "--tenant", tenant1, "--no-wait", "--reason", "to see")...)
	p.says(`"msg":"a resync was requested","tenant":"` + tenant1 + `","destination":"main","by":"Grace","reason":"to see"`)
	p.terminate()
	contains(t, exits(t, 0, with("retry", "--all")...), "tried when outflow run starts")
}
