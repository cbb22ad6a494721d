package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"outflow/internal/config"
)

func newRun(version string) *cobra.Command {
	var s settings
	var reset, yes bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Read the slot and keep the external databases in sync until told to stop",
		Long: `Run prepares the primary where that is needed (schema outflow, publication, slot) and then keeps every tenant's
external databases in sync. SIGTERM or Ctrl-C: it stops reading, finishes or rolls back what is in flight, reports to the
primary for the last time and exits 0. A second process on the same slot waits as standby and takes over when the first ends.
SIGHUP: it reads the configuration again, mappings and secrets in files with it, and goes on with that; one that has a fault is
refused, and the old one goes on; one that comes while the primary cannot be reached is tried until the primary answers.

With --slot-reset it first drops the slot and creates it anew, and then copies every destination from the tables while live
changes flow. That heals a slot that is lost, missing, or of another primary. It may be killed at any moment and run again.`,
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
			return run(c.Context(), cfg, runOptions{Version: version, Load: s.load, Log: log})
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&reset, "slot-reset", false, "drop the slot, create it anew, and copy every destination from the tables")
	c.Flags().BoolVar(&yes, "yes", false, "with --slot-reset: do not ask, even if the slot is healthy")
	return c
}

// resetSlot drops the slot and creates the slot again. On a healthy slot resetSlot asks first: all destinations are copied again.
func resetSlot(c *cobra.Command, cfg *config.Config, yes bool, log *zap.Logger) error {
	r, err := prepareReset(c.Context(), cfg, log)
	if err != nil {
		return err
	}
	defer r.close()
	if r.healthy && !yes {
		if err := confirm(c, fmt.Sprintf("Replication slot %q is healthy. Resetting it copies all %d destinations anew. Go on?",
			cfg.Source.Slot, r.destinations())); err != nil {
			return err
		}
	}
	return r.run(c.Context())
}
