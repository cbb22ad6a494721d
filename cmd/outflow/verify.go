package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/replication"
	"outflow/sink"
)

// verifyOptions are the flags of verify.
type verifyOptions struct {
	tenant, name, output string
	repair               bool
}

func newVerify() *cobra.Command {
	var s settings
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove that every external database equals the primary",
		Long: `Verify recomputes each mapping from the primary's rows into temporary tables of the external database, by the mapping's
own steps, and compares both ways. It changes nothing, and may run beside the process that keeps the databases in sync: what
differs is looked at again after the stream has brought that destination all that was read, so that changes on their way are no
differences. What other destinations do is no matter. What is waited for is shown.

With --repair the rows that differ are given to their mappings again, as they are on the primary, and compared once more.

Exit codes: 0 equal (with --repair: equal now), 1 different, 2 something could not be compared and nothing was found different.`,
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
			report, err := verify(c.Context(), cfg, o, c.ErrOrStderr())
			if err != nil {
				return usageError{err} // 2: could not compare
			}
			if err := report.write(c.OutOrStdout(), o.output); err != nil {
				return err
			}
			return report.verdict()
		},
	}
	s.flags(c)
	c.Flags().StringVar(&o.tenant, "tenant", "", "only this tenant's destinations")
	c.Flags().StringVar(&o.name, "name", "", "only destinations with this name")
	c.Flags().BoolVar(&o.repair, "repair", false, "mend the rows that differ")
	c.Flags().StringVarP(&o.output, "output", "o", "text", "text or json")
	return c
}

// The results of a destination, and of all together.
const (
	resultEqual     = "equal"
	resultDifferent = "different"
	resultUnknown   = "could not compare"
)

// verifyReport is the output of verify with -o json.
type verifyReport struct {
	Result       string               `json:"result"`
	Destinations []*verifyDestination `json:"destinations"`
}

type verifyDestination struct {
	Tenant  string        `json:"tenant"`
	Name    string        `json:"name"`
	Result  string        `json:"result"`
	Tables  []verifyTable `json:"tables"`
	Looks   int           `json:"looks"` // number of recomputations
	Seconds float64       `json:"seconds"`
	Error   string        `json:"error,omitempty"`
	Remedy  string        `json:"remedy,omitempty"`
}

type verifyTable struct {
	Mapping string      `json:"mapping"`
	Table   string      `json:"table"`
	Rows    int64       `json:"rows"` // as computed from the primary's rows
	Missing int         `json:"missing"`
	Extra   int         `json:"extra"`
	Changed int         `json:"changed"`
	Mended  int         `json:"mended"`
	First   []verifyRow `json:"first,omitempty"`
}

type verifyRow struct {
	Kind string `json:"kind"`
	Key  string `json:"key"`
}

// verifiesAtOnce bounds the load on the primary: each comparison reads all rows of its tenant.
const verifiesAtOnce = 2

// verify compares the chosen destinations. The error is one that keeps all destinations from being compared.
func verify(ctx context.Context, cfg *config.Config, o verifyOptions, stderr io.Writer) (*verifyReport, error) {
	primary, err := primaryOf(cfg)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, primaryPatience)
	defer cancel()
	conn, err := primary.Connect(limited)
	if err != nil {
		return nil, replication.ExplainConnect(primary, err)
	}
	defer hangUp(conn)
	p, err := newPlan(limited, conn, cfg, replication.CheckTables)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", primary.Address(), err)
	}
	chosen, err := p.chosen(limited, conn, o)
	if err != nil {
		return nil, err
	}
	source, err := p.setup(primary, zap.NewNop()).Known(limited, conn)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", primary.Address(), err)
	}
	state := &sink.StateStore{Slot: cfg.Source.Slot, Connect: primary.Connect}
	defer state.Close()
	progress := newVerifyProgress(stderr, len(chosen))
	defer progress.end()
	v := &sink.Verifier{Options: cfg.Sink, SourceID: source.ID, Tables: p.sinkTables(), Primary: primary, State: state,
		SequenceID: source.SequenceID, Log: zap.NewNop(), Repair: o.repair, Progress: progress.rows, Waiting: progress.waiting}
	report := &verifyReport{Destinations: make([]*verifyDestination, len(chosen))}
	var g errgroup.Group
	g.SetLimit(verifiesAtOnce)
	for i, d := range chosen {
		g.Go(func() error {
			report.Destinations[i] = verifyOne(ctx, v, d)
			progress.destination(report.Destinations[i])
			return nil
		})
	}
	_ = g.Wait() // failures are in the report
	report.conclude()
	return report, ctx.Err()
}

