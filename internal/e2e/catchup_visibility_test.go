package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// hanging is a COMMIT that waits for a standby which never comes: it is in the WAL and is decoded, and nobody sees it.
type hanging struct {
	w    *world
	conn *pgx.Conn
	pid  uint32
	done chan error
}

func (w *world) hang(sql string) *hanging {
	w.tb.Helper()
	h := &hanging{w: w, conn: connect(w.tb, w.source), done: make(chan error, 1)}
	h.pid = h.conn.PgConn().PID()
	go func() {
		_, err := h.conn.Exec(context.Background(), sql)
		h.done <- err
	}()
	waitFor(w.tb, "the commit to wait for a standby", func() error {
		if event := query(w.tb, w.source, `SELECT wait_event FROM pg_stat_activity WHERE pid = $1`, h.pid); event[0] != `"SyncRep"` {
			return fmt.Errorf("it waits for %s", event[0])
		}
		return nil
	})
	return h
}

// show makes the commit visible.
func (h *hanging) show() {
	h.w.tb.Helper()
	h.w.exec(`SELECT pg_cancel_backend($1)`, h.pid)
	must(h.w.tb, <-h.done) // a warning: it is committed here and may not be at the standby
}

// absentStandby has every commit wait for a standby that is not there, but for those with synchronous_commit = local.
func (w *world) absentStandby() {
	w.tb.Helper()
	w.exec(`ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	w.exec(`SELECT pg_reload_conf()`)
	waitFor(w.tb, "commits to wait", func() error { // the checkpointer puts the setting into effect (syncrep.c, SyncRepUpdateSyncStandbysDefined)
		conn := connect(w.tb, w.source)
		done := make(chan error, 1)
		go func() {
			_, err := conn.Exec(context.Background(), `SELECT pg_logical_emit_message(true, 'test', '')`)
			done <- err
		}()
		for {
			select {
			case err := <-done:
				return cmp.Or(err, errors.New("they do not"))
			case <-time.After(10 * time.Millisecond):
			}
			if event := query(w.tb, w.source, `SELECT wait_event FROM pg_stat_activity WHERE pid = $1`, conn.PgConn().PID()); event[0] == `"SyncRep"` {
				w.exec(`SELECT pg_cancel_backend($1)`, conn.PgConn().PID())
				return <-done
			}
		}
	})
}

// FAULTS, fact 1: commits that are decoded, and applied, long before they are visible to whoever reads the table.
func TestBackfillBesideCommitsThatNobodySees(t *testing.T) {
	t.Parallel()
	statements := &syncBuffer{}
	w := newWorld(t, pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off", "log_statement": "all"}, Log: statements}))
	snapshots := func() int { return strings.Count(statements.String(), "SELECT pg_current_snapshot()") }
	w.exec(`SET synchronous_commit = local`)
	w.cfg.Source.Tombstones = nil
	w.existing(300, tenant1)
	dsn := pgtest.Database(t, pgtest.Shared(t))
	w.addDestination(tenant1, "main", dsn)
	r := w.start()
	r.caughtUp()
	w.synced()
	journal(t, dsn, "users", "contact_channels")
	w.absentStandby()
	user := func(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }
	applied := func(n int, name string) {
		t.Helper()
		waitFor(t, "the stream to bring "+name, func() error {
			if now := query(t, dsn, `SELECT display_name FROM users WHERE id = $1`, user(n)); len(now) != 1 || now[0] != `"`+name+`"` {
				return fmt.Errorf("it is %v", now)
			}
			return nil
		})
	}
	update := func(n int, name string) string {
		return fmt.Sprintf(`UPDATE "ProjectUser" SET "displayName" = '%s' WHERE "projectUserId" = '%s'`, name, user(n))
	}
	gone := func(n int) {
		t.Helper()
		waitFor(t, "the stream to bring a delete", func() error {
			if now := query(t, dsn, `SELECT display_name FROM users WHERE id = $1`, user(n)); len(now) != 0 {
				return fmt.Errorf("it is %v", now)
			}
			return nil
		})
	}

	// The first one is applied before the backfill begins: no chunk may be used before it is visible.
	first := w.hang(update(7, "before"))
	applied(7, "before")
	d, before := r.destination("main"), snapshots()
	must(t, d.Resync(t.Context(), "the test asked for it"))
	becomes(t, d, ledger.Backfilling)
	waitFor(t, "chunks to be read again and again", func() error {
		if n := snapshots(); n < before+4 {
			return fmt.Errorf("there were %d snapshots", n-before)
		}
		return nil
	})
	if s := d.Status(); s.State != ledger.Backfilling || s.Copied != 0 {
		t.Errorf("it copied rows of a snapshot that is older than what it has: %+v", s)
	}

	// These come while it waits. An update, a delete, a new row and a changed key.
	during := []*hanging{w.hang(update(8, "during")), w.hang(`DELETE FROM "ProjectUser" WHERE "projectUserId" = '` + user(9) + `'`),
		w.hang(fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ('%s', '%s', 'new')`, tenant1, user(999))),
		w.hang(fmt.Sprintf(`UPDATE "ProjectUser" SET "projectUserId" = '%s' WHERE "projectUserId" = '%s'`, user(1010), user(10)))}
	applied(8, "during")
	gone(9)
	applied(999, "new")
	gone(10)
	applied(1010, "user 10")
	applied(7, "before")

	// The first becomes visible, and the backfill comes to its end while the others are not.
	first.show()
	r.caughtUp()
	applied(7, "before")
	applied(8, "during")
	gone(9)
	applied(999, "new")
	gone(10)
	applied(1010, "user 10")
	if n := query(t, w.source, `SELECT count(*) FROM "ProjectUser" WHERE "displayName" = 'during' OR "projectUserId" = '`+user(999)+`'`)[0]; n != `"0"` {
		t.Errorf("%s of the commits were visible all the time, so the test shows nothing", n)
	}
	w.synced() // our own writes do not wait for the standby
	w.exec(`ALTER SYSTEM RESET synchronous_standby_names`)
	w.exec(`SELECT pg_reload_conf()`)
	for _, h := range during {
		must(t, <-h.done)
	}
	w.synced()
	w.equal(tenant1, dsn)
	// Nobody has ever seen an older value again.
	same(t, dsn, `SELECT op, row->>'display_name' FROM journal WHERE tbl = 'users' AND row->>'id' IN ('`+user(7)+`', '`+user(8)+`') ORDER BY n`,
		`"UPDATE"|"before"`, `"UPDATE"|"during"`)
	same(t, dsn, `SELECT op FROM journal WHERE tbl = 'users' AND row->>'id' IN ('`+user(9)+`', '`+user(999)+`') ORDER BY n`, `"DELETE"`, `"INSERT"`)
}

