package e2e

import (
	"fmt"
	"testing"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// While the primary is away in the middle of a large transaction, no external transaction stays open with its locks. The transaction is
// applied once when the primary is back.
func TestLargeTransactionWithoutPrimary(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(p *faultproxy.Proxy, on bool){
		"silent": (*faultproxy.Proxy).Stall,
		"refused": func(p *faultproxy.Proxy, on bool) {
			p.Refuse(on)
			if on {
				p.Cut()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.withLedger()
			w.cfg.Sink.QueueBytes, w.cfg.Sink.BatchRows = 64<<10, 500
			proxy, err := faultproxy.New(w.cluster.Addr())
			must(t, err)
			t.Cleanup(func() { _ = proxy.Close() })
			w.cfg.Source.DSN = secret.New(proxy.DSN(w.source))
			dsn := w.destination(tenant1, "main", "ledger")
			w.start()
			w.journalFromHere()
			w.exec(`INSERT INTO "Counter" VALUES ($1, -1, 0)`, tenant1)
			w.synced()
			proxy.Bandwidth(300 << 10)
			w.exec(`INSERT INTO "Counter" SELECT $1, n, n FROM generate_series(1, 30000) n`, tenant1)
			db := connect(t, dsn)
			open := func() (n int) {
				must(t, db.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL`).Scan(&n))
				return n
			}
			waitFor(t, "an external transaction in the middle of the primary's", func() error {
				if open() == 0 {
					return fmt.Errorf("none is open")
				}
				return nil
			})
			away(proxy, true)
			if n := query(t, dsn, `SELECT count(*) FROM ledger WHERE id > 0`)[0]; n != `"0"` {
				t.Fatalf("the transaction is committed already: %s rows", n)
			}
			waitFor(t, "the external transaction to end", func() error {
				if open() > 0 {
					return fmt.Errorf("it is open")
				}
				return nil
			})
			same(t, dsn, `SELECT count(*) FROM ledger WHERE id > 0`, `"0"`)
			proxy.Bandwidth(0)
			away(proxy, false)
			w.synced()
			w.exactlyOnce(tenant1, dsn)
		})
	}
}
