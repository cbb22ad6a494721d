package command

import "github.com/spf13/cobra"

func newConfig() *cobra.Command {
	var s settings
	print := &cobra.Command{
		Use:   "print",
		Short: "Print the effective configuration, each value with its origin, secrets redacted",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			return cfg.Print(c.OutOrStdout())
		},
	}
	s.flags(print)
	c := &cobra.Command{Use: "config", Short: "Inspect the configuration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(print)
	return c
}
