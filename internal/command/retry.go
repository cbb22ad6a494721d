package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"outflow/internal/pipeline"
	"outflow/sink/ledger"
)

// retryOptions are the flags of retry.
type retryOptions struct {
	order
	halted, all bool
}

func newRetry() *cobra.Command {
	var o retryOptions
	c := &cobra.Command{
		Use:   "retry TENANT/NAME... | --halted | --all",
		Short: "Retry destinations now, instead of after the pause that follows a failure",
		Long: `Retry asks the process that reads the slot, or the next such process, to try destinations at once: the named destinations, with
--halted the halted ones, with --all every one that waits after a failure. Retry changes nothing else: a halted destination stays
halted until the failed work succeeds.

Exit codes: 0 asked, 1 there is no such destination, 2 usage or configuration.`,
		RunE: func(c *cobra.Command, targets []string) error {
			if n := len(targets); (n > 0) == (o.halted || o.all) || o.halted && o.all {
				return usageError{errors.New("expected either names (TENANT/NAME), or --halted, or --all")}
			}
			state, err := o.open()
			if err != nil {
				return err
			}
			defer state.Close()
			return retry(c, state, targets, o)
		},
	}
	o.flags(c, "reason, for the record")
	c.Flags().BoolVar(&o.halted, "halted", false, "all destinations that are halted")
	c.Flags().BoolVar(&o.all, "all", false, "all destinations")
	return c
}

func retry(c *cobra.Command, state *ledger.Store, targets []string, o retryOptions) error {
	chosen := []pipeline.Selection{{}} // all
	if len(targets) > 0 {
		known, err := state.Destinations(c.Context(), "", "")
		if err != nil {
			return err
		}
		if chosen, err = configured(known, targets, state.Slot); err != nil {
			return err
		}
	}
	ask, asked := state.RequestRetry, int64(0)
	if o.halted {
		ask = state.RequestRetryHalted
	}
	for _, d := range chosen {
		n, err := ask(c.Context(), d.Tenant, d.Name, o.by, o.reason)
		if err != nil {
			return err
		}
		asked += n
	}
	attended, err := state.Attended(c.Context())
	if err != nil {
		return err
	}
	when := "are being retried now"
	if !attended {
		when = "are retried when outflow run starts: no process reads slot " + state.Slot
	}
	fmt.Fprintf(c.OutOrStdout(), "%d destinations %s\n", asked, when)
	return nil
}

// configured finds destinations by TENANT/NAME among the destinations that have run, less destinations removed from the configuration.
func configured(known []ledger.Destination, targets []string, slot string) (found []pipeline.Selection, err error) {
	var missing []string
	for _, target := range targets {
		d, ok := named(known, target)
		if !ok || !d.Configured() {
			missing = append(missing, fmt.Sprintf("%q", target))
			continue
		}
		found = append(found, pipeline.Selection{Tenant: d.Tenant, Name: d.Name})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("no destination %s of the configuration has ever run on slot %q; expected TENANT/NAME", strings.Join(missing, ", "), slot)
	}
	return found, nil
}
