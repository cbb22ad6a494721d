package pipeline

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/sink"
)

// Options are the needs of [Run] beside the configuration; none may be nil.
type Options struct {
	Version string                         // of the program, for the log, the status API and traces
	Load    func() (*config.Config, error) // reads the configuration again, after SIGHUP
	Log     *zap.Logger
}

// Run is the whole of outflow run: the status API, and a pipeline that is opened again with each new configuration, after a gap in the stream,
// and when another process has had the slot. Run returns when ctx is done, without an error, or when a fault needs a person.
func Run(ctx context.Context, cfg *config.Config, o Options) error {
	o.Log.Info("outflow starts", zap.String("version", o.Version))
	TuneMemory(cfg)
	r := newReloading(cfg, o.Load, o.Log)
	provider, err := tracing(ctx, cfg.Tracing, o.Version, o.Log)
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
	front, err := NewFront(ctx, r.current, o.Version, o.Log)
	if err != nil {
		return err
	}
	return front.around(ctx, func(ctx context.Context) error { return r.run(ctx, front) })
}

// TuneMemory lets the heap grow to five times the live heap before a collection, which takes half of the garbage collector's
// work off a busy process, as long as the total is below a limit. GOGC and GOMEMLIMIT have precedence.
func TuneMemory(cfg *config.Config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 * int64(cfg.Sink.MemoryBytes))
	}
}

// openWhenReachable waits for a primary that does not answer yet. A fault for a person to correct is an error at once.
func openWhenReachable(ctx context.Context, cfg *config.Config, gap string, front *Front, log *zap.Logger, change func(*sink.Config)) (*Pipeline, error) {
	pause := primaryPause()
	for {
		pl, err := reopen(ctx, cfg, gap, log, change)
		if err == nil || ctx.Err() != nil || !Unreachable(err) {
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
