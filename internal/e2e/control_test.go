package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// toggle sets a switch as another process would.
func (w *world) toggle(sw ledger.Switch) {
	w.tb.Helper()
	sw.By, sw.Reason = "the test", "it wants to see"
	state := &ledger.Store{Slot: w.cfg.Source.Slot, Connect: w.primary().Connect}
	defer state.Close()
	must(w.tb, state.SetSwitch(w.tb.Context(), sw))
}

// effective waits until the process knows of a switch.
func (r *running) effective(kind string, off bool) {
	r.tb.Helper()
	waitFor(r.tb, "the switch to be noticed", func() error {
		for _, sw := range r.Router.Switches() {
			if sw.Kind == kind && sw.Off == off {
				return nil
			}
		}
		return fmt.Errorf("the switches are %+v", r.Router.Switches())
	})
}

func TestPausedDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1, tenant2)
	dsn, other := w.destination(tenant1, "main"), w.destination(tenant2, "main")
	w.cfg.Sink.ParkAfter = time.Hour
	r := w.start()
	r.caughtUp()
	w.synced()
	one := ledger.Switch{Kind: ledger.SwitchDestination, Tenant: tenant1, Name: "main", Off: true}
	d := r.Router.Destinations()[0]
	w.toggle(one)
	becomes(t, d, ledger.Paused)
	if s := d.Status(); s.Reason != "by the test: it wants to see" || s.Since.IsZero() {
		t.Errorf("the status is %+v", s)
	}
	w.user(tenant1, "00000000-0000-4000-8000-000000999999", "while paused")
	w.user(tenant2, "00000000-0000-4000-8000-000000999999", "of the other")
	waitFor(t, "the other to get its row", func() error {
		if diff := w.diff(tenant2, other); diff != "" {
			return fmt.Errorf("%s", diff)
		}
		return nil
	})
	if s := d.Status(); s.Queued != 1 || s.QueuedChanges != 1 || s.Oldest.IsZero() {
		t.Errorf("the paused one has %+v", s)
	}
	same(t, dsn, `SELECT count(*) FROM users`, `"20"`)
	same(t, dsn, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outflow' AND datname = current_database()`, `"0"`)
	batches := d.Status().Batches
	one.Off = false
	w.toggle(one)
	becomes(t, d, ledger.Streaming)
	w.synced()
	w.equal(tenant1, dsn)
	if n := d.Status().Batches - batches; n != 1 {
		t.Errorf("it took %d batches, so it was copied and not streamed", n)
	}
	var states []ledger.State
	for _, e := range d.History() {
		states = append(states, e.State)
	}
	if want := []ledger.State{ledger.Backfilling, ledger.Streaming, ledger.Paused, ledger.Streaming}; !slices.Equal(states, want) {
		t.Errorf("the history is %v, not %v", states, want)
	}
	if s := r.Router.TableStatus(); s[0].Table != "public.ProjectUser" || s[0].Inserts != 2 || s[0].MinSequenceID >= s[0].MaxSequenceID {
		t.Errorf("the tables are %+v", s)
	}
}

