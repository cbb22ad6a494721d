package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"outflow/internal/pipeline"
	"outflow/internal/preflight"
	"outflow/replication/primary"
)

func newCheck() *cobra.Command {
	var s settings
	var chosen pipeline.Selection
	var output string
	c := &cobra.Command{
		Use:   "check",
		Short: "Check the primary, the external databases and the mappings before a run",
		Long: `Check inspects the primary's server, role, tables, schema, publication and slot; each external database and the rights of
the role there; and each mapping, which it prepares in the external database. Check changes nothing, and may run while
outflow runs.

Marks: ok; warn: outflow will run, but you should know; FAIL: outflow will not run, or not correctly; skip: depends on a failed check.

Exit codes: 0 nothing failed, 1 something failed, 2 usage or configuration.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := checkChoice(chosen); err != nil {
				return err
			}
			cfg, err := s.load()
			if err != nil {
				return err
			}
			report, err := preflight.Run(c.Context(), cfg, chosen)
			if err != nil {
				return err
			}
			if err := writeOutcome(c.OutOrStdout(), report, output); err != nil {
				return err
			}
			if report.Failed > 0 {
				return fmt.Errorf("%d checks failed", report.Failed)
			}
			return nil
		},
	}
	s.flags(c)
	c.Flags().StringVar(&chosen.Tenant, "tenant", "", "check only this tenant's external databases")
	c.Flags().StringVar(&chosen.Name, "name", "", "check only external databases with this name")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func writeOutcome(w io.Writer, r *preflight.Report, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, g := range r.Groups {
		writeGroup(w, g)
	}
	fmt.Fprintf(w, "%d ok, %d warnings, %d failed, %d skipped\n", r.Passed, r.Warnings, r.Failed, r.Skipped)
	return nil
}

// marks are the printed verdicts: words, for readers who see no colours.
var marks = map[primary.Verdict]string{primary.Passed: "ok", primary.Warning: "warn",
	primary.Failed: "FAIL", primary.Unchecked: "skip"}

func writeGroup(w io.Writer, g preflight.Group) {
	fmt.Fprintln(w, line(g.Name))
	width := 0
	for _, f := range g.Checks {
		width = max(width, len([]rune(f.Check)))
	}
	for _, f := range g.Checks {
		indent := strings.Repeat(" ", width+10)
		fmt.Fprintf(w, "  %-4s  %-*s  %s\n", marks[f.Verdict], width, f.Check, strings.ReplaceAll(f.Found, "\n", "\n"+indent))
		if f.Remedy != "" {
			fmt.Fprintf(w, "%sremedy: %s\n", indent, strings.ReplaceAll(f.Remedy, "\n", "\n"+indent))
		}
	}
	fmt.Fprintln(w)
}
