package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newInit() *cobra.Command {
	var s settings
	var apply bool
	var role string
	c := &cobra.Command{
		Use:   "init",
		Short: "Print or install what the primary needs: role, rights, schema outflow, publication, slot",
		Long: `Init prints, as SQL for psql, what the primary needs for this configuration: a role with no more rights than
outflow run uses, the schema outflow, the publication with its column lists, and the slot. What is there already is
printed as a comment. It reads the primary's catalog and changes nothing.

With --apply it installs all of that. source.dsn must then be an administrator's; it is safe to run again. Afterwards
let source.dsn name the new role.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if err := checkRole(role); err != nil {
				return usageError{fmt.Errorf("--role %q: %w", role, err)}
			}
			if apply {
				return applyInstallation(c.Context(), c.OutOrStdout(), cfg, role)
			}
			return printInstallation(c.Context(), c.OutOrStdout(), cfg, role)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&apply, "apply", false, "install it, with the rights of source.dsn")
	c.Flags().StringVar(&role, "role", "outflow", "role that Outflow is to log in with; it is created where it is missing")
	return c
}
