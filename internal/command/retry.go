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
	chosen, early := []pipeline.Selection{{}}, []string(nil) // all
	if len(targets) > 0 {
		known, err := o.find(c.Context(), state, ledger.Destination.Configured, targets)
		if err != nil {
			return err
		}
		if chosen, early, err = configured(known, targets, state.Slot); err != nil {
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
	for _, target := range early {
		fmt.Fprintf(c.OutOrStdout(), "%s has not begun yet, so there is nothing to try again\n", target)
	}
	if len(early) == 0 || len(chosen) > 0 {
		fmt.Fprintf(c.OutOrStdout(), "%d destinations %s\n", asked, when)
	}
	return nil
}

// configured finds destinations by TENANT/NAME. early are those that have not begun yet.
func configured(known directory, targets []string, slot string) (found []pipeline.Selection, early []string, err error) {
	var missing []string
	for _, target := range targets {
		switch d, begun, ok := known.named(target); {
		case !ok:
			missing = append(missing, fmt.Sprintf("%q", target)+known.hint(target))
		case !begun:
			early = append(early, target)
		default:
			found = append(found, d)
		}
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("no destination %s of the configuration has ever run on slot %q; expected TENANT/NAME", strings.Join(missing, ", "), slot)
	}
	return found, early, nil
}
