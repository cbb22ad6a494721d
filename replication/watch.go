package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// unpublished are the tables that were published when this slot was last read and that the publication lacks now: what was
// committed to them meanwhile is not in the stream.
func (s Setup) unpublished(ctx context.Context, conn *pgx.Conn) (missing []string, err error) {
	rows, err := conn.Query(ctx, `SELECT t FROM outflow.source s, unnest(s.published) t WHERE s.slot = $1 AND t NOT IN (
		SELECT n.nspname || '.' || c.relname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $2)`, s.Slot, s.Publication)
	if err == nil {
		missing, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, fmt.Errorf("reading publication %q: %w", s.Publication, err)
	}
	return missing, nil
}

// notePublished remembers what is published from now on. Where a table was missing, everything is copied anew.
func (s Setup) notePublished(ctx context.Context, conn *pgx.Conn, missing []string) error {
	var tables []string
	for _, t := range s.Tables {
		tables = append(tables, t.Relation.String())
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if len(missing) > 0 {
			reason := fmt.Sprintf("publication %q had lost %s", s.Publication, strings.Join(missing, ", "))
			if err := raiseAll(ctx, tx, s.Slot, reason); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE outflow.source SET published = $2 WHERE slot = $1 AND published <> $2`, s.Slot, tables)
		if err != nil {
			return fmt.Errorf("writing outflow.source: %w", err)
		}
		return nil
	})
}

// watchEvery is how often the slot and the publication are looked at.
const watchEvery = 5 * time.Second

// SlotStatus is what pg_replication_slots says of the slot.
type SlotStatus struct {
	Active             bool   // somebody reads it
	WALStatus          string // reserved, extended, unreserved or lost
	InvalidationReason string // "" where there is none, and before Postgres 17
	ConfirmedFlush     LSN
	Restart            LSN
	WALEnd             LSN // of the primary
	RetainedBytes      int64
	SafeBytes          *int64 // that may still be written before the slot is lost; nil: no limit
	At                 time.Time
}

// Watcher looks at the slot and the publication now and then, and writes heartbeats. Set the fields, then call Run once.
type Watcher struct {
	Setup     Setup
	Heartbeat *Heartbeat    // nil: none
	Every     time.Duration // between heartbeats
	Streaming func() bool   // whether this process reads the slot: a standby writes no heartbeats
	Log       *zap.Logger

	last atomic.Pointer[SlotStatus]
}

// Last is what the slot was like at the last look; nil before the first. Safe for concurrent use.
func (w *Watcher) Last() *SlotStatus { return w.last.Load() }

// Run looks until ctx is done. A table that is taken out of the publication is an error: the server skips its rows and says
// nothing. WAL that the slot is about to lose is logged, with what is left.
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
		if err := w.look(ctx); isProblem(err) {
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

// beat writes a heartbeat. It returns false where this role may not.
func (w *Watcher) beat(ctx context.Context) bool {
	err := w.Setup.connected(ctx, func(ctx context.Context, conn *pgx.Conn) error { return w.Heartbeat.emit(ctx, conn) })
	if sqlstate(err) == insufficientRights {
		w.Log.Warn("no heartbeats: the role may not write logical messages; the way of a commit through the stream is not measured",
			zap.Error(err))
		return false
	}
	return true
}

// look notes what the slot is like. An error that is no Problem is that the primary is away, which the reader tells.
func (w *Watcher) look(ctx context.Context) error {
	now, err := w.Setup.look(ctx)
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

func (s Setup) look(ctx context.Context) (now SlotStatus, err error) {
	err = s.connected(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		missing, err := s.unpublished(ctx, conn)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return &Problem{What: fmt.Sprintf("publication %q does not publish %s any more, so its changes are skipped", s.Publication, strings.Join(missing, ", ")),
				Remedy: "start outflow again: it puts the table back and copies every destination anew"}
		}
		now, err = s.slotStatus(ctx, conn)
		return err
	})
	return now, err
}

func (s Setup) slotStatus(ctx context.Context, conn *pgx.Conn) (now SlotStatus, err error) {
	var confirmed, restart, end string
	// invalidation_reason is a column from 17 on; to_jsonb asks for it where it is.
	err = conn.QueryRow(ctx, `SELECT active, coalesce(wal_status, ''), coalesce(to_jsonb(s)->>'invalidation_reason', ''),
		coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text, pg_current_wal_lsn()::text,
		coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size, clock_timestamp()
		FROM pg_replication_slots s WHERE slot_name = $1`, s.Slot).
		Scan(&now.Active, &now.WALStatus, &now.InvalidationReason, &confirmed, &restart, &end, &now.RetainedBytes, &now.SafeBytes, &now.At)
	if err != nil {
		return now, err
	}
	for i, lsn := range []*LSN{&now.ConfirmedFlush, &now.Restart, &now.WALEnd} {
		if *lsn, err = ParseLSN([]string{confirmed, restart, end}[i]); err != nil {
			return now, err
		}
	}
	return now, nil
}
