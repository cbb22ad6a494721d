package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
)

// handOverLimit is what "within seconds" means: a standby asks for the slot once a second at least.
const handOverLimit = 10 * time.Second

// A rolling update, as deploy/kubernetes has it: a new process stands by, the old one gets SIGTERM, and the new one has the
// slot within seconds. Writes go on all the time, and each arrives once.
func TestRollingUpdateHandsTheSlotOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	dsn := w.destination(tenant1, "main", allMappings...)
	file := w.configFile()
	old := launch(t, "run", "--config", file)
	w.journalFromHere()
	l := w.load(seed(t), tenant1)
	for range 2 {
		next := launch(t, "run", "--config", file)
		next.says("waiting as standby")
		if strings.Contains(next.out.String(), `"streaming"`) {
			t.Fatal("the new process has the slot before the old one has ended")
		}
		began := time.Now()
		if code := old.terminate(); code != 0 {
			t.Errorf("SIGTERM ended the old process with %d:\n%s", code, old.out)
		}
		ended := time.Since(began)
		before := rowsIn(t, dsn) // nobody applies now, or the new process does already
		next.says(`"streaming"`)
		streams := time.Since(began)
		waitFor(t, "changes to be applied again", func() error {
			if rowsIn(t, dsn) <= before {
				return errors.New("the ledger does not grow")
			}
			return nil
		})
		applies := time.Since(began)
		t.Logf("from SIGTERM: the old process ended after %s, the new one streams after %s, and has applied changes after %s",
			ended.Round(time.Millisecond), streams.Round(time.Millisecond), applies.Round(time.Millisecond))
		if applies > handOverLimit {
			t.Errorf("the hand-over took %s", applies)
		}
		old = next
	}
	l.end()
	w.synced()
	w.equal(tenant1, dsn)
	w.exactlyOnce(tenant1, dsn)
	if code := old.terminate(); code != 0 {
		t.Errorf("SIGTERM ended the last process with %d", code)
	}
}
