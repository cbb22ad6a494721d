package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"outflow/internal/install"
)

func newInit() *cobra.Command {
	var s settings
	var apply bool
	var role string
	c := &cobra.Command{
		Use:   "init",
		Short: "Print or install what the primary needs: role, rights, schema outflow, publication, slot",
		Long: `Init prints, as SQL for psql, what the primary needs for this configuration: a role with no more rights than
outflow run uses, the schema outflow, the publication with its column lists, and the slot. Objects that exist
already are printed as comments. Init reads the primary's catalog and changes nothing.

With --apply, Init installs the objects. source.dsn must then be an administrator's connection string. Init may be run again.
Afterwards, change source.dsn to the new role.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if err := install.CheckRole(role); err != nil {
				return usageError{fmt.Errorf("--role %q: %w", role, err)}
			}
			if apply {
				return install.Apply(c.Context(), c.OutOrStdout(), cfg, role)
			}
			return install.Print(c.Context(), c.OutOrStdout(), cfg, role)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&apply, "apply", false, "install the objects, with the rights of source.dsn")
	c.Flags().StringVar(&role, "role", "outflow", "role that Outflow logs in with; created if missing")
	return c
}
