package command

import (
	"errors"

	"github.com/spf13/cobra"

	"outflow/internal/bench"
	"outflow/internal/config"
)

func newBench(version string) *cobra.Command {
	o := bench.Defaults()
	var output string
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure throughput and latency next to Postgres' own subscription, on throwaway servers",
		Long: `Bench starts two throwaway Postgres servers and measures Outflow and Postgres' own logical replication (CREATE
SUBSCRIPTION) in turns, on the same servers and the same rows of about 420 bytes. The speed of a machine drifts, so only
the ratio of the two is meaningful.

  w1 w100 w10k  rows/s while a backlog of inserts is drained, in transactions of 1, 100 and 10,000 rows
  w100u         the same for updates, in transactions of 100 rows
  latency       from the answer to COMMIT on the source until the row is visible on the target

After each drain, bench compares count and checksum of both tables, and fails if they differ. Bench removes everything at
the end, also on Ctrl-C. Bench uses the Postgres that the tests use: installed binaries, or OUTFLOW_TEST_PG_URL.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(o.Validate(), checkOutput(output)); err != nil {
				return usageError{err}
			}
			log, err := newLogger(config.Log{Level: "warn", Format: "console"})
			if err != nil {
				return err
			}
			o.JSON, o.Version, o.Log = output == "json", version, log
			return o.Run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.IntVar(&o.Rounds, "rounds", o.Rounds, "rounds of each measurement; the result is the median")
	f.IntVar(&o.Changes, "changes", o.Changes, "changes in a backlog")
	f.IntVar(&o.LatencyRate, "latency-rate", o.LatencyRate, "transactions per second while latency is measured")
	f.DurationVar(&o.LatencyDuration, "latency-duration", o.LatencyDuration, "duration of a latency round")
	f.StringSliceVar(&o.Only, "only", o.Only, "comma-separated subset of w1,w100,w10k,w100u,latency")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringVar(&o.CPUProfile, "cpuprofile", "", "write a CPU profile of this process, for pprof")
	_ = f.MarkHidden("cpuprofile")
	return c
}
