package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"outflow/sink/ledger"
)

// retryOptions are the flags of retry.
type retryOptions struct {
	halted, all bool
	by, reason  string
}

func newRetry() *cobra.Command {
	var s settings
	var o retryOptions
	c := &cobra.Command{
		Use:   "retry TENANT/NAME... | --halted | --all",
		Short: "Try destinations now, instead of at the end of their pause after a failure",
		Long: `Retry asks the process that reads the slot, or the next one, to try destinations at once: those that are named, with --halted those
that need a person, with --all each one that waits. It changes nothing else: what is halted stays halted until it has done what failed.

Exit codes: 0 asked, 1 there is no such destination, 2 usage or configuration.`,
		RunE: func(c *cobra.Command, targets []string) error {
			if n := len(targets); (n > 0) == (o.halted || o.all) || o.halted && o.all {
				return usageError{errors.New("expected either names (TENANT/NAME), or --halted, or --all")}
			}
			cfg, err := s.load()
			if err != nil {
				return err
			}
			state, err := stateStore(cfg)
			if err != nil {
				return err
			}
			defer state.Close()
			return retry(c, state, targets, o)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&o.halted, "halted", false, "all destinations that are halted")
	c.Flags().BoolVar(&o.all, "all", false, "all destinations")
	c.Flags().StringVar(&o.reason, "reason", "", "why, for the record")
	c.Flags().StringVar(&o.by, "by", whoami(), "who")
	return c
}

func retry(c *cobra.Command, state *ledger.Store, targets []string, o retryOptions) error {
	chosen := [][2]string{{}} // all
	if len(targets) > 0 {
		known, err := state.Destinations(c.Context(), "", "")
		if err != nil {
			return err
		}
		if chosen, err = named(known, targets, state.Slot); err != nil {
			return err
		}
	}
	asked := int64(0)
	for _, d := range chosen {
		n, err := state.RequestRetry(c.Context(), d[0], d[1], o.halted, o.by, o.reason)
		if err != nil {
			return err
		}
		asked += n
	}
	attended, err := state.Attended(c.Context())
	if err != nil {
		return err
	}
	when := "are tried now"
	if !attended {
		when = "are tried when outflow run starts: nobody reads slot " + state.Slot
	}
	fmt.Fprintf(c.OutOrStdout(), "%d destinations %s\n", asked, when)
	return nil
}

// named finds destinations by TENANT/NAME among the destinations that have run, less destinations removed from the configuration.
func named(known []ledger.Destination, targets []string, slot string) (found [][2]string, err error) {
	all := map[string]ledger.Destination{}
	for _, n := range known {
		all[n.Tenant+"/"+n.Name] = n
	}
	var missing []string
	for _, target := range targets {
		n, ok := all[target]
		if !ok || !n.Configured() {
			missing = append(missing, fmt.Sprintf("%q", target))
			continue
		}
		found = append(found, [2]string{n.Tenant, n.Name})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("no destination %s of the configuration has ever run on slot %q; expected TENANT/NAME", strings.Join(missing, ", "), slot)
	}
	return found, nil
}
