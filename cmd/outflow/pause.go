package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"outflow/sink/ledger"
)

// newPause makes pause and resume: both write to outflow.switch, so they work whether a process runs or not.
func newPause(off bool) *cobra.Command {
	var o order
	var yes bool
	c := &cobra.Command{
		Use:   "resume TENANT/NAME|reading|applying|backfills...",
		Short: "Let go on what was paused",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, targets []string) error {
			state, err := o.open()
			if err != nil {
				return err
			}
			defer state.Close()
			switches, err := findSwitches(c.Context(), state, targets)
			if err != nil {
				return err
			}
			for i := range switches {
				sw := &switches[i]
				sw.Off, sw.By, sw.Reason = off, o.by, o.reason
				if question := questions[sw.Kind]; off && !yes && question != "" {
					if err := confirm(c, question); err != nil {
						return err
					}
				}
			}
			done := "resumed"
			if off {
				done = "paused"
			}
			for i, sw := range switches {
				if err := state.SetSwitch(c.Context(), sw); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is %s\n", targets[i], done)
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
	o.flags(c, "why; it is shown with the state")
	return c
}

// questions are asked before a switch over everything is turned off, by the switch's kind.
var questions = map[string]string{
	ledger.SwitchReading:  "With reading off no destination gets changes, and the primary keeps all WAL from now on. Go on?",
	ledger.SwitchApplying: "With applying off no destination gets changes, and after a while all of them must be copied anew. Go on?",
}

// findSwitches makes a switch of each target. A destination must have run on the slot once: a misspelt name would pause no
// destination.
func findSwitches(ctx context.Context, state *ledger.Store, targets []string) ([]ledger.Switch, error) {
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
		d, ok := named(known, target)
		if !ok {
			faults = append(faults, fmt.Errorf("no destination %q has ever run on slot %q; expected TENANT/NAME, reading, applying or backfills", target, state.Slot))
			continue
		}
		switches[i] = ledger.Switch{Kind: ledger.SwitchDestination, Tenant: d.Tenant, Name: d.Name}
	}
	return switches, errors.Join(faults...)
}
