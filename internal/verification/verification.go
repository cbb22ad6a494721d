package verification

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/verify"
)

// Result is the result of a destination, or of all together.
type Result string

// The results.
const (
	Equal     Result = "equal"
	Different Result = "different"
	Unknown   Result = "could not compare"
)

// Report is what was found of all chosen destinations; its JSON is the output of verify with -o json.
type Report struct {
	Result       Result         `json:"result"`
	Destinations []*Destination `json:"destinations"`
}

// Destination is what was found of a destination.
type Destination struct {
	Tenant  string  `json:"tenant"`
	Name    string  `json:"name"`
	Result  Result  `json:"result"`
	Tables  []Table `json:"tables"`
	Looks   int     `json:"looks"` // number of recomputations
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"` // the reason of Unknown
	Remedy  string  `json:"remedy,omitempty"`
}

// Table is what was found of a table of a mapping.
type Table struct {
	Mapping  string `json:"mapping"`
	Table    string `json:"table"`
	Rows     int64  `json:"rows"` // as computed from the primary's rows
	Missing  int    `json:"missing"`
	Extra    int    `json:"extra"`
	Changed  int    `json:"changed"`
	Repaired int    `json:"repaired"`
	First    []Row  `json:"first,omitempty"`
}

// Row is a row that is missing, extra or changed.
type Row struct {
	Kind string `json:"kind"`
	Key  string `json:"key"`
}

// verifiesAtOnce bounds the load on the primary: each comparison reads all rows of its tenant.
const verifiesAtOnce = 2

// Comparison compares the chosen destinations with the primary.
type Comparison struct {
	verifier *verify.Verifier
	chosen   []external.DestinationSpec
	state    *ledger.Store
}

// Prepare reads the primary's catalog and the destinations. The caller closes the comparison.
func Prepare(ctx context.Context, cfg *config.Config, s pipeline.Selection) (*Comparison, error) {
	server, err := pipeline.Primary(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, primary.Patience)
	defer cancel()
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, primary.ExplainConnect(server, err)
	}
	defer primary.HangUp(conn)
	p, err := pipeline.NewPlan(ctx, conn, cfg, primary.CheckTables)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", server.Address(), err)
	}
	chosen, err := chosenOf(ctx, conn, p, s)
	if err != nil {
		return nil, err
	}
	source, err := p.Setup(server, zap.NewNop()).Slot.Known(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", server.Address(), err)
	}
	state := &ledger.Store{Slot: cfg.Source.Slot, Connect: server.Connect}
	return &Comparison{chosen: chosen, state: state, verifier: &verify.Verifier{Options: cfg.Sink.Options, SourceID: source.ID,
		Tables: p.SinkTables(), Primary: tableread.NewTables(server), Ledger: state, SequenceID: source.SequenceID, Log: zap.NewNop()}}, nil
}

// Destinations is the number of destinations that are compared.
func (c *Comparison) Destinations() int { return len(c.chosen) }

// Options are the ways of a comparison, and the reports of its progress. A nil function is not called; several goroutines call the others at once.
type Options struct {
	Repair  bool               // rows that differ are given to their mappings again, and compared once more
	Rows    func(n int)        // n rows more were recomputed
	Waiting func(what string)  // a destination's comparison waits for the stream
	Done    func(*Destination) // a destination was compared
}

// Run compares all chosen destinations. A destination that cannot be compared has the result Unknown in the report; the error is ctx.Err().
func (c *Comparison) Run(ctx context.Context, how Options) (*Report, error) {
	c.verifier.Repair, c.verifier.Progress, c.verifier.Waiting = how.Repair, how.Rows, how.Waiting
	report := &Report{Destinations: make([]*Destination, len(c.chosen))}
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

// Close closes the connections to the primary.
func (c *Comparison) Close() { c.state.Close() }

// chosenOf are the destinations of the selection.
func chosenOf(ctx context.Context, conn *pgx.Conn, p *pipeline.Plan, s pipeline.Selection) ([]external.DestinationSpec, error) {
	all, err := p.Destinations(ctx, conn)
	if err != nil {
		return nil, err
	}
	wanted := s
	if s.Tenant != "" {
		if wanted.Tenant, err = p.CanonicalTenant(ctx, conn, s.Tenant); err != nil {
			return nil, fmt.Errorf("--tenant %q: %w", s.Tenant, err)
		}
	}
	chosen := wanted.Of(all)
	if len(chosen) == 0 {
		return nil, pipeline.ErrNoDestination
	}
	return chosen, nil
}

func compareOne(ctx context.Context, v *verify.Verifier, d external.DestinationSpec) *Destination {
	began := time.Now()
	found, err := v.Verify(ctx, d)
	r := &Destination{Tenant: d.Tenant, Name: d.Name, Result: Equal, Tables: []Table{}, Looks: found.Looks,
		Seconds: time.Since(began).Seconds()}
	for _, t := range found.Tables {
		table := Table{Mapping: t.Mapping, Table: t.Table, Rows: t.Rows, Missing: t.Missing, Extra: t.Extra, Changed: t.Changed, Repaired: t.Repaired}
		for _, f := range t.First {
			table.First = append(table.First, Row{f.Kind, f.Key})
		}
		r.Tables = append(r.Tables, table)
	}
	if err != nil {
		r.Result, r.Error = Unknown, err.Error()
		if e := (*external.Error)(nil); errors.As(err, &e) {
			r.Remedy = e.Remedy
		}
	}
	if found.Different() > 0 {
		r.Result = Different
		if r.Remedy == "" && v.Repair {
			r.Remedy = "the remaining rows cannot be reached through the mapping's keys, or are too many; run: outflow resync --tenant " + d.Tenant + " --name " + d.Name
		}
	}
	return r
}

// conclude finds the worst result: a found difference counts for more than a failed comparison.
func (r *Report) conclude() {
	r.Result = Equal
	for _, d := range r.Destinations {
		if d.Result == Different || d.Result == Unknown && r.Result == Equal {
			r.Result = d.Result
		}
	}
}
