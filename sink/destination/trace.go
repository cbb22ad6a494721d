package destination

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// trace records a committed batch, from the receipt of the first transaction: the wait of the transaction in the queue, and the time of
// the external database.
func (d *Destination) trace(b *batch) {
	if d.shared.Tracer == nil || len(b.transactions) == 0 {
		return
	}
	first, last := b.transactions[0], b.transactions[len(b.transactions)-1]
	ctx, span := d.shared.Tracer.Start(context.Background(), "batch", trace.WithTimestamp(first.Received), trace.WithSpanKind(trace.SpanKindConsumer))
	defer span.End()
	if !span.IsRecording() {
		return // not sampled
	}
	span.SetAttributes(attribute.String("outflow.tenant", d.Tenant), attribute.String("outflow.destination", d.Name),
		attribute.Int("outflow.transactions", len(b.transactions)), attribute.Int("outflow.changes", b.changes),
		attribute.Int64("outflow.first_sequence_id", first.ID), attribute.Int64("outflow.last_sequence_id", last.ID),
		attribute.String("outflow.committed_at", first.Committed.UTC().Format(time.RFC3339Nano)))
	_, queue := d.shared.Tracer.Start(ctx, "queue", trace.WithTimestamp(first.Received))
	queue.End(trace.WithTimestamp(b.taken))
	_, apply := d.shared.Tracer.Start(ctx, "apply", trace.WithTimestamp(b.taken), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("db.system.name", "postgresql"), attribute.Bool("outflow.in_rounds", b.large != nil)))
	apply.End()
}
