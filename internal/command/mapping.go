package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"outflow/internal/strictyaml"
	"outflow/mapping"
)

func newMapping() *cobra.Command {
	check := &cobra.Command{
		Use:   "check FILE...",
		Short: "Check mapping files: faults with file, line and column",
		Long: `Check reads mapping files and reports every fault with file, line and column. Check needs no server. Faults that only the
servers can show (a missing table, a wrong type, a column that a DELETE does not bring) are found by outflow check, and before
Outflow uses the mapping.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			failed := 0
			for _, file := range files {
				src, err := strictyaml.ReadFile(file)
				if err != nil {
					return usageError{err}
				}
				m, err := mapping.Load(file, src)
				if err != nil {
					fmt.Fprintln(c.ErrOrStderr(), err)
					failed++
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: mapping %s is well-formed: %d steps over %s\n", file, m.Name, len(m.Steps),
					strings.Join(m.Tables(), ", "))
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d mappings have faults", failed, len(files))
			}
			return nil
		},
	}
	c := &cobra.Command{Use: "mapping", Short: "Work on mappings", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(check)
	return c
}
