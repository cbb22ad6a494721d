package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/replication"
)

// silentWorld is a pipeline behind a proxy, with wal_sender_timeout for its walsender.
func silentWorld(t *testing.T, timeout string) (*world, *running, *faultproxy.Proxy) {
	t.Helper()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET wal_sender_timeout = %%L', current_database(), '%s'); END $$`, timeout))
	w.existing(3, tenant1)
	w.destination(tenant1, "main")
	proxy, err := faultproxy.New(w.cluster.Addr())
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	w.cfg.Source.DSN = secret.New(proxy.DSN(w.source))
	r := w.startWith(func(pl *pipeline.Pipeline) { pl.Reader.Patience = 500 * time.Millisecond })
	r.caughtUp()
	w.synced()
	return w, r, proxy
}

// walsender is the process of the primary that serves the slot.
func (w *world) walsender() string {
	w.tb.Helper()
	return strings.Join(query(w.tb, w.source, `SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot), "")
}

// A primary may be silent for as long as its wal_sender_timeout allows: a walsender that decodes a large transaction on tables that are not
// published sends a keepalive at half of the timeout only, and without a timeout none.
func TestSilenceOfABusyPrimary(t *testing.T) {
	t.Parallel()
	for _, timeout := range []string{"1min", "0"} {
		t.Run(timeout, func(t *testing.T) {
			t.Parallel()
			w, r, proxy := silentWorld(t, timeout)
			before := w.walsender()
			proxy.Stall(true)
			silent := time.NewTimer(2500 * time.Millisecond) // five times Patience
			<-silent.C
			if s := r.Reader.State(); s != replication.Streaming {
				t.Errorf("the reader is %s", s)
			}
			proxy.Stall(false)
			w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after all'`)
			w.synced()
			if now := w.walsender(); now != before {
				t.Errorf("walsender %s serves the slot now, %s did before", now, before)
			}
		})
	}
}

// A connection that only looks open is given up when wal_sender_timeout has passed, and the stream goes on over another one.
func TestHalfOpenPrimary(t *testing.T) {
	t.Parallel()
	w, r, proxy := silentWorld(t, "2s")
	proxy.Stall(true)
	waitFor(t, "the reader to give the connection up", func() error {
		if s := r.Reader.State(); s == replication.Streaming {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	proxy.Cut()
	proxy.Stall(false)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after all'`)
	w.synced()
	r.caughtUp()
}
