package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"outflow/internal/pgcluster/pgtest"
)

// Batches are traced from receipt to commit, where somebody asks for it.
func TestTracing(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []*spans.Span
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				got = append(got, scope.Spans...)
			}
		}
	}))
	defer server.Close()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	p := launch(t, "run", "--config", w.configFile(), "--set", "tracing.endpoint="+server.URL+"/v1/traces", "--set", "tracing.sample=1")
	p.says("all rows are copied")
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "canary")
	w.synced()
	w.equal(tenant1, dsn)
	if code := p.terminate(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	mu.Lock()
	defer mu.Unlock()
	byName := map[string]*spans.Span{}
	for _, s := range got {
		byName[s.Name] = s
	}
	batch, queue, apply := byName["batch"], byName["queue"], byName["apply"]
	if batch == nil || queue == nil || apply == nil {
		t.Fatalf("the spans are %v", got)
	}
	if string(queue.ParentSpanId) != string(batch.SpanId) || string(apply.ParentSpanId) != string(batch.SpanId) {
		t.Error("queue and apply are not parts of the batch")
	}
	if batch.StartTimeUnixNano != queue.StartTimeUnixNano || queue.EndTimeUnixNano != apply.StartTimeUnixNano ||
		apply.EndTimeUnixNano > batch.EndTimeUnixNano || apply.StartTimeUnixNano >= apply.EndTimeUnixNano {
		t.Errorf("the times do not fit: %v", got)
	}
	attributes := map[string]any{}
	for _, a := range batch.Attributes {
		attributes[a.Key] = a.Value.GetStringValue()
		if n := a.Value.GetIntValue(); n != 0 {
			attributes[a.Key] = n
		}
	}
	for key, want := range map[string]any{"outflow.tenant": tenant1, "outflow.destination": "main", "outflow.transactions": int64(1), "outflow.changes": int64(1)} {
		if attributes[key] != want {
			t.Errorf("%s is %v", key, attributes[key])
		}
	}
}
