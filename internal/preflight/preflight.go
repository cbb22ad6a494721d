package preflight

import (
	"context"
	"time"

	"outflow/internal/config"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
)

// Report is everything that was found; its JSON is the output of check with -o json.
type Report struct {
	Result   string  `json:"result"` // ok or fail
	Passed   int     `json:"passed"`
	Warnings int     `json:"warnings"`
	Failed   int     `json:"failed"`
	Skipped  int     `json:"skipped"`
	Groups   []Group `json:"groups"`
}

// Group is the findings on one thing.
type Group struct {
	Name   string           `json:"name"` // primary, mappings, destinations, or "destination tenant/name"
	Checks primary.Findings `json:"checks"`
}

const (
	destinationPatience = 30 * time.Second
	checksAtOnce        = 8
)

// Run looks at everything that the configuration names; of the destinations only at the chosen ones. Run changes nothing anywhere. The error
// is that no destination was chosen, or that ctx is done: every other fault is a finding.
func Run(ctx context.Context, cfg *config.Config, s pipeline.Selection) (*Report, error) {
	server, err := pipeline.Primary(cfg)
	if err != nil {
		return nil, err
	}
	k := &checking{cfg: cfg, primary: server}
	limited, cancel := context.WithTimeout(ctx, primary.Patience)
	defer cancel()
	k.checkMappings()
	k.checkPrimary(limited)
	defer k.close()
	chosen, err := k.chosen(limited, s)
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

func (r *Report) group(name string, found primary.Findings) {
	if len(found) > 0 {
		r.Groups = append(r.Groups, Group{name, found})
	}
}

func (r *Report) conclude() {
	counts := map[primary.Verdict]*int{primary.Passed: &r.Passed, primary.Warning: &r.Warnings,
		primary.Failed: &r.Failed, primary.Unchecked: &r.Skipped}
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
