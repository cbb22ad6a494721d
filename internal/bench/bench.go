package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"time"

	"go.uber.org/zap"

	"outflow/internal/config"
)

// workload is a backlog to drain: so many changes in each transaction.
type workload struct {
	name  string
	what  string
	batch int
	call  string // the procedure of the source that writes the backlog
}

var workloads = []workload{
	{"w1", "inserts, 1 per transaction", 1, "bench_insert"},
	{"w100", "inserts, 100 per transaction", 100, "bench_insert"},
	{"w10k", "inserts, 10,000 per transaction", 10000, "bench_insert"},
	{"w100u", "updates, 100 per transaction", 100, "bench_update"},
}

// latencyName is the name of the latency measurement for --only.
const latencyName = "latency"

// Options say what to measure.
type Options struct {
	Rounds          int           // of each measurement; the median counts
	Changes         int           // in a backlog
	LatencyRate     int           // transactions a second
	LatencyDuration time.Duration // in a round
	Only            []string      // names of measurements, empty: all
	JSON            bool          // the report is printed as JSON, not as text
	CPUProfile      string        // file for a CPU profile of this process, "": none
	Version         string        // of the program, for the report
	Log             *zap.Logger   // of the pipelines
}

// Defaults are the options of a bench of which nothing is said.
func Defaults() Options {
	return Options{Rounds: 3, Changes: 300_000, LatencyRate: 200, LatencyDuration: 10 * time.Second}
}

// Validate returns all faults of the options at once, named by the flags. The bounds keep a slip of the finger from filling the disk.
func (o *Options) Validate() error {
	var faults []error
	between := func(flag string, value, low, high int) {
		if value < low || value > high {
			faults = append(faults, fmt.Errorf("--%s %d: allowed is %d to %d", flag, value, low, high))
		}
	}
	between("rounds", o.Rounds, 1, 100)
	between("changes", o.Changes, 1, 5_000_000)
	between("latency-rate", o.LatencyRate, 1, 5000)
	if o.LatencyDuration < 100*time.Millisecond || o.LatencyDuration > 10*time.Minute {
		faults = append(faults, fmt.Errorf("--latency-duration %s: allowed is 100ms to 10m", o.LatencyDuration))
	}
	for _, name := range o.Only {
		known := slices.ContainsFunc(workloads, func(w workload) bool { return w.name == name })
		if !known && name != latencyName {
			faults = append(faults, fmt.Errorf("--only %q: allowed is w1, w100, w10k, w100u and latency", name))
		}
	}
	return errors.Join(faults...)
}

func (o *Options) wants(name string) bool {
	return len(o.Only) == 0 || slices.Contains(o.Only, name)
}

// Run measures on servers of its own, and prints the report to out and the progress to errOut. Everything is removed at the end, also where ctx
// is done before, which is an error.
func (o *Options) Run(ctx context.Context, out, errOut io.Writer) (err error) {
	defer func() {
		if ctx.Err() != nil {
			err = errors.New("interrupted") // the errors of the interrupted work are of no interest
		}
	}()
	w, err := newWorld(ctx, errOut, o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	config.Scrub() // after the servers were found, which may need HOME
	stop, err := startProfile(o.CPUProfile)
	if err != nil {
		return err
	}
	report, err := o.measure(ctx, w)
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	if o.JSON {
		return report.json(out)
	}
	return report.text(out)
}

func (o *Options) measure(ctx context.Context, w *world) (*report, error) {
	report := &report{Environment: w.environment(ctx, o.Version), Rounds: o.Rounds, Changes: o.Changes}
	for _, load := range workloads {
		if !o.wants(load.name) {
			continue
		}
		result := newDrainResult(load)
		for round := range o.Rounds {
			if err := w.drainRound(ctx, load, round, o.Changes, result); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", load.name, round+1, err)
			}
		}
		report.Throughput = append(report.Throughput, result)
	}
	if !o.wants(latencyName) {
		return report, nil
	}
	report.Latency = newLatencyResult(o.LatencyRate, o.LatencyDuration)
	for round := range o.Rounds {
		if err := w.latencyRound(ctx, round, report.Latency); err != nil {
			return nil, fmt.Errorf("latency, round %d: %w", round+1, err)
		}
	}
	return report, nil
}

// startProfile starts a CPU profile where a file is named. stop ends it.
func startProfile(file string) (stop func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
