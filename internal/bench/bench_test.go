package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/internal/pgcluster/pgtest"
)

// A small bench measures everything, verifies, and leaves nothing.
func TestBench(t *testing.T) {
	if testing.Short() {
		t.Skip("the version of Postgres makes no difference")
	}
	pgtest.Shared(t)              // skips where there is no Postgres
	t.Setenv("HOME", t.TempDir()) // bench removes it from the process
	t.Setenv("TMPDIR", t.TempDir())
	if err := os.Chmod(os.TempDir(), 0o755); err != nil { // the server may run as another user
		t.Fatal(err)
	}
	o := Defaults()
	o.Changes, o.Rounds, o.LatencyDuration, o.JSON, o.Version, o.Log = 5000, 1, time.Second, true, "test", zap.NewNop()
	var out, progress bytes.Buffer
	if err := o.Run(t.Context(), &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "outflow*")); len(left) > 0 {
		t.Errorf("bench left %v", left)
	}
	var report report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v in:\n%s", err, out.String())
	}
	if len(report.Throughput) != len(workloads) {
		t.Fatalf("%d workloads were measured:\n%s", len(report.Throughput), out.String())
	}
	for _, w := range report.Throughput {
		if w.Ratio <= 0 || w.Median[nativeName].RowsPerSec <= 0 || len(w.Drains[oursName]) != 1 {
			t.Errorf("%s has no figures: %+v", w.Workload, w)
		}
	}
	if l := report.Latency; l == nil || l.Median[oursName].Samples != 200 || l.Median[nativeName].P99 < l.Median[nativeName].P50 {
		t.Errorf("latency has no figures:\n%s", out.String())
	}
}

func TestMedianAndPercentile(t *testing.T) {
	self := func(v float64) float64 { return v }
	if got := median([]float64{3, 1, 2}, self); got != 2 {
		t.Errorf("the median of 3 is %v", got)
	}
	if got := median([]float64{4, 1, 2, 3}, self); got != 2.5 {
		t.Errorf("the median of 4 is %v", got)
	}
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for p, want := range map[int]float64{50: 50, 99: 99, 100: 100, 0: 1} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("percentile %d is %v, want %v", p, got, want)
		}
	}
	start := time.Now()
	if l := summarize([]time.Time{start}, []time.Time{start.Add(-time.Millisecond)}); l.P50 != 0 || l.Samples != 1 {
		t.Errorf("a row that was seen before its commit was answered: %+v", l)
	}
}
