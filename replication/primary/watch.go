package primary

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// watchEvery is how often the slot and the publication are looked at.
const watchEvery = 5 * time.Second

// Watcher looks at the slot and the publication now and then. Set the fields, then call Run once.
type Watcher struct {
	Setup     Setup
	Source    Source       // as returned by Ensure
	Reading   func() int64 // the process' newest reading of the slot, which fences notes: see [ErrFenced]
	Streaming func() bool  // whether the process reads the slot: a standby judges nothing
	Log       *zap.Logger

	last atomic.Pointer[SlotStatus]
}

// Last is the status of the slot at the last look; nil before the first. Safe for concurrent use.
func (w *Watcher) Last() *SlotStatus { return w.last.Load() }

// Run looks until ctx is done. Run ends with a [*Problem] where a condition of Outflow does not hold, and a person must act; with a [*Gap] where
// something differs from the findings of Ensure, and opening the pipeline again heals the difference; and with [ErrFenced]. A slot about to
// lose WAL is logged, with the bytes left.
func (w *Watcher) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := w.look(ctx); isProblem(err) || isGap(err) || errors.Is(err, ErrFenced) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func isProblem(err error) bool {
	problem := (*Problem)(nil)
	return errors.As(err, &problem)
}

func isGap(err error) bool {
	gap := (*Gap)(nil)
	return errors.As(err, &gap)
}

// look notes the slot's status. An error other than a Problem or a Gap means an absent primary, which the reader reports.
func (w *Watcher) look(ctx context.Context) error {
	var now SlotStatus
	err := w.Setup.Slot.Server.connected(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		if w.Streaming() {
			if err := w.judge(ctx, conn); err != nil {
				return err
			}
		}
		now, err = w.Setup.Slot.Status(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	before := w.last.Swap(&now)
	if now.WALStatus != "reserved" && now.WALStatus != "extended" && (before == nil || before.WALStatus != now.WALStatus) {
		w.Log.Error("the primary may remove WAL that the slot needs: raise max_slot_wal_keep_size, or find the destination that holds the slot back",
			zap.String("wal_status", now.WALStatus), zap.Int64("retained_bytes", now.RetainedBytes), zap.Int64p("safe_wal_bytes", now.SafeBytes))
	}
	return nil
}

// judge looks at the conditions Outflow relies on.
func (w *Watcher) judge(ctx context.Context, conn *pgx.Conn) error {
	since, err := w.Setup.watchRelied(ctx, conn, w.Source.relied, w.Reading())
	if err != nil {
		return err
	}
	if len(since.reasons) > 0 {
		w.Log.Warn("changes on the primary are missing in the stream; destinations are copied again", zap.Stringer("reason", &since))
	}
	return nil
}
