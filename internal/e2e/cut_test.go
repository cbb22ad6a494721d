package e2e

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// cutter forwards connections to a server, and ends the one that sends the request at which its count comes to zero.
type cutter struct {
	target string
	addr   string
	left   atomic.Int64
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	c := &cutter{target: target, addr: listener.Addr().String()}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go c.serve(client)
		}
	}()
	return c
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp4", c.target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	for b := make([]byte, 1<<16); ; {
		n, err := client.Read(b)
		if err != nil || c.left.Add(-1) == 0 {
			return
		}
		if _, err := server.Write(b[:n]); err != nil {
			return
		}
	}
}

func (c *cutter) dsn(t *testing.T, dsn string) string {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	must(t, err)
	if !strings.Contains(dsn, c.target) {
		t.Fatalf("%s is not at %s", config.Database, c.target)
	}
	return strings.Replace(dsn, c.target, c.addr, 1)
}

// The connection ends at each request of a copy and of its sweep in turn, on either side, and the copy goes on: in the end the target
// is the same.
func TestCopyThatIsCutAtEveryRequest(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"target", "primary"} {
		t.Run(side, func(t *testing.T) {
			w := newWorld(t, pgtest.Shared(t))
			w.existing(150, tenant1)
			w.cfg.Sink.RetryMin, w.cfg.Sink.RetryMax = time.Millisecond, 10*time.Millisecond
			c := newCutter(t, w.cluster.Addr())
			dsn := pgtest.Database(t, w.cluster)
			step := size(t, "CUT_STEP", 4) // 1 is every request, for a run by hand
			if side == "target" {
				w.addDestination(tenant1, "main", c.dsn(t, dsn))
			} else {
				w.addDestination(tenant1, "main", dsn)
				w.cfg.Source.DSN = secret.New(c.dsn(t, w.source))
			}
			r := w.start()
			r.caughtUp()
			db, cuts := connect(t, dsn), 0
			for at := 1; at <= 300; at += step {
				exec(t, db, `DELETE FROM users WHERE ctid IN (SELECT ctid FROM users LIMIT 20)`)
				exec(t, db, `INSERT INTO users (id, signed_up_at) SELECT gen_random_uuid(), now() FROM generate_series(1, 5)`)
				exec(t, db, `UPDATE contact_channels SET value = 'wrong' WHERE id IN (SELECT id FROM contact_channels LIMIT 20)`)
				c.left.Store(int64(at))
				waitFor(t, "the resync to be noted", func() error { return r.destination("main").Resync(t.Context(), "the test asked for it") })
				r.caughtUp()
				if diff := w.diff(tenant1, dsn); diff != "" {
					t.Fatalf("cut at request %d: %s", at, diff)
				}
				if came := c.left.Load() > 0; came || side == "primary" && at > 100 { // there are always requests there, of the checkpoints
					break
				}
				cuts++
			}
			t.Logf("%d cuts", cuts)
			if cuts < 10 {
				t.Error("the copy was hardly cut")
			}
		})
	}
}
