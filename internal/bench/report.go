package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// report is the result of a bench.
type report struct {
	Environment environment    `json:"environment"`
	Rounds      int            `json:"rounds"`
	Changes     int            `json:"changes"`
	Throughput  []*drainResult `json:"throughput"`
	Latency     *latencyResult `json:"latency,omitempty"`
}

// environment describes the machine of the bench.
type environment struct {
	Outflow  string  `json:"outflow"`
	Postgres string  `json:"postgres"`
	Go       string  `json:"go"`
	Platform string  `json:"platform"`
	Cores    int     `json:"cores"`
	FsyncMS  float64 `json:"fsync_ms"` // of 8 KB, the median
}

// drainResult are all drains of a workload by contender, and their medians.
type drainResult struct {
	Workload string             `json:"workload"`
	What     string             `json:"what"`
	Drains   map[string][]drain `json:"drains"`
	Median   map[string]drain   `json:"median"`
	Ratio    float64            `json:"ratio"` // of Outflow's median throughput to the subscription's
}

func newDrainResult(w workload) *drainResult {
	return &drainResult{Workload: w.name, What: w.what, Drains: map[string][]drain{}, Median: map[string]drain{}}
}

func (r *drainResult) add(name string, d drain) {
	r.Drains[name] = append(r.Drains[name], d)
	all := r.Drains[name]
	of := func(field func(drain) float64) float64 { return median(all, field) }
	r.Median[name] = drain{Seconds: of(func(d drain) float64 { return d.Seconds }),
		RowsPerSec: of(func(d drain) float64 { return d.RowsPerSec }), Walsender: of(func(d drain) float64 { return d.Walsender }),
		Backend: of(func(d drain) float64 { return d.Backend }), Self: of(func(d drain) float64 { return d.Self })}
	r.Ratio = ratio(r.Median[oursName].RowsPerSec, r.Median[nativeName].RowsPerSec)
}

// latencyResult are all rounds of the measurement of latency by contender, and their medians.
type latencyResult struct {
	Rate     int                  `json:"transactions_per_second"`
	Duration time.Duration        `json:"duration_ns"`
	Rounds   map[string][]latency `json:"rounds"`
	Median   map[string]latency   `json:"median"`
	RatioP50 float64              `json:"ratio_p50"` // of Outflow's median to the subscription's
	RatioP99 float64              `json:"ratio_p99"`
}

func newLatencyResult(rate int, duration time.Duration) *latencyResult {
	return &latencyResult{Rate: rate, Duration: duration, Rounds: map[string][]latency{}, Median: map[string]latency{}}
}

// samples are the rows to write in a round, and how many of them are to warm up only.
func (r *latencyResult) samples() (n, warmUp int) {
	warmUp = min(r.Rate/2, 200)
	return warmUp + max(1, int(r.Duration.Seconds()*float64(r.Rate))), warmUp
}

func (r *latencyResult) add(name string, l latency) {
	r.Rounds[name] = append(r.Rounds[name], l)
	all := r.Rounds[name]
	of := func(field func(latency) float64) float64 { return median(all, field) }
	r.Median[name] = latency{P50: of(func(l latency) float64 { return l.P50 }), P99: of(func(l latency) float64 { return l.P99 }),
		Max: of(func(l latency) float64 { return l.Max }), Samples: l.Samples}
	r.RatioP50 = ratio(r.Median[oursName].P50, r.Median[nativeName].P50)
	r.RatioP99 = ratio(r.Median[oursName].P99, r.Median[nativeName].P99)
}

// median is the middle one of a field's values; of two in the middle, the mean.
func median[T any](all []T, field func(T) float64) float64 {
	values := make([]float64, len(all))
	for i := range all {
		values[i] = field(all[i])
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

// ratio is 0 while one of the two is not known yet.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (r *report) json(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) text(out io.Writer) error {
	e := r.Environment
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "outflow %s, PostgreSQL %s, %s, %s, %d cores, fsync %.2f ms\n", e.Outflow, e.Postgres, e.Go, e.Platform, e.Cores, e.FsyncMS)
	fmt.Fprintf(out, "Both replicate the same rows on the same servers, in turns; medians of %d rounds, each verified by checksum.\n", r.Rounds)
	if len(r.Throughput) > 0 {
		r.throughput(t)
	}
	if l := r.Latency; l != nil {
		fmt.Fprintf(t, "\n%-36s\tp50 ms\tp99 ms\tmax ms\t\n", fmt.Sprintf("commit to visible, %d/s", l.Rate))
		for _, name := range []string{nativeName, oursName} {
			m := l.Median[name]
			fmt.Fprintf(t, "%-36s\t%.2f\t%.2f\t%.2f\t\n", name, m.P50, m.P99, m.Max)
		}
		fmt.Fprintf(t, "%-36s\t%.2f\t%.2f\t\t\n", "ratio", l.RatioP50, l.RatioP99)
	}
	return t.Flush()
}

// throughput prints two tables: rows/s, and the CPU time behind them.
func (r *report) throughput(t io.Writer) {
	fmt.Fprintf(t, "\n%-37s\tsubscription\toutflow\tratio\t\n", fmt.Sprintf("rows/s, %d changes", r.Changes))
	for _, w := range r.Throughput {
		fmt.Fprintf(t, "%-5s %-31s\t%.0f\t%.0f\t%.2f\t\n", w.Workload, w.What,
			w.Median[nativeName].RowsPerSec, w.Median[oursName].RowsPerSec, w.Ratio)
	}
	fmt.Fprintf(t, "\n%-37s\twalsender\ttarget backend\toutflow\twall\t\n", "CPU seconds")
	for _, w := range r.Throughput {
		for _, name := range []string{nativeName, oursName} {
			d := w.Median[name]
			self := "-"
			if name == oursName {
				self = seconds(d.Self)
			}
			fmt.Fprintf(t, "%-5s %-30s\t%s\t%s\t%s\t%s\t\n", w.Workload, name, seconds(d.Walsender), seconds(d.Backend), self, seconds(d.Seconds))
		}
	}
}

func seconds(s float64) string {
	if s < 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", s)
}

func (w *world) environment(ctx context.Context, version string) environment {
	e := environment{Outflow: version, Postgres: w.serverVersion(ctx), Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU()}
	if took, err := fsyncTime(w.mapping); err == nil {
		e.FsyncMS = float64(took.Microseconds()) / 1000
	}
	return e
}

// fsyncTime is the time needed to get 8 KB to disk in the given directory: the median of 50 writes.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fsync.tmp"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 8192)
	took := make([]time.Duration, 50)
	for i := range took {
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	return time.Duration(median(took, func(d time.Duration) float64 { return float64(d) })), nil
}
