package e2e

import (
	"fmt"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/verification"
)

// A comparison waits for its own destination: neither for another tenant's, which holds the slot, nor for the next note of the slot on a
// primary that is idle. What is waited for is shown.
func TestVerifyWaitsForItsOwnDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.Checkpoint = 2 * time.Second // as it is by default
	w.cfg.Sink.ParkAfter = time.Hour
	w.existing(20, tenant1, tenant2)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.waitState(tenant1, "main", "streaming")
	exec(t, connect(t, dsn), `DELETE FROM users WHERE id = $1`, userID(7))
	look := func(what string, s pipeline.Selection, repair bool, want int) {
		t.Helper()
		var out syncBuffer
		began := time.Now()
		report, err := compare(t.Context(), w.cfg, s, verification.Options{Repair: repair, Waiting: func(what string) { fmt.Fprintln(&out, what) }})
		must(t, err)
		took := time.Since(began)
		t.Logf("%s: %s, %d looks", what, took, report.Destinations[0].Looks)
		if code := exitCodes[report.Result]; code != want || took > 15*time.Second {
			t.Errorf("%s: exit code %d after %s: %+v", what, code, took, *report.Destinations[0])
		}
		contains(t, out.String(), tenant1+"/main: rows differ so far; waiting until the stream has brought everything up to ")
	}
	look("an idle primary", pipeline.Selection{}, false, 1)
	r.end()
	w.gated(tenant2, "away")
	r = w.start()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'held' WHERE "tenancyId" = $1`, tenant2)
	waitFor(t, "the other one to hold the slot", func() error {
		if s := r.destination("away").Status(); s.Queued == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	look("beside one that fails", pipeline.Selection{Tenant: tenant1}, false, 1)
	look("beside one that fails, with a repair", pipeline.Selection{Tenant: tenant1}, true, 0)
	w.equal(tenant1, dsn)
}
