package command

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/internal/pipeline"
)

func newRun(version string) *cobra.Command {
	var s settings
	var reset, yes bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Read the slot and keep the external databases in sync, until stopped",
		Long: `Run prepares the primary if necessary (schema outflow, publication, slot), and then keeps every tenant's external databases
in sync. On SIGTERM or Ctrl-C, Run stops reading, finishes or rolls back batches in flight, reports to the primary for the last
time, and exits with 0. A second process on the same slot waits as a standby and takes over when the first ends. On SIGHUP, Run
reads the configuration, the mappings and secret files again. A configuration with a fault is refused, and the old configuration
stays in effect. If the primary cannot be reached, Run tries the new configuration until the primary answers.

With --slot-reset, Run first drops the slot and creates it again, and then copies every destination from the tables while live
changes flow. Use --slot-reset for a slot that is lost, missing, or of another primary. You may kill Run at any moment and run it again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			log, err := newLogger(cfg.Log)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			if reset {
				if err := resetSlot(c, cfg, yes, log); err != nil {
					return err
				}
			}
			return pipeline.Run(c.Context(), cfg, pipeline.Options{Version: version, Load: s.load, Log: log})
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&reset, "slot-reset", false, "drop the slot, create it again, and copy every destination from the tables")
	c.Flags().BoolVar(&yes, "yes", false, "with --slot-reset: do not ask, even if the slot is healthy")
	return c
}

// resetSlot drops the slot and creates the slot again. On a healthy slot resetSlot asks first: all destinations are copied again.
func resetSlot(c *cobra.Command, cfg *config.Config, yes bool, log *zap.Logger) error {
	r, err := pipeline.PrepareReset(c.Context(), cfg, log)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Healthy && !yes {
		if err := confirm(c, fmt.Sprintf("Replication slot %q is healthy. Resetting it copies all %d destinations again. Continue?",
			cfg.Source.Slot, r.Destinations())); err != nil {
			return err
		}
	}
	return r.Run(c.Context())
}
