package e2e

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/tableread"
	"outflow/sink"
	"outflow/sink/ledger"
)

// A panic in one destination's work, before a batch and after a commit, is the fault of the destination: others go on, and the destination
// takes changes again when the cause is gone.
func TestPanicIsOneDestinationsFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`ALTER TABLE "ProjectUser" ALTER "clientMetadata" SET STORAGE EXTERNAL`)
	w.existing(5, tenant1, tenant2)
	w.exec(`UPDATE "ProjectUser" SET "clientMetadata" = jsonb_build_object('long', repeat('x', 5000))`)
	one, two := w.destination(tenant1, "one"), w.destination(tenant2, "two")
	var broken atomic.Bool
	tracer := &brokenTracer{Tracer: noop.NewTracerProvider().Tracer("test")}
	w.parts = append(w.parts, func(parts *sink.Config) {
		rows := parts.Rows
		parts.Rows = func(ctx context.Context, look tableread.Look) (tableread.Found, error) {
			if broken.Load() && look.Value == tenant1 {
				panic("a look-up")
			}
			return rows(ctx, look)
		}
		parts.Tracer = tracer
	})
	r := w.start()
	r.caughtUp()
	w.synced()
	broken.Store(true)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'toasted'`)
	if text := becomes(t, r.destination("one"), ledger.Halted); !strings.Contains(text, "a look-up") {
		t.Errorf("the cause is %s", text)
	}
	becomes(t, r.destination("two"), ledger.Streaming)
	waitFor(t, "the other destination", func() error {
		if diff := w.diff(tenant2, two); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	broken.Store(false)
	_, err := r.Ledger.RequestRetryHalted(t.Context(), tenant1, "one", "the test", "")
	must(t, err)
	becomes(t, r.destination("one"), ledger.Streaming)
	w.synced()

	tracer.panics.Store(2)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after a commit'`)
	w.synced()
	w.equal(tenant1, one)
	w.equal(tenant2, two)
	if left := tracer.panics.Load(); left > 0 {
		t.Errorf("%d panics are left", left)
	}
}

// brokenTracer panics for a number of batches.
type brokenTracer struct {
	trace.Tracer
	panics atomic.Int32
}

func (b *brokenTracer) Start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	if b.panics.Add(-1) >= 0 {
		panic("a span")
	}
	return b.Tracer.Start(ctx, name, o...)
}
