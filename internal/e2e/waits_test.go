package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/destination"
	"outflow/sink/ledger"
)

// A copy does not wait for a prepared transaction of another database. For one of the primary's database it waits, reads no rows meanwhile,
// and says what it waits for and what ends that.
func TestCopyWaitsForPreparedTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}}))
	w.existing(20, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	other := connect(t, pgtest.Database(t, w.cluster))
	exec(t, other, `CREATE TABLE busy (n int); BEGIN; INSERT INTO busy VALUES (1); PREPARE TRANSACTION 'elsewhere'`)
	resync := func() (*running, *destination.Destination) {
		w.exec(`UPDATE outflow.destination_state SET epoch = epoch + 1`)
		r := w.start()
		return r, r.destination("main")
	}
	r, d := resync()
	waitFor(t, "the copy", func() error {
		if s := d.Status(); s.State != ledger.Streaming || len(d.History()) < 2 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	r.end()

	w.exec(`BEGIN; UPDATE "ProjectUser" SET "displayName" = 'prepared'; PREPARE TRANSACTION 'it''s here'`)
	r, d = resync()
	waitFor(t, "the reason", func() error {
		if s := d.Status(); s.State != ledger.Backfilling || !strings.Contains(s.Reason, "prepared transaction 'it''s here'") || !strings.Contains(s.Reason, "ROLLBACK PREPARED") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	w.waitState(tenant1, "main", "backfilling")
	read := func() string {
		return query(t, w.source, `SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'ProjectUser'`)[0]
	}
	timer := time.NewTimer(time.Second) // counters come at the end of a session
	<-timer.C
	before := read()
	timer.Reset(time.Second)
	<-timer.C
	if now := read(); now != before {
		t.Errorf("rows were read while the copy waited: %s, then %s", before, now)
	}
	w.exec(`COMMIT PREPARED 'it''s here'`)
	becomes(t, d, ledger.Streaming)
	if s := d.Status(); s.Reason != "" {
		t.Errorf("the reason is still %q", s.Reason)
	}
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
	exec(t, other, `ROLLBACK PREPARED 'elsewhere'`)
}
