package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"outflow/internal/config"
	"outflow/internal/pipeline"
	"outflow/internal/verification"
)

func newVerify() *cobra.Command {
	var s settings
	var chosen pipeline.Selection
	var output string
	var repair bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Compare every external database with the primary",
		Long: `Verify recomputes each mapping from the primary's rows into temporary tables of the external database, with the mapping's
own steps, and compares in both directions. Verify changes nothing, and may run while outflow runs: rows that differ are compared
again once the stream has brought the destination everything that Verify read, so that changes on their way do not count as
differences. Other destinations do not matter. Verify shows what it waits for.

With --repair, the rows that differ go through their mappings again, as they are on the primary, and are compared once more.

Exit codes: 0 equal (with --repair: equal now), 1 different, 2 no difference found, but something could not be compared.`,
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
			report, err := compareDestinations(c.Context(), cfg, chosen, repair, c.ErrOrStderr())
			if err != nil {
				return usageError{err} // 2: could not compare
			}
			if err := writeComparison(c.OutOrStdout(), report, output); err != nil {
				return err
			}
			return verdict(report)
		},
	}
	s.flags(c)
	c.Flags().StringVar(&chosen.Tenant, "tenant", "", "only this tenant's destinations")
	c.Flags().StringVar(&chosen.Name, "name", "", "only destinations with this name")
	c.Flags().BoolVar(&repair, "repair", false, "repair the rows that differ")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// compareDestinations compares the chosen destinations. The error is one that keeps all destinations from being compared.
func compareDestinations(ctx context.Context, cfg *config.Config, chosen pipeline.Selection, repair bool, stderr io.Writer) (*verification.Report, error) {
	c, err := verification.Prepare(ctx, cfg, chosen)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	progress := newVerifyProgress(stderr, c.Destinations())
	defer progress.end()
	return c.Run(ctx, verification.Options{Repair: repair, Rows: progress.rows, Waiting: progress.waiting, Done: progress.destination})
}

// verdict is the error whose exit code tells the result.
func verdict(r *verification.Report) error {
	count := map[verification.Result]int{}
	for _, d := range r.Destinations {
		count[d.Result]++
	}
	err := fmt.Errorf("%d of %d external databases differ from the primary, %d could not be compared",
		count[verification.Different], len(r.Destinations), count[verification.Unknown])
	switch r.Result {
	case verification.Different:
		return err
	case verification.Unknown:
		return usageError{err} // 2
	}
	return nil
}

func writeComparison(w io.Writer, r *verification.Report, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, d := range r.Destinations {
		writeCompared(w, d)
	}
	return nil
}

func writeCompared(w io.Writer, d *verification.Destination) {
	fmt.Fprintf(w, "%s: %s (%.1f s)\n", line(d.Tenant+"/"+d.Name), d.Result, d.Seconds)
	for _, t := range d.Tables {
		fmt.Fprintf(w, "  %s, by mapping %s: %d rows", line(t.Table), t.Mapping, t.Rows)
		if t.Missing+t.Extra+t.Changed > 0 {
			fmt.Fprintf(w, "; %d missing, %d extra, %d changed", t.Missing, t.Extra, t.Changed)
		}
		if t.Repaired > 0 {
			fmt.Fprintf(w, "; %d repaired", t.Repaired)
		}
		fmt.Fprintln(w)
		for _, row := range t.First {
			fmt.Fprintf(w, "    %s: %s\n", row.Kind, line(row.Key))
		}
	}
	if d.Error != "" {
		fmt.Fprintf(w, "  %s\n", line(d.Error))
	} else if d.Remedy != "" {
		fmt.Fprintf(w, "  remedy: %s\n", line(d.Remedy))
	}
}
