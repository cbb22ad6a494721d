package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// notes are the notes of a destination which only the process that reads the slot may write.
func (w *world) notes() string {
	w.tb.Helper()
	return fmt.Sprint(query(w.tb, w.source, `SELECT epoch, state, detached, sync_reached FROM outflow.destination_state ORDER BY tenant_id, name`))
}

// ends waits until the pipeline ends by itself, and returns the error.
func (r *running) ends() error {
	r.tb.Helper()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case err := <-r.done:
		r.stop = nil
		return err
	case <-timer.C:
		r.tb.Fatal("the pipeline goes on")
		return nil
	}
}

// A process that was cut off, or frozen, while another process took over writes nothing to the notes any more, and starts over.
func TestThawedProcessIsFenced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	proxy, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	w.cfg.Source.DSN = secret.New(proxy.DSN(w.source))
	first := w.start()
	first.caughtUp()
	w.synced()
	d := first.destination("main")
	becomes(t, d, ledger.Streaming)

	proxy.Stall(true)
	w.cfg.Source.DSN = secret.New(w.source)
	second := w.start()
	w.exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot)
	waitFor(t, "the other process to take over", func() error {
		if s := second.Reader.State(); s != replication.Streaming {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	second.caughtUp()
	w.synced()
	before := w.notes()
	asked := make(chan error, 1)
	go func() { asked <- d.Resync(t.Context(), "the destination was silent for long") }()
	proxy.Stall(false)
	if err := <-asked; !errors.Is(err, primary.ErrFenced) {
		t.Errorf("the note of the first process: %v", err)
	}
	if err := first.ends(); !errors.Is(err, primary.ErrFenced) {
		t.Errorf("the first process ended with %v", err)
	}
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after all'`)
	w.synced()
	w.equal(tenant1, dsn)
	if now := w.notes(); now != before {
		t.Errorf("the notes were %s and are %s", before, now)
	}
}

// A process that was frozen does not fill a mapping as its own old configuration has the mapping: the process that took over has filled it.
func TestThawedProcessFillsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.Checkpoint = time.Hour // so that no note tells of the other process
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()

	w.exec(`UPDATE outflow.source SET reading = reading + 1 WHERE slot = $1`, w.cfg.Source.Slot)
	const newer = `UPDATE _stack_sync_metadata SET fingerprint = 'newer' WHERE mapping_name = 'users'`
	exec(t, connect(t, dsn), newer)
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "late")
	if err := r.ends(); !errors.Is(err, primary.ErrFenced) {
		t.Errorf("the process ended with %v", err)
	}
	if now := query(t, dsn, `SELECT fingerprint, backfill IS NULL FROM _stack_sync_metadata WHERE mapping_name = 'users'`); now[0] != `"newer"|"t"` {
		t.Errorf("the mapping of the other process is %s", now)
	}
}

// A batch fails where the mapping that it was made with is not the mapping of the rows any more, and the mapping is filled again.
func TestBatchOfAnotherMapping(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	const prints = `SELECT fingerprint FROM _stack_sync_metadata ORDER BY mapping_name`
	before := query(t, dsn, prints)
	exec(t, connect(t, dsn), `UPDATE _stack_sync_metadata SET fingerprint = 'older'; UPDATE users SET display_name = 'older'`)
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "late")
	waitFor(t, "the mappings to be filled again", func() error {
		if now := query(t, dsn, prints); fmt.Sprint(now) != fmt.Sprint(before) {
			return fmt.Errorf("%s", now)
		}
		return nil
	})
	w.synced()
	w.equal(tenant1, dsn)
}

// A note that waits for a lock while another reading begins is not written either.
func TestFenceHoldsBehindALock(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*running) error{
		"epoch":   func(r *running) error { return r.destination("main").Resync(r.tb.Context(), "late") },
		"removal": func(r *running) error { return r.Router.Remove(r.tb.Context(), tenant1, "main") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.existing(5, tenant1)
			w.destination(tenant1, "main")
			r := w.start()
			r.caughtUp()
			w.synced()
			before := w.notes()
			tx, err := w.db.Begin(t.Context())
			must(t, err)
			_, err = tx.Exec(t.Context(), `UPDATE outflow.source SET reading = reading + 1`)
			must(t, err)
			written := make(chan error, 1)
			go func() { written <- write(r) }()
			w.waitsForLock()
			must(t, tx.Commit(t.Context()))
			if err := <-written; !errors.Is(err, primary.ErrFenced) {
				t.Errorf("the note: %v", err)
			}
			if err := r.ends(); !errors.Is(err, primary.ErrFenced) {
				t.Errorf("the pipeline ended with %v", err)
			}
			if now := w.notes(); now != before {
				t.Errorf("the notes were %s and are %s", before, now)
			}
		})
	}
}