// chosen are the destinations named by the flags.
func (p *plan) chosen(ctx context.Context, conn *pgx.Conn, o verifyOptions) ([]sink.Target, error) {
	all, err := p.destinations(ctx, conn)
	if err != nil {
		return nil, err
	}
	tenant := o.tenant
	if tenant != "" {
		if tenant, err = canonicalTenant(ctx, conn, p, tenant); err != nil {
			return nil, fmt.Errorf("--tenant %q: %w", o.tenant, err)
		}
	}
	var chosen []sink.Target
	for _, d := range all {
		if (tenant == "" || d.Tenant == tenant) && (o.name == "" || d.Name == o.name) {
			chosen = append(chosen, d)
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("there is no such destination in the configuration")
	}
	return chosen, nil
}

func verifyOne(ctx context.Context, v *sink.Verifier, d sink.Target) *verifyDestination {
	began := time.Now()
	found, err := v.Verify(ctx, d)
	r := &verifyDestination{Tenant: d.Tenant, Name: d.Name, Result: resultEqual, Tables: []verifyTable{}, Looks: found.Looks,
		Seconds: time.Since(began).Seconds()}
	for _, t := range found.Tables {
		table := verifyTable{Mapping: t.Mapping, Table: t.Table, Rows: t.Rows, Missing: t.Missing, Extra: t.Extra, Changed: t.Changed, Mended: t.Mended}
		for _, f := range t.First {
			table.First = append(table.First, verifyRow{f.Kind, f.Key})
		}
		r.Tables = append(r.Tables, table)
	}
	if err != nil {
		r.Result, r.Error = resultUnknown, err.Error()
		if e := (*sink.Error)(nil); errors.As(err, &e) {
			r.Remedy = e.Remedy
		}
	}
	if found.Different() > 0 {
		r.Result = resultDifferent
		if r.Remedy == "" && v.Repair {
			r.Remedy = "what is left cannot be reached through the mapping's keys, or is too much; run: outflow resync --tenant " + d.Tenant + " --name " + d.Name
		}
	}
	return r
}

// conclude finds the worst result: a found difference counts for more than a failed comparison.
func (r *verifyReport) conclude() {
	r.Result = resultEqual
	for _, d := range r.Destinations {
		if d.Result == resultDifferent || d.Result == resultUnknown && r.Result == resultEqual {
			r.Result = d.Result
		}
	}
}

// verdict is the error whose exit code tells the result.
func (r *verifyReport) verdict() error {
	count := map[string]int{}
	for _, d := range r.Destinations {
		count[d.Result]++
	}
	err := fmt.Errorf("%d of %d external databases differ from the primary, %d could not be compared",
		count[resultDifferent], len(r.Destinations), count[resultUnknown])
	switch r.Result {
	case resultDifferent:
		return err
	case resultUnknown:
		return usageError{err} // 2
	}
	return nil
}

func (r *verifyReport) write(w io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, d := range r.Destinations {
		d.write(w)
	}
	return nil
}

func (d *verifyDestination) write(w io.Writer) {
	fmt.Fprintf(w, "%s: %s (%.1f s)\n", line(d.Tenant+"/"+d.Name), d.Result, d.Seconds)
	for _, t := range d.Tables {
		fmt.Fprintf(w, "  %s, by mapping %s: %d rows", line(t.Table), t.Mapping, t.Rows)
		if t.Missing+t.Extra+t.Changed > 0 {
			fmt.Fprintf(w, "; %d missing, %d extra, %d changed", t.Missing, t.Extra, t.Changed)
		}
		if t.Mended > 0 {
			fmt.Fprintf(w, "; %d mended", t.Mended)
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
