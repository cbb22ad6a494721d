package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/replication/primary"
	"outflow/sink/external"
)

// slotReset drops the slot and makes the slot again; every destination is then copied from the tables.
type slotReset struct {
	healthy bool // the slot is, and so need not be reset

	cfg     *config.Config
	primary *primary.Server
	log     *zap.Logger
	conn    *pgx.Conn
	plan    *plan
	setup   primary.Setup
	targets []external.DestinationSpec
}

// prepareReset finds out about everything, and brings the schema outflow to this version; the slot stays as it is. The caller closes the reset.
func prepareReset(ctx context.Context, cfg *config.Config, log *zap.Logger) (*slotReset, error) {
	server, err := primaryOf(cfg)
	if err != nil {
		return nil, err
	}
	r := &slotReset{cfg: cfg, primary: server, log: log}
	if err := asked(ctx, r.primary, r.connect); err != nil {
		return nil, err
	}
	err = whileAnswering(ctx, r.primary, primaryPatience, func(ctx context.Context) error { return migrate(ctx, r.primary) })
	if err == nil {
		err = asked(ctx, r.primary, r.look)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// destinations is the number of destinations that are copied after the reset.
func (r *slotReset) destinations() int { return len(r.targets) }

// run resets the slot. run may be killed at any moment, and the reset be run again.
func (r *slotReset) run(ctx context.Context) error {
	ids := external.SequenceIDs(ctx, r.targets, r.cfg.Sink.Options)
	err := whileAnswering(ctx, r.primary, primaryPatience, func(ctx context.Context) error { return r.setup.Reset(ctx, r.conn, ids) })
	if err != nil {
		return err
	}
	r.log.Info("the slot was reset; every destination is copied again", zap.String("slot", r.cfg.Source.Slot))
	return nil
}

func (r *slotReset) close() { hangUp(r.conn) }

func (r *slotReset) connect(ctx context.Context) (err error) {
	if r.conn, err = r.primary.Connect(ctx); err != nil {
		return primary.ExplainConnect(r.primary, err)
	}
	if r.plan, err = newPlan(ctx, r.conn, r.cfg, primary.Check); err != nil {
		hangUp(r.conn)
	}
	return err
}

func (r *slotReset) look(ctx context.Context) (err error) {
	if r.targets, err = r.plan.destinations(ctx, r.conn); err != nil {
		return err
	}
	r.setup = r.plan.setup(r.primary, r.log)
	r.healthy, err = r.setup.Slot.Healthy(ctx, r.conn)
	return err
}