// A value that stays in TOAST is looked up on the primary, which may not show yet what the stream has brought: a row whose key
// changed would pass for deleted, and a value that was set a moment before would come back as the older one.
func TestToastOfCommitsThatNobodySees(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}}))
	w.exec(`SET synchronous_commit = local`)
	w.cfg.Source.Tombstones = nil
	w.cfg.Sink.BatchRows = 1 // so that the second update of a transaction does not find the first one's value in its batch
	for id := range 2 {
		w.exec(fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "serverMetadata") VALUES ('%s', '00000000-0000-4000-8000-%012d', %s)`,
			tenant1, id, big(id)))
	}
	w.cfg.Sink.ParkAfter, w.cfg.Sink.RetryMin, w.cfg.Sink.RetryMax = time.Second, time.Minute, time.Minute
	dsn := pgtest.Database(t, pgtest.Shared(t))
	w.addDestination(tenant1, "main", dsn)
	r := w.start()
	r.caughtUp()
	w.synced()
	w.absentStandby()

	began := time.Now()
	moved := w.hang(`UPDATE "ProjectUser" SET "projectUserId" = '00000000-0000-4000-8000-000000000010' WHERE "projectUserId" = '00000000-0000-4000-8000-000000000000'`)
	contains(t, becomes(t, r.destination("main"), ledger.Retrying), "is not visible on the primary yet")
	waitFor(t, "the time after which a destination at fault is parked", func() error {
		if time.Since(began) < w.cfg.Sink.ParkAfter+time.Second {
			return errors.New("it has not passed")
		}
		return nil
	})
	moved.show()
	w.synced()
	w.equal(tenant1, dsn)
	for _, e := range r.destination("main").History() {
		if e.State == ledger.Parked {
			t.Errorf("the primary's wait for a standby had the destination parked: %s", e.Reason)
		}
	}
	set := w.hang(`BEGIN; UPDATE "ProjectUser" SET "serverMetadata" = ` + big(77) + ` WHERE "projectUserId" = '00000000-0000-4000-8000-000000000001';
		UPDATE "ProjectUser" SET "displayName" = 'after it' WHERE "projectUserId" = '00000000-0000-4000-8000-000000000001'; COMMIT`)
	contains(t, becomes(t, r.destination("main"), ledger.Retrying), "is not visible on the primary yet")
	set.show()
	w.synced()
	w.equal(tenant1, dsn)
	w.exec(`ALTER SYSTEM RESET synchronous_standby_names`) // or the end of the test waits for the standby
	w.exec(`SELECT pg_reload_conf()`)
}
