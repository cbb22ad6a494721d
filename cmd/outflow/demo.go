package main

import "github.com/spf13/cobra"

func newDemo(version string) *cobra.Command {
	o := demoOptions{Version: version}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole system at work on throwaway servers, and verify its result",
		Long: `Demo starts two throwaway Postgres servers, one for the primary and one for the tenants' external databases. It
creates the slot, writes 10,000 users, and then runs the real pipeline under a mixed live load: inserts, updates, primary
email switches, deletes with cascade and tombstones, transactions of many rows.

After --duration, or on Ctrl-C, it stops the load, waits until the external databases have caught up, and compares each of
them with the primary by SQL of its own, both ways. The last line is then "verified" and the exit code 0; otherwise it
prints the differences and exits 1. The servers are removed unless --keep is given.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError{err}
			}
			return runDemo(c.Context(), o, c.OutOrStdout())
		},
	}
	c.Flags().IntVar(&o.Tenants, "tenants", 3, "tenants, each with an external database of its own")
	c.Flags().IntVar(&o.Rate, "rate", 500, "row changes a second on the primary")
	c.Flags().DurationVar(&o.Duration, "duration", 0, "how long the load runs; 0 is until Ctrl-C")
	c.Flags().BoolVar(&o.Keep, "keep", false, "leave the servers running, and print how to reach and to stop them")
	return c
}
