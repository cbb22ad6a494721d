package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"outflow/internal/config"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/sink/ledger"
)

// contender is one of the two compared programs, in one arena.
type contender interface {
	name() string
	// db is a connection to the contender's database on the target, for watching and verifying.
	db() *pgx.Conn
	// slotName is the slot made by prepare; later commits are the slot's backlog.
	slotName() string
	prepare(ctx context.Context) error
	// start begins to replicate. failed is closed when replication ended by itself.
	start(ctx context.Context) (failed <-chan struct{}, err error)
	// fault tells the known facts about a contender that does not get on.
	fault() error
	// remove ends replication and takes away the objects that dropping the databases leaves. remove may be called without prepare.
	remove(ctx context.Context) error
}

// The contenders' names, in the report too.
const (
	nativeName = "subscription"
	oursName   = "outflow"
)

// subscription is Postgres' own logical replication, with its defaults.
type subscription struct {
	arena  *arena
	slot   string // also the name of publication and subscription
	dsn    string // of the source
	target *pgx.Conn
	made   bool
}

func (s *subscription) name() string     { return nativeName }
func (s *subscription) db() *pgx.Conn    { return s.target }
func (s *subscription) slotName() string { return s.slot }
func (s *subscription) fault() error     { return nil }

func (s *subscription) prepare(ctx context.Context) error {
	if _, err := s.arena.source.Exec(ctx, "CREATE PUBLICATION "+s.slot+" FOR TABLE item"); err != nil {
		return err
	}
	if _, err := s.arena.source.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", s.slot); err != nil {
		return err
	}
	_, err := s.target.Exec(ctx, fmt.Sprintf(`CREATE SUBSCRIPTION %[1]s CONNECTION '%[2]s' PUBLICATION %[1]s
		WITH (create_slot = false, slot_name = '%[1]s', enabled = false, copy_data = false)`, s.slot, s.dsn))
	s.made = err == nil
	return err
}

func (s *subscription) start(ctx context.Context) (<-chan struct{}, error) {
	_, err := s.target.Exec(ctx, "ALTER SUBSCRIPTION "+s.slot+" ENABLE")
	return nil, err
}

func (s *subscription) remove(ctx context.Context) error {
	if !s.made {
		return nil
	}
	s.made = false
	conn, err := pgx.ConnectConfig(ctx, s.target.Config()) // an interruption closes the connection in use
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range []string{"ALTER SUBSCRIPTION %s DISABLE", "ALTER SUBSCRIPTION %s SET (slot_name = NONE)", "DROP SUBSCRIPTION %s"} {
		if _, err := conn.Exec(ctx, fmt.Sprintf(statement, s.slot)); err != nil {
			return err
		}
	}
	return nil
}

// pipelined is Outflow: the pipeline of the run command, in this process.
type pipelined struct {
	arena     *arena
	slot      string
	dsn       string // of the source
	targetDSN string
	target    *pgx.Conn
	pl        *pipeline.Pipeline
	stop      context.CancelFunc
	done      chan struct{}
	err       error // of the pipeline, valid when done is closed
}

func (p *pipelined) name() string     { return oursName }
func (p *pipelined) db() *pgx.Conn    { return p.target }
func (p *pipelined) slotName() string { return p.slot }

// prepare makes publication and slot, and has the pipeline run until the rows in the table are copied: only the backlog
// after the copy is measured, as with the subscription.
func (p *pipelined) prepare(ctx context.Context) error {
	cfg := config.Default()
	cfg.Source.DSN, cfg.Source.Slot, cfg.Source.Publication = secret.New(p.dsn), p.slot, p.slot
	cfg.Source.Tables = []config.Table{{Name: "item", Tenant: "tenant"}}
	cfg.Source.Tombstones = nil
	cfg.Mappings = []string{p.arena.w.mapping}
	cfg.Destinations.Static = []config.Static{{Tenant: tenant, Name: "main", DSN: secret.New(p.targetDSN), Mappings: []string{"item"}}}
	pipeline.TuneMemory(cfg) // as run does
	if err := p.copyFirst(ctx, cfg); err != nil {
		return err
	}
	pl, err := pipeline.Open(ctx, cfg, p.arena.w.log)
	p.pl = pl
	return err
}

func (p *pipelined) copyFirst(ctx context.Context, cfg *config.Config) error {
	pl, err := pipeline.Open(ctx, cfg, p.arena.w.log)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return pl.Run(running) })
	g.Go(func() error {
		defer stop()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for pl.Router.Destinations()[0].Status().State != ledger.Streaming {
			select {
			case <-running.Done():
				return nil
			case <-tick.C:
			}
		}
		return nil
	})
	return g.Wait()
}

func (p *pipelined) start(ctx context.Context) (<-chan struct{}, error) {
	ctx, p.stop = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = p.pl.Run(ctx)
	}()
	return p.done, nil
}

func (p *pipelined) fault() error {
	var faults []error
	select {
	case <-p.done:
		faults = append(faults, p.err)
	default:
	}
	for _, d := range p.pl.Router.Destinations() {
		faults = append(faults, d.Status().Err)
	}
	return errors.Join(faults...)
}

func (p *pipelined) remove(context.Context) error {
	if p.stop == nil {
		return nil
	}
	p.stop()
	p.stop = nil
	<-p.done
	return p.err
}

// indent puts a text into a YAML block of two spaces.
func indent(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\t", "  "), "\n", "\n  ")
}
