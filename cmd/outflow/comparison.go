package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/verify"
)

// The results of a destination, and of all together.
const (
	resultEqual     = "equal"
	resultDifferent = "different"
	resultUnknown   = "could not compare"
)

// comparisonReport is what was found of all chosen destinations; its JSON is the output of verify with -o json.
type comparisonReport struct {
	Result       string                 `json:"result"`
	Destinations []*comparedDestination `json:"destinations"`
}

// comparedDestination is what was found of a destination.
type comparedDestination struct {
	Tenant  string          `json:"tenant"`
	Name    string          `json:"name"`
	Result  string          `json:"result"`
	Tables  []comparedTable `json:"tables"`
	Looks   int             `json:"looks"` // number of recomputations
	Seconds float64         `json:"seconds"`
	Error   string          `json:"error,omitempty"` // why it could not be compared
	Remedy  string          `json:"remedy,omitempty"`
}

// comparedTable is what was found of a table of a mapping.
type comparedTable struct {
	Mapping string         `json:"mapping"`
	Table   string         `json:"table"`
	Rows    int64          `json:"rows"` // as computed from the primary's rows
	Missing int            `json:"missing"`
	Extra   int            `json:"extra"`
	Changed int            `json:"changed"`
	Mended  int            `json:"repaired"`
	First   []differingRow `json:"first,omitempty"`
}

// differingRow is a row that is missing, extra or changed.
type differingRow struct {
	Kind string `json:"kind"`
	Key  string `json:"key"`
}

// verifiesAtOnce bounds the load on the primary: each comparison reads all rows of its tenant.
const verifiesAtOnce = 2

// comparison compares the chosen destinations with the primary.
type comparison struct {
	verifier *verify.Verifier
	chosen   []external.DestinationSpec
	state    *ledger.Store
}

// prepareComparison reads the primary's catalog and the destinations. The caller closes the comparison.
func prepareComparison(ctx context.Context, cfg *config.Config, s selection) (*comparison, error) {
	server, err := primaryOf(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, primaryPatience)
	defer cancel()
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, primary.ExplainConnect(server, err)
	}
	defer hangUp(conn)
	p, err := newPlan(ctx, conn, cfg, primary.CheckTables)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", server.Address(), err)
	}
	chosen, err := chosenOf(ctx, conn, p, s)
	if err != nil {
		return nil, err
	}
	source, err := p.setup(server, zap.NewNop()).Slot.Known(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", server.Address(), err)
	}
	state := &ledger.Store{Slot: cfg.Source.Slot, Connect: server.Connect}
	return &comparison{chosen: chosen, state: state, verifier: &verify.Verifier{Options: cfg.Sink.Options, SourceID: source.ID,
		Tables: p.sinkTables(), Primary: tableread.NewTables(server), Ledger: state, SequenceID: source.SequenceID, Log: zap.NewNop()}}, nil
}

// destinations is the number of destinations that are compared.
func (c *comparison) destinations() int { return len(c.chosen) }

// comparing is how run goes about it, and what run tells meanwhile. A nil function is not called; the others are called by several
// goroutines at once.
type comparing struct {
	Repair  bool                       // rows that differ are given to their mappings again, and compared once more
	Rows    func(n int)                // n rows more were recomputed
	Waiting func(what string)          // what the comparison waits for
	Done    func(*comparedDestination) // one destination was compared
}

// run compares. A destination that cannot be compared is in the report, and no error; the error is that ctx is done.
func (c *comparison) run(ctx context.Context, how comparing) (*comparisonReport, error) {
	c.verifier.Repair, c.verifier.Progress, c.verifier.Waiting = how.Repair, how.Rows, how.Waiting
	report := &comparisonReport{Destinations: make([]*comparedDestination, len(c.chosen))}
	var g errgroup.Group
	g.SetLimit(verifiesAtOnce)
	for i, d := range c.chosen {
		g.Go(func() error {
			report.Destinations[i] = compareOne(ctx, c.verifier, d)
			if how.Done != nil {
				how.Done(report.Destinations[i])
			}
			return nil
		})
	}
	_ = g.Wait() // failures are in the report
	report.conclude()
	return report, ctx.Err()
}

func (c *comparison) close() { c.state.Close() }

// chosenOf are the destinations of the selection.
func chosenOf(ctx context.Context, conn *pgx.Conn, p *plan, s selection) ([]external.DestinationSpec, error) {
	all, err := p.destinations(ctx, conn)
	if err != nil {
		return nil, err
	}
	wanted := s
	if s.Tenant != "" {
		if wanted.Tenant, err = p.canonicalTenant(ctx, conn, s.Tenant); err != nil {
			return nil, fmt.Errorf("--tenant %q: %w", s.Tenant, err)
		}
	}
	chosen := wanted.of(all)
	if len(chosen) == 0 {
		return nil, errNoDestination
	}
	return chosen, nil
}

func compareOne(ctx context.Context, v *verify.Verifier, d external.DestinationSpec) *comparedDestination {
	began := time.Now()
	found, err := v.Verify(ctx, d)
	r := &comparedDestination{Tenant: d.Tenant, Name: d.Name, Result: resultEqual, Tables: []comparedTable{}, Looks: found.Looks,
		Seconds: time.Since(began).Seconds()}
	for _, t := range found.Tables {
		table := comparedTable{Mapping: t.Mapping, Table: t.Table, Rows: t.Rows, Missing: t.Missing, Extra: t.Extra, Changed: t.Changed, Mended: t.Repaired}
		for _, f := range t.First {
			table.First = append(table.First, differingRow{f.Kind, f.Key})
		}
		r.Tables = append(r.Tables, table)
	}
	if err != nil {
		r.Result, r.Error = resultUnknown, err.Error()
		if e := (*external.Error)(nil); errors.As(err, &e) {
			r.Remedy = e.Remedy
		}
	}
	if found.Different() > 0 {
		r.Result = resultDifferent
		if r.Remedy == "" && v.Repair {
			r.Remedy = "the remaining rows cannot be reached through the mapping's keys, or are too many; run: outflow resync --tenant " + d.Tenant + " --name " + d.Name
		}
	}
	return r
}

// conclude finds the worst result: a found difference counts for more than a failed comparison.
func (r *comparisonReport) conclude() {
	r.Result = resultEqual
	for _, d := range r.Destinations {
		if d.Result == resultDifferent || d.Result == resultUnknown && r.Result == resultEqual {
			r.Result = d.Result
		}
	}
}
