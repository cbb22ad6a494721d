package preflight

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"outflow/replication/primary"
	"outflow/sink/external"
)

// checkDestinations looks at external databases, several at once, each for a limited time.
func (k *checking) checkDestinations(ctx context.Context, chosen []external.DestinationSpec) {
	found, servers := make([]primary.Findings, len(chosen)), make([]string, len(chosen))
	checker := k.checker()
	var g errgroup.Group
	g.SetLimit(checksAtOnce)
	for i, d := range chosen {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, destinationPatience)
			defer cancel()
			found[i], servers[i] = checker.Check(ctx, d)
			return nil
		})
	}
	_ = g.Wait() // failures are findings
	for i, d := range chosen {
		if len(d.Mappings) == 0 && d.Fault == nil {
			found[i].Skip("mappings", "the checks depend on the primary's tables or on the configuration above")
		}
		for j, other := range chosen {
			if j != i && servers[i] != "" && servers[i] == servers[j] {
				found[i].Fail("database", "give each destination a database of its own", "destination %s/%s uses the same database", other.Tenant, other.Name)
			}
		}
		k.report.group(fmt.Sprintf("destination %s/%s", d.Tenant, d.Name), found[i])
	}
}
