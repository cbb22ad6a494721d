package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// A column that is renamed for one change and back, at once and while the destination has noticed, is no more than a moment's trouble:
// the rows are copied as they are now.
func TestAColumnThatIsRenamedAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.RetryMax = time.Hour // nothing here may wait for a retry
	w.exec(`CREATE TABLE item (tenant uuid, id int, v text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, 'first' FROM generate_series(1, 100) n`, tenant1)
	w.table("item", 1, "id int", "v text")
	dsn := w.destination(tenant1, "main", "item")
	r := w.start()
	r.caughtUp()
	d := r.destination("main")
	equal := func() {
		t.Helper()
		waitFor(t, "both sides to be equal", func() error {
			want := query(t, w.source, `SELECT id, v FROM item ORDER BY id`)
			if diff := cmp.Diff(want, query(t, dsn, `SELECT id, v FROM item_copy ORDER BY id`)); diff != "" {
				return errors.Join(errors.New(diff), d.Status().Err)
			}
			if s := d.Status(); s.State != ledger.Streaming {
				return fmt.Errorf("it is %s: %w", s.State, s.Err)
			}
			return nil
		})
	}
	w.exec(`BEGIN; ALTER TABLE item RENAME v TO w; UPDATE item SET w = 'in one transaction' WHERE id = 1; ALTER TABLE item RENAME w TO v; COMMIT`)
	equal()
	w.exec(`ALTER TABLE item RENAME v TO w`)
	w.exec(`UPDATE item SET w = 'at once' WHERE id = 2`)
	w.exec(`ALTER TABLE item RENAME w TO v`)
	equal()
	w.exec(`ALTER TABLE item RENAME v TO w`)
	w.exec(`UPDATE item SET w = 'noticed' WHERE id = 3`)
	becomes(t, d, ledger.Halted)
	w.exec(`ALTER TABLE item RENAME w TO v`)
	equal()
	w.exec(`UPDATE item SET v = 'and on' WHERE id = 4`)
	w.synced()
	equal()
}

// A resync drops what is queued: the copy makes up for it.
func TestResyncDropsTheQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	dsn := w.items(`CREATE TABLE item_copy (id int PRIMARY KEY, note text CHECK (note <> 'bad'))`, "id int", "note text")
	w.cfg.Sink.ParkAfter = time.Hour
	r := w.start()
	r.caughtUp()
	d := r.destination("main")
	w.exec(`INSERT INTO item VALUES ($1, 1, 'bad')`, tenant1)
	w.exec(`INSERT INTO item VALUES ($1, 2, 'good')`, tenant1)
	becomes(t, d, ledger.Halted)
	w.exec(`UPDATE item SET note = 'better' WHERE id = 1`) // the row is well, the queued change is not
	must(t, d.Resync(t.Context(), "the test"))
	waitFor(t, "both sides to be equal", func() error {
		if diff := cmp.Diff([]string{`"1"|"better"`, `"2"|"good"`}, query(t, dsn, `SELECT id, note FROM item_copy ORDER BY id`)); diff != "" {
			return errors.Join(errors.New(diff), d.Status().Err)
		}
		return nil
	})
	w.synced()
	if s := d.Status(); s.Queued != 0 {
		t.Errorf("%d transactions are queued", s.Queued)
	}
}

// An external database that was emptied or replaced while no process ran is noticed without a change of its tenant.
func TestTargetsThatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1, tenant2, tenant3)
	emptied, replaced, dead := w.destination(tenant1, "emptied"), w.gated(tenant2, "replaced"), w.gated(tenant3, "dead")
	replaced.Refuse(false)
	dead.Refuse(false)
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	exec(t, connect(t, emptied), `DROP TABLE users, contact_channels, _stack_sync_metadata`)
	other := connect(t, replaced.dsn)
	exec(t, other, `TRUNCATE users, contact_channels; UPDATE _stack_sync_metadata SET last_synced_sequence_id = -1`)
	dead.Refuse(true)
	r = w.start()
	for tenant, dsn := range map[string]string{tenant1: emptied, tenant2: replaced.dsn} {
		waitFor(t, "the copy", func() error {
			if query(t, dsn, `SELECT to_regclass('users') IS NOT NULL`)[0] != `"t"` {
				return errors.New("there is no table")
			}
			if diff := w.diff(tenant, dsn); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
	contains(t, becomes(t, r.destination("dead"), ledger.Retrying), "connecting")
	dead.Refuse(false)
	w.user(tenant3, tenant3, "a change ends it at once")
	w.synced()
	w.equal(tenant3, dead.dsn)
	becomes(t, r.destination("dead"), ledger.Streaming)
}
