package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"outflow/internal/fit"
	"outflow/sink/ledger"
)

// newPause makes pause and resume: both write to outflow.switch, so they work whether a process runs or not.
func newPause(off bool) *cobra.Command {
	var s settings
	var reason, by string
	var yes bool
	c := &cobra.Command{
		Use:   "resume TENANT/NAME|reading|applying|backfills...",
		Short: "Let go on what was paused",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, targets []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			state, err := stateStore(cfg)
			if err != nil {
				return err
			}
			defer state.Close()
			switches, err := findTargets(c.Context(), state, targets)
			if err != nil {
				return err
			}
			for i := range switches {
				sw := &switches[i]
				sw.Off, sw.By, sw.Reason = off, by, reason
				if off && (sw.Kind == ledger.SwitchReading || sw.Kind == ledger.SwitchApplying) && !yes {
					if err := confirm(c, map[string]string{
						ledger.SwitchReading:  "With reading off no destination gets changes, and the primary keeps all WAL from now on. Go on?",
						ledger.SwitchApplying: "With applying off no destination gets changes, and after a while all of them must be copied anew. Go on?"}[sw.Kind]); err != nil {
						return err
					}
				}
			}
			for i, sw := range switches {
				if err := state.SetSwitch(c.Context(), sw); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is %s\n", targets[i], map[bool]string{true: "paused", false: "resumed"}[off])
			}
			return nil
		},
	}
	if off {
		c.Use, c.Short = "pause TENANT/NAME|reading|applying|backfills...", "Stop applying changes in a destination, or reading, applying or backfills as a whole"
		c.Long = `Pause stops a destination: its changes wait in its queue, and when that is full it is parked, so that the primary keeps no WAL for
it. reading, applying and backfills are the switches over everything; with reading off the primary keeps all WAL, and with
applying off every destination is as if paused. It is written to the primary, and holds until outflow resume, also for processes that start later.`
		c.Flags().BoolVar(&yes, "yes", false, "do not ask before switching off reading or applying")
	}
	s.flags(c)
	c.Flags().StringVar(&reason, "reason", "", "why; it is shown with the state")
	c.Flags().StringVar(&by, "by", whoami(), "who")
	return c
}

// checkChoice refuses names that no destination can have, before a server is asked for the names.
func checkChoice(s selection) error {
	if err := fit.Check(s.Tenant, fit.Tenant); err != nil {
		return usageError{fmt.Errorf("--tenant: %w", err)}
	}
	if err := fit.Check(s.Name, fit.Name); err != nil {
		return usageError{fmt.Errorf("--name: %w", err)}
	}
	return nil
}

// whoami is for the record only: any person may say anything.
func whoami() string {
	host, _ := os.Hostname()
	user := os.Getenv("SUDO_USER")
	if user == "" {
		user = os.Getenv("USER")
	}
	if user == "" {
		user = fmt.Sprintf("uid %d", os.Getuid())
	}
	return user + "@" + host
}

// findTargets makes a switch of each target. A destination must have run on the slot once: a misspelt name would pause no
// destination.
func findTargets(ctx context.Context, state *ledger.Store, targets []string) ([]ledger.Switch, error) {
	known, err := state.Destinations(ctx, "", "")
	if err != nil {
		return nil, err
	}
	var faults []error
	switches := make([]ledger.Switch, len(targets))
	for i, target := range targets {
		switch target {
		case ledger.SwitchReading, ledger.SwitchApplying, ledger.SwitchBackfills:
			switches[i] = ledger.Switch{Kind: target}
			continue
		}
		at := slices.IndexFunc(known, func(n ledger.Destination) bool { return n.Tenant+"/"+n.Name == target })
		if at < 0 {
			faults = append(faults, fmt.Errorf("no destination %q has ever run on slot %q; expected TENANT/NAME, reading, applying or backfills", target, state.Slot))
			continue
		}
		switches[i] = ledger.Switch{Kind: ledger.SwitchDestination, Tenant: known[at].Tenant, Name: known[at].Name}
	}
	return switches, errors.Join(faults...)
}
