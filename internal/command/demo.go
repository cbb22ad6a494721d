package command

import (
	"github.com/spf13/cobra"

	"outflow/internal/demo"
)

func newDemo(version string) *cobra.Command {
	o := demo.Options{Version: version}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the whole system on throwaway servers, and verify the result",
		Long: `Demo starts two throwaway Postgres servers, one for the primary and one for the tenants' external databases. It
creates the slot, writes 10,000 users, and then runs the real pipeline under a mixed live load: inserts, updates, primary
email switches, deletes with cascade and tombstones, transactions of many rows.

After --duration, or on Ctrl-C, Demo stops the load, waits until the external databases have caught up, and compares each
external database with the primary in both directions, with SQL that is independent of Outflow. If all rows are equal, the
last line is "verified" and the exit code is 0; otherwise Demo prints the differences and exits with 1. Without --keep, Demo
removes the servers.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usageError{err}
			}
			return demo.Run(c.Context(), o, c.OutOrStdout())
		},
	}
	c.Flags().IntVar(&o.Tenants, "tenants", 3, "tenants, each with an external database of its own")
	c.Flags().IntVar(&o.Rate, "rate", 500, "row changes per second on the primary")
	c.Flags().DurationVar(&o.Duration, "duration", 0, "duration of the load; 0: until Ctrl-C")
	c.Flags().BoolVar(&o.Keep, "keep", false, "leave the servers running, and print how to connect to them and how to stop them")
	return c
}
