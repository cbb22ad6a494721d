package replication

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/replication/wal"
)

// watchEvery is how often the slot and the publication are looked at.
const watchEvery = 5 * time.Second

// SlotStatus is the row of pg_replication_slots about the slot.
type SlotStatus struct {
	Active             bool   // a process reads the slot
	WALStatus          string // reserved, extended, unreserved or lost
	InvalidationReason string // "" where there is none, and before Postgres 17
	ConfirmedFlush     wal.LSN
	Restart            wal.LSN
	WALEnd             wal.LSN // of the primary
	RetainedBytes      int64
	SafeBytes          *int64 // of WAL allowed before the slot is lost; nil: no limit
	At                 time.Time
}

// Watcher looks at the slot and the publication now and then, and writes heartbeats. Set the fields, then call Run once.
type Watcher struct {
	Setup     Setup
	Source    Source        // as returned by Ensure
	Heartbeat *Heartbeat    // nil: none
	Every     time.Duration // between heartbeats
	Reading   func() int64  // the process' newest reading of the slot, which fences notes: see [ErrFenced]
	Streaming func() bool   // whether the process reads the slot: a standby writes no heartbeats, and judges nothing
	Log       *zap.Logger

	last atomic.Pointer[SlotStatus]
}

// Last is the status of the slot at the last look; nil before the first. Safe for concurrent use.
func (w *Watcher) Last() *SlotStatus { return w.last.Load() }

// Run looks until ctx is done. Run ends with a [*Problem] where a condition of Outflow does not hold, and a person must act, and with a
// [*Gap] where something differs from the findings of Ensure, and opening the pipeline again heals the difference, and with [ErrFenced]. A slot about to lose WAL
// is logged, with the bytes left.
func (w *Watcher) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var beat <-chan time.Time // nil: never
	if w.Heartbeat != nil {
		ticker := time.NewTicker(w.Every)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		if err := w.look(ctx); isProblem(err) || isGap(err) || errors.Is(err, ErrFenced) {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				waiting = false
			case <-beat:
				if w.Streaming() && !w.beat(ctx) {
					beat = nil
				}
			}
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

// beat writes a heartbeat. beat returns false where the role may not.
func (w *Watcher) beat(ctx context.Context) bool {
	err := w.Setup.connected(ctx, func(ctx context.Context, conn *pgx.Conn) error { return w.Heartbeat.emit(ctx, conn) })
	if sqlstate(err) == insufficientRights {
		w.Log.Warn("no heartbeats: the role may not write logical messages; the way of a commit through the stream is not measured",
			zap.Error(err))
		return false
	}
	return true
}

// look notes the slot's status. An error other than a Problem or a Gap means an absent primary, which the reader reports.
func (w *Watcher) look(ctx context.Context) error {
	var now SlotStatus
	err := w.Setup.connected(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		if w.Streaming() {
			if err := w.judge(ctx, conn); err != nil {
				return err
			}
		}
		now, err = w.Setup.slotStatus(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	before := w.last.Swap(&now)
	if now.WALStatus != "reserved" && now.WALStatus != "extended" && (before == nil || before.WALStatus != now.WALStatus) {
		w.Log.Error("the primary may remove WAL that the slot needs: raise max_slot_wal_keep_size, or see which destination holds it back",
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
		w.Log.Warn("the stream does not show all that happened on the primary; destinations are copied again", zap.Stringer("reason", &since))
	}
	return nil
}

// connected runs f on a connection of its own.
func (s Setup) connected(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	conn, err := s.Primary.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(ctx, conn)
}

func (s Setup) slotStatus(ctx context.Context, conn *pgx.Conn) (now SlotStatus, err error) {
	var confirmed, restart, end string
	// invalidation_reason is a column from 17 on; to_jsonb asks for the column where the column exists.
	err = conn.QueryRow(ctx, `SELECT active, coalesce(wal_status, ''), coalesce(to_jsonb(s)->>'invalidation_reason', ''),
		coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text, pg_current_wal_lsn()::text,
		coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size, clock_timestamp()
		FROM pg_replication_slots s WHERE slot_name = $1`, s.Slot).
		Scan(&now.Active, &now.WALStatus, &now.InvalidationReason, &confirmed, &restart, &end, &now.RetainedBytes, &now.SafeBytes, &now.At)
	if err != nil {
		return now, err
	}
	for i, lsn := range []*wal.LSN{&now.ConfirmedFlush, &now.Restart, &now.WALEnd} {
		if *lsn, err = wal.ParseLSN([]string{confirmed, restart, end}[i]); err != nil {
			return now, err
		}
	}
	return now, nil
}
