package e2e

import (
	"fmt"
	"testing"

	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/sink/ledger"
)

// A server that does not let the role ask for the positions in its WAL is a target like others, whether from the start or from a moment on.
func TestTargetWithoutWALPositions(t *testing.T) {
	t.Parallel()
	target := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"max_prepared_transactions": "0"}})
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	super := pgtest.Database(t, target)
	db := connect(t, super)
	exec(t, db, `CREATE ROLE tenant LOGIN; GRANT ALL ON SCHEMA public TO tenant`)
	const functions = `FUNCTION pg_catalog.pg_current_wal_flush_lsn(), pg_catalog.pg_current_wal_insert_lsn()`
	exec(t, db, `REVOKE EXECUTE ON `+functions+` FROM PUBLIC`)
	dsn := withUser(t, super, "tenant")
	w.cfg.Destinations.Static = append(w.cfg.Destinations.Static, config.Static{Tenant: tenant1, Name: "main", DSN: secret.New(dsn)})
	r := w.start()
	r.caughtUp()
	d := r.destination("main")
	for i, change := range []string{"", "GRANT EXECUTE ON " + functions + " TO PUBLIC", "REVOKE EXECUTE ON " + functions + " FROM PUBLIC"} {
		if change != "" {
			exec(t, db, change)
		}
		for j := range 3 {
			w.exec(`UPDATE "ProjectUser" SET "displayName" = $1`, fmt.Sprint(i, j))
			w.synced()
			w.equal(tenant1, dsn)
		}
		if s := d.Status(); s.State != ledger.Streaming {
			t.Errorf("after %q it is %s: %v", change, s.State, s.Err)
		}
		if i == 1 {
			r.end() // the next session learns of the grant
			r = w.start()
			d = r.destination("main")
		}
	}
	report, code := w.verify(pipeline.Selection{})
	if code != 0 {
		t.Errorf("verify: %d, %+v", code, *report.Destinations[0])
	}
}
