package pipeline

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/replication/primary"
	"outflow/sink/external"
)

// Reset drops the slot and makes the slot again; every destination is then copied from the tables.
type Reset struct {
	Healthy bool // the slot is, and so need not be reset

	cfg     *config.Config
	primary *primary.Server
	log     *zap.Logger
	conn    *pgx.Conn
	plan    *Plan
	setup   primary.Setup
	specs   []external.DestinationSpec
}

// PrepareReset finds out about everything, and brings the schema outflow to this version; the slot stays as it is. The caller closes the reset.
func PrepareReset(ctx context.Context, cfg *config.Config, log *zap.Logger) (*Reset, error) {
	server, err := Primary(cfg)
	if err != nil {
		return nil, err
	}
	r := &Reset{cfg: cfg, primary: server, log: log}
	if err := primary.Ask(ctx, r.primary, r.connect); err != nil {
		return nil, err
	}
	err = primary.WhileAnswering(ctx, r.primary, primary.Patience, func(ctx context.Context) error { return migrate(ctx, r.primary) })
	if err == nil {
		err = primary.Ask(ctx, r.primary, r.look)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Destinations is the number of destinations that are copied after the reset.
func (r *Reset) Destinations() int { return len(r.specs) }

// Run resets the slot. Run may be killed at any moment, and the reset be run again.
func (r *Reset) Run(ctx context.Context) error {
	ids := external.SequenceIDs(ctx, r.specs, r.cfg.Sink.Options)
	err := primary.WhileAnswering(ctx, r.primary, primary.Patience, func(ctx context.Context) error { return r.setup.Reset(ctx, r.conn, ids) })
	if err != nil {
		return err
	}
	r.log.Info("the slot was reset; every destination is copied again", zap.String("slot", r.cfg.Source.Slot))
	return nil
}

// Close ends the connection to the primary.
func (r *Reset) Close() { primary.HangUp(r.conn) }

func (r *Reset) connect(ctx context.Context) (err error) {
	if r.conn, err = r.primary.Connect(ctx); err != nil {
		return primary.ExplainConnect(r.primary, err)
	}
	if r.plan, err = NewPlan(ctx, r.conn, r.cfg, primary.Check); err != nil {
		primary.HangUp(r.conn)
	}
	return err
}

func (r *Reset) look(ctx context.Context) (err error) {
	if r.specs, err = r.plan.Destinations(ctx, r.conn); err != nil {
		return err
	}
	r.setup = r.plan.Setup(r.primary, r.log)
	r.Healthy, err = r.setup.Slot.Healthy(ctx, r.conn)
	return err
}
