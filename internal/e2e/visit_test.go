package e2e

import (
	"fmt"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// A tenant changes nothing. Its database is emptied, and later goes away, while Outflow runs: both show within sink.visit_every, also where the
// connection is kept for longer.
func TestIdleDatabasesAreVisited(t *testing.T) {
	t.Parallel()
	for _, kept := range []time.Duration{0, time.Hour} {
		t.Run(fmt.Sprintf("kept %s", kept), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.existing(5, tenant1)
			dsn := w.destination(tenant1, "main")
			proxy := w.proxied(0)
			w.cfg.Sink.VisitEvery, w.cfg.Sink.IdleClose = time.Second, kept
			r := w.start()
			r.caughtUp()
			w.synced()

			exec(t, connect(t, dsn), `BEGIN; DELETE FROM users; DELETE FROM contact_channels; DELETE FROM _stack_sync_metadata; COMMIT`)
			waitFor(t, "the emptied database to be filled", func() error {
				if diff := w.diff(tenant1, dsn); diff != "" {
					return fmt.Errorf("%s", diff)
				}
				return nil
			})
			d := r.destination("main")
			becomes(t, d, ledger.Streaming)

			proxy.Refuse(true)
			proxy.Cut()
			becomes(t, d, ledger.Retrying)
			proxy.Refuse(false)
			becomes(t, d, ledger.Streaming)
		})
	}
}
