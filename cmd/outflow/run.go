package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
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
SIGHUP: it reads the configuration again, mappings and secrets in files with it, and goes on with that; one that has a fault is
refused, and the old one goes on; one that comes while the primary cannot be reached is tried until the primary answers.

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
			return run(c.Context(), cfg, s.load, log)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&reset, "slot-reset", false, "drop the slot, create it anew, and copy every destination from the tables")
	c.Flags().BoolVar(&yes, "yes", false, "with --slot-reset: do not ask, even if the slot is healthy")
	return c
}

func run(ctx context.Context, cfg *config.Config, load func() (*config.Config, error), log *zap.Logger) error {
	log.Info("outflow starts", zap.String("version", version))
	tuneMemory(cfg)
	r := newReloading(cfg, load, log)
	provider, err := tracing(ctx, cfg.Tracing, log)
	if err != nil {
		return err
	}
	if provider != nil {
		r.tracer = provider.Tracer("outflow")
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesPatience)
			defer cancel()
			_ = provider.Shutdown(ctx) // losses are logged
		}()
	}
	front, err := newFront(ctx, r.current, log)
	if err != nil {
		return err
	}
	return front.around(ctx, func(ctx context.Context) error { return r.run(ctx, front) })
}

// tuneMemory lets the heap grow to five times the live heap before a collection, which takes half of the garbage collector's
// work off a busy process, as long as the total is below a limit. GOGC and GOMEMLIMIT have precedence.
func tuneMemory(cfg *config.Config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 * int64(cfg.Sink.MemoryBytes))
	}
}

// openWhenReachable waits for a primary that does not answer yet. A fault for a person to correct is an error at once.
func openWhenReachable(ctx context.Context, cfg *config.Config, gap string, front *front, log *zap.Logger) (*pipeline, error) {
	pause := primaryPause()
	for {
		pl, err := reopenPipeline(ctx, cfg, gap, log)
		if err == nil || ctx.Err() != nil || !unreachable(err) {
			return pl, err
		}
		front.detach(err)
		wait := pause.NextBackOff()
		log.Warn("the primary cannot be reached", zap.Error(err), zap.Duration("next_try_ms", wait))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// primaryPause is the pause between two tries at a primary that does not answer.
func primaryPause() *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 200*time.Millisecond, 10*time.Second
	return pause
}

// unreachable tells a primary that is down, starting up, full, silent or lost in the middle of an answer from a refusing primary.
func unreachable(err error) bool {
	if silent := (*silentPrimary)(nil); errors.As(err, &silent) {
		return true
	}
	if problem := (*replication.Problem)(nil); errors.As(err, &problem) || config.IsFault(err) {
		return false
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code[:2] == "57" || pgErr.Code == "53300"
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.Timeout(err)
}