// waitsForLock waits until a session of this database waits for a lock.
func (w *world) waitsForLock() {
	w.tb.Helper()
	db := connect(w.tb, w.source)
	waitFor(w.tb, "a session to wait for a lock", func() error {
		var n int
		err := db.QueryRow(w.tb.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("none does")
		}
		return err
	})
}

// A request is carried out whenever its row is committed, and whatever the clock says: a request behind a lock, after a request from a later
// time, and two requests for one destination at the same time.
func TestLateRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1, tenant2)
	w.destination(tenant1, "main")
	w.destination(tenant2, "main")
	w.cfg.Sink.RetryMin, w.cfg.Sink.RetryMax = time.Hour, time.Hour
	away := w.gated(tenant3, "main")
	r := w.start()
	for _, d := range r.Router.Destinations()[:2] {
		becomes(t, d, ledger.Streaming)
	}
	w.synced()
	w.user(tenant3, "00000000-0000-4000-8000-000000999999", "waits")
	becomes(t, r.Router.Destinations()[2], ledger.Retrying)
	state := &ledger.Store{Slot: w.cfg.Source.Slot, Connect: w.primary().Connect}
	defer state.Close()
	epoch := func(tenant string) string {
		return query(t, w.source, `SELECT epoch FROM outflow.destination_state WHERE tenant_id = $1`, tenant)[0]
	}
	copied := func(tenant, before string) {
		t.Helper()
		waitFor(t, "the copy", func() error {
			if now := query(t, w.source, `SELECT epoch FROM outflow.destination_state WHERE tenant_id = $1 AND state = 'streaming' AND epoch = taken_epoch`, tenant); len(now) == 0 ||
				now[0] == before {
				return fmt.Errorf("%s, after %s", now, before)
			}
			return nil
		})
	}

	// Somebody asked for tenant 2 by a clock that was ahead.
	w.exec(`UPDATE outflow.destination_state SET resync_at = now() + interval '1 hour', retry_at = now() + interval '1 hour', epoch = epoch + 1 WHERE tenant_id = $1`, tenant2)
	copied(tenant2, "")
	before := epoch(tenant1)
	_, err := state.RequestResync(t.Context(), tenant1, "", "the test", "later, by an earlier clock")
	must(t, err)
	copied(tenant1, before)

	// Two requests behind a lock.
	before = epoch(tenant1)
	tx, err := w.db.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM outflow.destination_state FOR UPDATE`)
	must(t, err)
	asked := make(chan error, 2)
	for _, by := range []string{"one", "two"} {
		go func() {
			state := &ledger.Store{Slot: w.cfg.Source.Slot, Connect: w.primary().Connect}
			defer state.Close()
			_, err := state.RequestResync(t.Context(), "", "", by, "")
			asked <- err
		}()
	}
	w.waitsForLock()
	must(t, tx.Commit(t.Context()))
	must(t, errors.Join(<-asked, <-asked))
	copied(tenant1, before)

	// A try, which ends a pause of an hour.
	away.Refuse(false)
	_, err = state.RequestRetry(t.Context(), tenant3, "", "the test", "")
	must(t, err)
	becomes(t, r.Router.Destinations()[2], ledger.Streaming)
	w.synced()
	w.equal(tenant3, away.dsn)
}

// A process that ends while it takes the slot over, before it has read the notes, writes nothing over them: the next one copies nothing.
func TestEndInTheMiddleOfABeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	all := func() string {
		return fmt.Sprint(query(t, w.source, `SELECT epoch, state, fingerprint, mappings, last_sequence_id, copied_rows FROM outflow.destination_state`))
	}
	before := all()
	for range 2 {
		tx, err := connect(t, w.source).Begin(t.Context())
		must(t, err)
		r := w.start()
		exec(t, tx.Conn(), `LOCK outflow.destination_state`) // the pipeline is open, and reads the notes when it has the slot
		w.waitsForLock()
		ended := make(chan struct{})
		go func() {
			r.end()
			close(ended)
		}()
		waitFor(t, "the note at the end", func() error {
			if n := query(t, w.source, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO outflow.destination_state%'`)[0]; n == `"0"` {
				select {
				case <-ended: // without a note
				default:
					return errors.New("there is none")
				}
			}
			return nil
		})
		must(t, tx.Rollback(t.Context()))
		<-ended
		if now := all(); now != before {
			t.Errorf("the notes were\n%s, and are\n%s", before, now)
		}
	}
	journal(t, dsn, "users", "contact_channels")
	w.start()
	w.user(tenant1, "00000000-0000-4000-8000-000000999999", "x")
	w.synced()
	same(t, dsn, `SELECT tbl, op FROM journal`, `"users"|"INSERT"`)
}