// A paused destination never holds the slot back for long: it is parked, and copied again when it is resumed.
func TestPausedForLong(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*world){
		"time":  func(w *world) { w.cfg.Sink.ParkAfter = 300 * time.Millisecond },
		"queue": func(w *world) { w.cfg.Sink.QueueBytes = 64 << 10 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			set(w)
			w.existing(300, tenant1)
			dsn := w.destination(tenant1, "main")
			r := w.start()
			r.caughtUp()
			w.toggle(ledger.Switch{Kind: ledger.SwitchApplying, Off: true})
			d := r.Router.Destinations()[0]
			becomes(t, d, ledger.Paused)
			for range 3 {
				w.exec(`UPDATE "ProjectUser" SET "displayName" = "displayName" || 'x'`)
			}
			w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%7'`)
			waitFor(t, "the slot to go on without it", func() error {
				if s := d.Status(); s.Queued > 0 {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			w.synced()
			contains(t, d.Status().Reason, "applying was switched off by the test", "copied again when it is resumed")
			// It stays paused over a restart, and is not touched.
			r.end()
			r = w.start()
			d = r.Router.Destinations()[0]
			becomes(t, d, ledger.Paused)
			same(t, dsn, `SELECT count(*) FROM users WHERE display_name LIKE '%x'`, `"0"`)
			w.toggle(ledger.Switch{Kind: ledger.SwitchApplying, Off: false})
			r.caughtUp()
			w.synced()
			w.equal(tenant1, dsn)
		})
	}
}

func TestReadingSwitchedOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.cfg.Source.Heartbeat = 100 * time.Millisecond
	r := w.start()
	r.caughtUp()
	w.synced()
	waitFor(t, "a heartbeat", func() error {
		if latency, at := r.Reader.Latency(); at.IsZero() || latency <= 0 {
			return fmt.Errorf("none came back: %s, %s", latency, at)
		}
		return nil
	})
	w.toggle(ledger.Switch{Kind: ledger.SwitchReading, Off: true})
	r.effective(ledger.SwitchReading, true)
	waitFor(t, "the stream to stand", func() error {
		at := r.Reader.Position()
		_, before := r.Reader.Latency()
		timer := time.NewTimer(400 * time.Millisecond) // four heartbeats
		<-timer.C
		if _, after := r.Reader.Latency(); at != r.Reader.Position() || after != before {
			return fmt.Errorf("it goes on at %s", r.Reader.Position())
		}
		return nil
	})
	w.user(tenant1, "00000000-0000-4000-8000-000000999999", "while nothing is read")
	waitFor(t, "the slot to be seen", func() error {
		if s := r.Watcher.Last(); s == nil || !s.Active || s.WALStatus != "reserved" || s.WALEnd == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	same(t, dsn, `SELECT count(*) FROM users`, `"0"`)
	if read, confirmed := r.Reader.Position(), w.confirmed(); confirmed > read { // what was read may still be acknowledged
		t.Errorf("the slot moved to %s, and only %s was read", confirmed, read)
	}
	// The destination lacks what nobody reads: it is not shown as streaming, and the stream shows how far it is behind.
	d := r.Router.Destinations()[0]
	if s := d.Status(); s.State != ledger.Paused || !strings.Contains(s.Reason, "reading was switched off by") {
		t.Errorf("the destination is %s: %s", s.State, s.Reason)
	}
	waitFor(t, "the stream to be seen behind", func() error {
		if behind := r.Reader.Behind(time.Now()); behind < 500*time.Millisecond {
			return fmt.Errorf("it is %s behind", behind)
		}
		return nil
	})
	w.toggle(ledger.Switch{Kind: ledger.SwitchReading, Off: false})
	w.synced()
	w.equal(tenant1, dsn)
	becomes(t, d, ledger.Streaming)
	waitFor(t, "the stream to catch up", func() error {
		if behind := r.Reader.Behind(time.Now()); behind > time.Second {
			return fmt.Errorf("it is %s behind", behind)
		}
		return nil
	})
}

func TestBackfillsSwitchedOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5000, tenant1)
	w.exec(`ANALYZE`) // for the estimate
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.toggle(ledger.Switch{Kind: ledger.SwitchBackfills, Off: true})
	r.effective(ledger.SwitchBackfills, true)
	d := r.Router.Destinations()[0]
	must(t, d.Resync(t.Context(), "the test asked for it"))
	becomes(t, d, ledger.Backfilling)
	w.user(tenant1, "00000000-0000-4000-8000-000000999999", "beside it")
	w.acknowledged() // live changes go on
	if s := d.Status(); s.State != ledger.Backfilling || s.Copied != 0 {
		t.Errorf("the status is %+v", s)
	}
	w.toggle(ledger.Switch{Kind: ledger.SwitchBackfills, Off: false})
	waitFor(t, "rows to be copied", func() error {
		if s := d.Status(); s.CopyTotal < 5000 || s.Copied == 0 {
			return fmt.Errorf("the status is %+v", s)
		}
		return nil
	})
	// Off in the middle, changes meanwhile, and on again: no row that is older than what the stream has brought.
	w.toggle(ledger.Switch{Kind: ledger.SwitchBackfills, Off: true})
	r.effective(ledger.SwitchBackfills, true)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'changed'; DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%7'`)
	w.acknowledged()
	w.toggle(ledger.Switch{Kind: ledger.SwitchBackfills, Off: false})
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
}

