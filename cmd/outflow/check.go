package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"outflow/internal/config"
	"outflow/replication"
)

// checkOptions are the flags of check.
type checkOptions struct{ tenant, name, output string }

func newCheck() *cobra.Command {
	var s settings
	var o checkOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Find out beforehand whether everything can work: primary, external databases, mappings",
		Long: `Check looks at everything that can be found out before outflow runs: the primary's server, role, tables, schema,
publication and slot; each external database and what the role may do there; each mapping, prepared where it is to run. It
changes nothing anywhere, and may run beside the process that runs.

Marks: ok; warn: it will run, and you should know; FAIL: it will not run, or not rightly; skip: it hangs on something that failed.

Exit codes: 0 nothing failed, 1 something failed, 2 usage or configuration.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			if err := checkChoice(o.tenant, o.name); err != nil {
				return err
			}
			cfg, err := s.load()
			if err != nil {
				return err
			}
			report, err := checkAll(c.Context(), cfg, o)
			if err != nil {
				return err
			}
			if err := report.write(c.OutOrStdout(), o.output); err != nil {
				return err
			}
			if report.Failed > 0 {
				return fmt.Errorf("%d checks failed", report.Failed)
			}
			return nil
		},
	}
	s.flags(c)
	c.Flags().StringVar(&o.tenant, "tenant", "", "of the external databases only this tenant's")
	c.Flags().StringVar(&o.name, "name", "", "of the external databases only those with this name")
	c.Flags().StringVarP(&o.output, "output", "o", "text", "text or json")
	return c
}

// checkOutcome is the output of check with -o json.
type checkOutcome struct {
	Result   string       `json:"result"` // ok or fail
	Passed   int          `json:"passed"`
	Warnings int          `json:"warnings"`
	Failed   int          `json:"failed"`
	Skipped  int          `json:"skipped"`
	Groups   []checkGroup `json:"groups"`
}

// checkGroup is the findings on one thing.
type checkGroup struct {
	Name   string               `json:"name"` // primary, mappings, destinations, or "destination tenant/name"
	Checks replication.Findings `json:"checks"`
}

const (
	destinationPatience = 30 * time.Second
	checksAtOnce        = 8
)

// checkAll looks at everything. The error is one of the command line.
func checkAll(ctx context.Context, cfg *config.Config, o checkOptions) (*checkOutcome, error) {
	primary, err := primaryOf(cfg)
	if err != nil {
		return nil, err
	}
	k := &checking{cfg: cfg, primary: primary}
	limited, cancel := context.WithTimeout(ctx, primaryPatience)
	defer cancel()
	k.checkMappings()
	k.checkPrimary(limited)
	defer k.close()
	chosen, err := k.chosen(limited, o)
	if err != nil {
		return nil, err
	}
	k.checkDestinations(ctx, chosen)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.report.conclude()
	return &k.report, nil
}

func (r *checkOutcome) group(name string, found replication.Findings) {
	if len(found) > 0 {
		r.Groups = append(r.Groups, checkGroup{name, found})
	}
}

func (r *checkOutcome) conclude() {
	counts := map[replication.Verdict]*int{replication.Passed: &r.Passed, replication.Warning: &r.Warnings,
		replication.Failed: &r.Failed, replication.Unchecked: &r.Skipped}
	for _, g := range r.Groups {
		for _, f := range g.Checks {
			*counts[f.Verdict]++
		}
	}
	r.Result = "ok"
	if r.Failed > 0 {
		r.Result = "fail"
	}
}

func (r *checkOutcome) write(w io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, g := range r.Groups {
		g.write(w)
	}
	fmt.Fprintf(w, "%d ok, %d warnings, %d failed, %d skipped\n", r.Passed, r.Warnings, r.Failed, r.Skipped)
	return nil
}

// marks are the printed verdicts: words, for readers who see no colours.
var marks = map[replication.Verdict]string{replication.Passed: "ok", replication.Warning: "warn",
	replication.Failed: "FAIL", replication.Unchecked: "skip"}

func (g checkGroup) write(w io.Writer) {
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
