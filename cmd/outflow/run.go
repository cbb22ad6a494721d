package main

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/replication"
)

func newRun() *cobra.Command {
	var s settings
	var reset, yes bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Read the slot and keep the external databases in sync until told to stop",
		Long: `Run prepares the primary where that is needed (schema outflow, publication, slot) and then keeps every tenant's
external databases in sync. SIGTERM or Ctrl-C: it stops reading, finishes or rolls back what is in flight, reports to the
primary for the last time and exits 0. A second process on the same slot waits as standby and takes over when the first ends.

With --slot-reset it first drops the slot and creates it anew, and then copies every destination from the tables while live
changes flow. That heals a slot that is lost, missing, or of another primary. It may be killed at any moment and run again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			log, err := newLogger(cfg.Log)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			if reset {
				if err := resetSlot(c, cfg, yes, log); err != nil {
					return err
				}
			}
			return run(c.Context(), cfg, log)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&reset, "slot-reset", false, "drop the slot, create it anew, and copy every destination from the tables")
	c.Flags().BoolVar(&yes, "yes", false, "with --slot-reset: do not ask, even if the slot is healthy")
	return c
}

func run(ctx context.Context, cfg *config.Config, log *zap.Logger) error {
	log.Info("outflow starts", zap.String("version", version))
	front, err := newFront(ctx, cfg, log)
	if err != nil {
		return err
	}
	return front.around(ctx, func(ctx context.Context) error { return runPipelines(ctx, cfg, front, log) })
}

func runPipelines(ctx context.Context, cfg *config.Config, front *front, log *zap.Logger) error {
	for {
		pl, err := openWhenReachable(ctx, cfg, front, log)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // a wanted stop is not an error
			}
			return err
		}
		front.attach(pl)
		err = pl.run(ctx)
		front.detach(err)
		if errors.Is(err, replication.ErrMoved) && ctx.Err() == nil {
			log.Info("another process had the slot meanwhile; starting over from what the primary has noted")
			continue
		}
		log.Info("outflow ends", zap.Stringer("flush_lsn", pl.acks.Flush()), zap.Int("outstanding", pl.acks.Outstanding()))
		return err
	}
}

// openWhenReachable waits for a primary that does not answer yet. What a person must change is an error at once.
func openWhenReachable(ctx context.Context, cfg *config.Config, front *front, log *zap.Logger) (*pipeline, error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 200*time.Millisecond, 10*time.Second
	for {
		pl, err := openPipeline(ctx, cfg, log)
		if err == nil || ctx.Err() != nil || !unreachable(err) {
			return pl, err
		}
		front.detach(err)
		wait := pause.NextBackOff()
		log.Warn("the primary cannot be reached", zap.Error(err), zap.Duration("next_try", wait))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// unreachable tells a primary that is down, starting up or full from one that refuses.
func unreachable(err error) bool {
	if problem, usage := (*replication.Problem)(nil), (usageError{}); errors.As(err, &problem) || errors.As(err, &usage) {
		return false
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code[:2] == "57" || pgErr.Code == "53300"
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect)
}