// Backfills that wait for their turn have neither a connection nor changes, and nobody is forgotten.
func TestBackfillsTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(300, tenant1)
	w.cfg.Sink.MaxConnections, w.cfg.Sink.Backfills = 2, 1
	var all []string
	for i := range 12 {
		all = append(all, w.destination(tenant1, fmt.Sprintf("d%d", i)))
	}
	w.start().caughtUp()
	w.synced()
	for _, dsn := range all {
		w.equal(tenant1, dsn)
	}
}

// A slow database's backfill lets others go first after a while, and goes on where it was.
func TestSlowBackfillMakesRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.exec(`CREATE TABLE items (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO items SELECT $1, n, 'x' FROM generate_series(1, 8000) n`, tenant1)
	w.table("items", 1, "id int", "note text")
	w.cfg.Sink.Backfills, w.cfg.Sink.SlowAfter = 1, 300*time.Millisecond
	slow, other := w.destination(tenant1, "slow", "items"), pgtest.Database(t, w.cluster)
	db := connect(t, slow)
	exec(t, db, `CREATE TABLE items_copy (id int PRIMARY KEY, note text);
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON items_copy FOR EACH ROW EXECUTE FUNCTION slow()`)
	r := w.start()
	waitFor(t, "it to copy", func() error {
		if s := r.destination("slow").Status(); s.State != ledger.Backfilling || s.Copied == 0 {
			return fmt.Errorf("it is %s and has copied %d rows", s.State, s.Copied)
		}
		return nil
	})
	w.writes(tenant1, "other", other, "items")
	r.has(2)
	becomes(t, r.destination("other"), ledger.Backfilling)
	becomes(t, r.destination("other"), ledger.Streaming)
	w.mirrored(tenant1, other, "items", "id, note")
	if s := r.destination("slow").Status(); s.State != ledger.Backfilling {
		t.Errorf("the slow one is %s", s.State)
	}
	w.exec(`UPDATE items SET note = 'changed' WHERE id % 10 = 0; DELETE FROM items WHERE id % 10 = 1`)
	exec(t, db, `DROP TRIGGER slow ON items_copy`)
	r.caughtUp()
	w.synced()
	w.mirrored(tenant1, slow, "items", "id, note")
	w.mirrored(tenant1, other, "items", "id, note")
}

// A paused destination does not keep its place among the backfills, here while it waits for rows of a locked table.
func TestPausedBackfillMakesRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	for _, table := range []string{"slow", "fast"} {
		w.exec(`CREATE TABLE ` + table + ` (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
		w.exec(`INSERT INTO `+table+` SELECT $1, n, 'x' FROM generate_series(1, 2500) n`, tenant1) // small copies pass beside
		w.table(table, 1, "id int", "note text")
	}
	w.cfg.Sink.Backfills = 1
	paused, other := w.destination(tenant1, "paused", "slow"), w.destination(tenant1, "other", "fast")
	r := w.start()
	r.caughtUp()
	w.toggle(ledger.Switch{Kind: ledger.SwitchBackfills, Off: true})
	r.effective(ledger.SwitchBackfills, true)
	for _, name := range []string{"paused", "other"} {
		must(t, r.destination(name).Resync(t.Context(), "the test asked for it"))
		becomes(t, r.destination(name), ledger.Backfilling)
	}
	lock := connect(t, w.source)
	exec(t, lock, `BEGIN; LOCK TABLE slow`)
	w.toggle(ledger.Switch{Kind: ledger.SwitchBackfills, Off: false})
	waitFor(t, "the read to wait for the lock", func() error {
		if n := query(t, w.source, `SELECT count(*) FROM pg_locks WHERE relation = 'slow'::regclass AND NOT granted`)[0]; n == `"0"` {
			return errors.New("nobody waits for it")
		}
		return nil
	})
	sw := ledger.Switch{Kind: ledger.SwitchDestination, Tenant: tenant1, Name: "paused", Off: true}
	w.toggle(sw)
	becomes(t, r.destination("paused"), ledger.Paused)
	becomes(t, r.destination("other"), ledger.Streaming)
	w.mirrored(tenant1, other, "fast", "id, note")
	exec(t, lock, `COMMIT`)
	sw.Off = false
	w.toggle(sw)
	r.caughtUp()
	w.mirrored(tenant1, paused, "slow", "id, note")
}

func (w *world) primary() *primary.Server {
	w.tb.Helper()
	server, err := primary.New(w.source)
	must(w.tb, err)
	return server
}
