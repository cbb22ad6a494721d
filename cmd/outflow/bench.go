package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/spf13/cobra"

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
	{"w1", "inserts, 1 a transaction", 1, "bench_insert"},
	{"w100", "inserts, 100 a transaction", 100, "bench_insert"},
	{"w10k", "inserts, 10,000 a transaction", 10000, "bench_insert"},
	{"w100u", "updates, 100 a transaction", 100, "bench_update"},
}

// latencyName is the name of the latency measurement for --only.
const latencyName = "latency"

// benchOptions are the flags.
type benchOptions struct {
	rounds          int
	changes         int
	latencyRate     int
	latencyDuration time.Duration
	only            []string
	output          string
	cpuProfile      string
}

func newBench() *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure throughput and latency beside Postgres' own subscription, on throwaway servers",
		Long: `Bench starts two throwaway Postgres servers and measures Outflow beside Postgres' own logical replication (CREATE
SUBSCRIPTION), on the same servers and the same rows of about 420 bytes, in turns: machines drift, so only the ratio of
such pairs means much.

  w1 w100 w10k  rows/s while a backlog of inserts is drained, in transactions of 1, 100 and 10,000 rows
  w100u         the same for updates, in transactions of 100 rows
  latency       from the answer to COMMIT on the source until the row is visible on the target

Each drain is verified by count and checksum over both tables; bench fails where they differ. Everything is removed at
the end, also on Ctrl-C. Servers are found as the tests find them: binaries, or OUTFLOW_TEST_PG_URL.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError{err}
			}
			return o.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.IntVar(&o.rounds, "rounds", 3, "rounds of each measurement; the median counts")
	f.IntVar(&o.changes, "changes", 300_000, "changes in a backlog")
	f.IntVar(&o.latencyRate, "latency-rate", 200, "transactions a second while latency is measured")
	f.DurationVar(&o.latencyDuration, "latency-duration", 10*time.Second, "how long latency is measured in a round")
	f.StringSliceVar(&o.only, "only", nil, "measure only these of w1,w100,w10k,w100u,latency")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	f.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of this process, for pprof")
	_ = f.MarkHidden("cpuprofile")
	return c
}

// validate returns all faults of the flags at once. The bounds keep a slip of the finger from filling the disk.
func (o *benchOptions) validate() error {
	var faults []error
	between := func(flag string, value, low, high int) {
		if value < low || value > high {
			faults = append(faults, fmt.Errorf("--%s %d: allowed is %d to %d", flag, value, low, high))
		}
	}
	between("rounds", o.rounds, 1, 100)
	between("changes", o.changes, 1, 5_000_000)
	between("latency-rate", o.latencyRate, 1, 5000)
	if o.latencyDuration < 100*time.Millisecond || o.latencyDuration > 10*time.Minute {
		faults = append(faults, fmt.Errorf("--latency-duration %s: allowed is 100ms to 10m", o.latencyDuration))
	}
	if o.output != "text" && o.output != "json" {
		faults = append(faults, fmt.Errorf("--output %q: allowed is text or json", o.output))
	}
	for _, name := range o.only {
		known := slices.ContainsFunc(workloads, func(w workload) bool { return w.name == name })
		if !known && name != latencyName {
			faults = append(faults, fmt.Errorf("--only %q: allowed is w1, w100, w10k, w100u and latency", name))
		}
	}
	return errors.Join(faults...)
}

func (o *benchOptions) wants(name string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, name)
}

// run measures and prints. Progress goes to errOut.
func (o *benchOptions) run(ctx context.Context, out, errOut io.Writer) (err error) {
	defer func() {
		if ctx.Err() != nil {
			err = errors.New("interrupted") // the errors of the interrupted work are of no interest
		}
	}()
	w, err := newBenchWorld(ctx, errOut)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	config.Scrub() // after the servers were found, which may need HOME
	stop, err := startProfile(o.cpuProfile)
	if err != nil {
		return err
	}
	report, err := o.measure(ctx, w)
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	if o.output == "json" {
		return report.json(out)
	}
	return report.text(out)
}

func (o *benchOptions) measure(ctx context.Context, w *benchWorld) (*benchReport, error) {
	report := &benchReport{Environment: w.environment(ctx), Rounds: o.rounds, Changes: o.changes}
	for _, load := range workloads {
		if !o.wants(load.name) {
			continue
		}
		result := newDrainResult(load)
		for round := range o.rounds {
			if err := w.drainRound(ctx, load, round, o.changes, result); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", load.name, round+1, err)
			}
		}
		report.Throughput = append(report.Throughput, result)
	}
	if !o.wants(latencyName) {
		return report, nil
	}
	report.Latency = newLatencyResult(o.latencyRate, o.latencyDuration)
	for round := range o.rounds {
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
