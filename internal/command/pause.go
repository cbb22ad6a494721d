package command

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"outflow/sink/ledger"
)

// newPause makes pause and resume: both write to outflow.switch, so they work whether a process runs or not.
func newPause(off bool) *cobra.Command {
	var o order
	var yes bool
	c := &cobra.Command{
		Use:   "resume TENANT/NAME|reading|applying|backfills...",
		Short: "Resume what was paused",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, targets []string) error {
			state, err := o.open()
			if err != nil {
				return err
			}
			defer state.Close()
			switches, err := o.findSwitches(c.Context(), state, targets)
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
		c.Long = `Pause stops a destination. Changes wait in the destination's queue; when the queue is full, the destination is parked, so that the
primary retains no WAL for it. reading, applying and backfills are global switches: while reading is off the primary retains all WAL,
and while applying is off every destination pauses. The primary stores the switch, which holds until outflow resume, also for
processes that start later.`
		c.Flags().BoolVar(&yes, "yes", false, "do not ask before switching off reading or applying")
	}
	o.flags(c, "reason, shown with the state")
	return c
}

// questions are asked before a switch over everything is turned off, by the switch's kind.
var questions = map[string]string{
	ledger.SwitchReading:  "While reading is off, no destination gets changes, and the primary retains all WAL. Continue?",
	ledger.SwitchApplying: "While applying is off, no destination gets changes, and after a while all destinations must be copied again. Continue?",
}

// globalSwitches are the switches over everything.
var globalSwitches = []string{ledger.SwitchReading, ledger.SwitchApplying, ledger.SwitchBackfills}

// findSwitches makes a switch of each target. A destination must have run on the slot once, or be configured: a misspelt name would pause no
// destination.
func (o *order) findSwitches(ctx context.Context, state *ledger.Store, targets []string) ([]ledger.Switch, error) {
	names := slices.DeleteFunc(slices.Clone(targets), func(target string) bool { return slices.Contains(globalSwitches, target) })
	known, err := o.find(ctx, state, func(ledger.Destination) bool { return true }, names)
	if err != nil {
		return nil, err
	}
	var faults []error
	switches := make([]ledger.Switch, len(targets))
	for i, target := range targets {
		if slices.Contains(globalSwitches, target) {
			switches[i] = ledger.Switch{Kind: target}
			continue
		}
		d, _, ok := known.named(target)
		if !ok {
			faults = append(faults, fmt.Errorf("no destination %q has ever run on slot %q%s; expected TENANT/NAME, reading, applying or backfills",
				target, state.Slot, known.hint(target, globalSwitches...)))
			continue
		}
		switches[i] = ledger.Switch{Kind: ledger.SwitchDestination, Tenant: d.Tenant, Name: d.Name}
	}
	return switches, errors.Join(faults...)
}
