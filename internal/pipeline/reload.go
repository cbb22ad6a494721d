package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/sink"
)

// reloading runs one pipeline after the other: another one when the configuration was read again.
type reloading struct {
	load   func() (*config.Config, error)
	log    *zap.Logger
	tracer trace.Tracer // nil: none

	pause *backoff.ExponentialBackOff // before the primary is asked again about a configuration
	again <-chan time.Time            // when to ask the primary again, nil: not

	mu      sync.Mutex
	cfg     *config.Config
	refused error // of the newest configuration, nil where the configuration was taken
}

func newReloading(cfg *config.Config, load func() (*config.Config, error), log *zap.Logger) *reloading {
	return &reloading{cfg: cfg, load: load, log: log, pause: primaryPause()}
}

// current is the configuration in effect.
func (r *reloading) current() *config.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cfg
}

func (r *reloading) run(ctx context.Context, front *Front) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var before *config.Config // the configuration that took effect last, while cfg has not
	gap := ""                 // why every destination is to be copied again
	for {
		pl, err := openWhenReachable(ctx, r.cfg, gap, front, r.log, func(parts *sink.Config) { parts.Tracer = r.tracer })
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // a wanted stop is not an error
		case err != nil && before != nil: // the configuration was in order a moment ago
			r.take(before)
			r.refuse(err)
			before = nil
			continue
		case err != nil:
			return r.stopped(ctx, err, 0)
		}
		before, gap = nil, ""
		front.Attach(pl, r.fault)
		next, err := r.until(ctx, pl, hangup)
		front.detach(err)
		moved := (errors.Is(err, replication.ErrMoved) || errors.Is(err, primary.ErrFenced)) && ctx.Err() == nil
		if moved {
			r.log.Info("another process has, or had, the slot; starting over from the notes on the primary", zap.Error(err))
		}
		if found := (*primary.Gap)(nil); errors.As(err, &found) && ctx.Err() == nil {
			r.log.Warn("changes on the primary are missing in the stream; starting over", zap.String("reason", found.Reason))
			if moved = true; found.Unseen {
				gap = found.Reason
			}
		}
		switch {
		case next != nil && (err == nil || moved):
			r.log.Info("going on with the new configuration")
			before = r.cfg
			r.take(next)
		case !moved:
			r.log.Info("outflow ends", zap.Stringer("flush_lsn", pl.Acks.Flush()), zap.Int("outstanding", pl.Acks.Outstanding()))
			return r.stopped(ctx, err, pl.Ledger.OwnReading())
		}
	}
}

// stopped notes on the primary why reading has ended, where a condition that Outflow relies on does not hold. reading is the number of the
// reading that has ended, 0 where none had begun.
func (r *reloading) stopped(ctx context.Context, err error, reading int64) error {
	if !primary.Relied(err) {
		return err
	}
	server, fault := Primary(r.cfg)
	if fault == nil {
		fault = primary.Slot{Server: server, Name: r.cfg.Source.Slot}.Stop(context.WithoutCancel(ctx), err, reading)
	}
	if fault != nil && !errors.Is(fault, primary.ErrFenced) {
		r.log.Warn("the reason why reading has ended could not be noted on the primary", zap.Error(fault))
	}
	return err
}

// until runs the pipeline until the pipeline ends, or until there is another configuration to go on with.
func (r *reloading) until(ctx context.Context, pl *Pipeline, hangup <-chan os.Signal) (next *config.Config, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- pl.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			return nil, err
		case <-hangup:
			r.pause.Reset()
		case <-r.again:
		}
		if cfg := r.next(ctx); cfg != nil {
			cancel()
			return cfg, <-ended
		}
	}
}

// next is the configuration to go on with, nil where the old one stays. A primary that cannot be reached says nothing about the
// configuration: the primary is asked again.
func (r *reloading) next(ctx context.Context) *config.Config {
	r.again = nil
	cfg, err := r.read(ctx)
	switch {
	case err == nil:
		return cfg
	case ctx.Err() != nil: // the process ends
		return nil
	case Unreachable(err):
		wait := r.pause.NextBackOff()
		r.again = time.After(wait)
		r.note(fmt.Errorf("the new configuration waits for the primary: %w", err))
		r.log.Warn("the new configuration waits for the primary; the old configuration stays in effect", zap.Error(err), zap.Duration("next_try_ms", wait))
	default:
		r.refuse(err)
	}
	return nil
}

// read reads the configuration again and tries whether a pipeline can be made of it. read changes nothing on the primary.
func (r *reloading) read(ctx context.Context) (*config.Config, error) {
	cfg, err := r.load()
	if err != nil {
		return nil, err
	}
	if cfg.Source.Slot != r.cfg.Source.Slot {
		r.log.Warn("source.slot has changed; requests of the status API go to the old slot until the process restarts")
	}
	if !reflect.DeepEqual(cfg.Admin, r.cfg.Admin) || cfg.Tracing != r.cfg.Tracing || cfg.Log != r.cfg.Log {
		r.log.Warn("admin:, tracing: or log: has changed; the change takes effect when the process restarts")
	}
	_, conn, o, err := prepare(ctx, cfg, r.log)
	if err != nil {
		return nil, err
	}
	defer primary.HangUp(conn)
	_, err = o.directory.read(ctx, conn)
	return cfg, err
}

func (r *reloading) take(cfg *config.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cfg = cfg; r.refused != nil {
		r.refused = nil
	}
}

func (r *reloading) refuse(err error) {
	r.log.Error("the new configuration is refused; the old configuration stays in effect", zap.Error(err))
	r.note(err)
}

func (r *reloading) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = err
}

// fault is the reason why the newest configuration is not in effect.
func (r *reloading) fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil {
		return nil
	}
	return fmt.Errorf("the configuration is unchanged: %w", r.refused)
}
