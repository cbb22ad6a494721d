package primary

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
)

// A command that waits for other transactions on the primary has no limit while the primary answers, and soon ends where it does not.
func TestWhileAnswering(t *testing.T) {
	t.Parallel()
	proxy, err := faultproxy.New(pgtest.Shared(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	const patience = 600 * time.Millisecond
	server, err := New(proxy.DSN(pgtest.Database(t, pgtest.Shared(t))))
	if err != nil {
		t.Fatal(err)
	}
	statement := func(ctx context.Context) error {
		conn, err := server.Connect(ctx)
		if err != nil {
			return err
		}
		defer HangUp(conn)
		_, err = conn.Exec(ctx, `SELECT pg_sleep(2)`)
		return err
	}
	if err := WhileAnswering(t.Context(), server, patience, statement); err != nil {
		t.Fatal(err)
	}
	proxy.Stall(true)
	began := time.Now()
	err = WhileAnswering(t.Context(), server, patience, statement)
	if took := time.Since(began); err == nil || took > 10*time.Second || !strings.Contains(err.Error(), proxy.Addr()) {
		t.Errorf("after %s: %v", took, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WhileAnswering(ctx, server, patience, statement); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled command ends with %v", err)
	}
}
