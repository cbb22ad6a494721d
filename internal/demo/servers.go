package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/testdata"
)

// slotName is also the name of the publication. The default's name is avoided, since a given server may use the default's
// name already.
const slotName = "outflow_demo"

// servers are a primary, and a server with the tenants' external databases.
type servers struct {
	primary, external *pgcluster.Cluster // nil before they run
	databases         []database         // all that were created
	source            string             // connection string of the primary database
	tenants           []tenant
}

// database is a database and its server.
type database struct {
	cluster *pgcluster.Cluster
	name    string
}

// tenant is a tenant and its external database.
type tenant struct {
	id   string // as in tenancyId
	name string // for people
	dsn  string
}

// start starts both servers and creates the databases, with the application's schema in the primary's.
func (s *servers) start(ctx context.Context, tenants int) error {
	// Disposable data: no wait for the disk.
	options := pgcluster.Options{Settings: map[string]string{"fsync": "off", "full_page_writes": "off"}}
	var g errgroup.Group // no shared context: a failed half must not leave the other half started
	for _, cluster := range []**pgcluster.Cluster{&s.primary, &s.external} {
		g.Go(func() (err error) {
			*cluster, err = pgcluster.Start(ctx, options)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	config.Scrub() // not earlier: servers may be found under HOME
	var err error
	if s.source, err = s.create(ctx, s.primary, "outflow_demo"); err != nil {
		return err
	}
	for i := 1; i <= tenants; i++ {
		t := tenant{id: fmt.Sprintf("%08d-0000-4000-8000-000000000000", i), name: fmt.Sprintf("tenant_%d", i)}
		if t.dsn, err = s.create(ctx, s.external, "outflow_demo_"+t.name); err != nil {
			return err
		}
		s.tenants = append(s.tenants, t)
	}
	return s.primary.Exec(ctx, "outflow_demo", testdata.Schema)
}

func (s *servers) create(ctx context.Context, cluster *pgcluster.Cluster, name string) (dsn string, err error) {
	if dsn, err = cluster.CreateDatabase(ctx, name); err == nil {
		s.databases = append(s.databases, database{cluster, name})
	}
	return dsn, err
}

// openPipeline builds the same pipeline and dashboard as outflow run. The log would run through the table, which shows the
// states and errors instead.
func (s *servers) openPipeline(ctx context.Context, version string) (*pipeline.Pipeline, *pipeline.Front, error) {
	cfg := config.Default()
	cfg.Admin.Listen = "127.0.0.1:0" // a free port
	cfg.Source.DSN, cfg.Source.Slot, cfg.Source.Publication = secret.New(s.source), slotName, slotName
	cfg.Sink.RetryMax = 2 * time.Second
	for _, t := range s.tenants {
		cfg.Destinations.Static = append(cfg.Destinations.Static,
			config.Static{Tenant: t.id, Name: t.name, DSN: secret.New(t.dsn)})
	}
	pl, err := pipeline.Open(ctx, cfg, zap.NewNop())
	if err != nil {
		return nil, nil, err
	}
	f, err := pipeline.NewFront(ctx, func() *config.Config { return cfg }, version, zap.NewNop())
	if err == nil {
		f.Attach(pl, nil)
	}
	return pl, f, err
}

// close removes the servers; on given servers, which stay, the databases.
func (s *servers) close(ctx context.Context) error {
	var faults []error
	for _, d := range s.databases {
		faults = append(faults, d.cluster.DropDatabase(ctx, d.name))
	}
	for _, cluster := range []*pgcluster.Cluster{s.primary, s.external} {
		if cluster != nil {
			faults = append(faults, cluster.Close())
		}
	}
	return errors.Join(faults...)
}

// detach lets the servers outlive this process, and says how to reach and to stop the servers.
func (s *servers) detach(ctx context.Context, out io.Writer) error {
	fmt.Fprintf(out, "\nThe servers keep running.\n  primary   %s\n", s.source)
	for _, t := range s.tenants {
		fmt.Fprintf(out, "  %-8s  %s\n", t.name, t.dsn)
	}
	fmt.Fprintf(out, "Look around:\n  psql '%s' -c 'SELECT * FROM \"ProjectUser\" LIMIT 5'\n", s.source)
	for _, t := range s.tenants {
		fmt.Fprintf(out, "  psql '%s' -c 'SELECT * FROM users LIMIT 5'\n", t.dsn)
	}
	fmt.Fprintln(out, "Stop and remove them:")
	var faults []error
	for _, cluster := range []*pgcluster.Cluster{s.primary, s.external} {
		stop, err := cluster.Detach(ctx)
		switch {
		case errors.Is(err, pgcluster.ErrNotOurs): // the server runs anyway
			for _, d := range s.databases {
				if d.cluster == cluster {
					fmt.Fprintf(out, "  psql '%s' -c 'DROP DATABASE %s WITH (FORCE)'\n", cluster.DSN(""), d.name)
				}
			}
		case err != nil:
			faults = append(faults, err, cluster.Close())
		default:
			fmt.Fprintf(out, "  %s\n", stop)
		}
	}
	fmt.Fprintln(out)
	return errors.Join(faults...)
}
