package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// Watch looks at the slot and the publication until ctx is done. A table that is taken out of the publication is an error: the
// server skips its rows and says nothing. WAL that the slot is about to lose is logged, with what is left.
func (s Setup) Watch(ctx context.Context, log *zap.Logger) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	walStatus := "reserved"
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := s.look(ctx)
		if problem := (*Problem)(nil); errors.As(err, &problem) {
			return err
		}
		if err != nil {
			continue // the reader says that the primary is away
		}
		if now.walStatus != walStatus && !slices.Contains([]string{"", "reserved", "extended"}, now.walStatus) {
			log.Error("the primary may remove WAL that the slot needs: raise max_slot_wal_keep_size, or see which destination holds it back",
				zap.String("wal_status", now.walStatus), zap.Int64("retained_bytes", now.retained), zap.Int64p("safe_wal_bytes", now.safe))
		}
		walStatus = now.walStatus
	}
}

// slotState is what pg_replication_slots says.
type slotState struct {
	walStatus string
	retained  int64
	safe      *int64 // nil: no limit
}

func (s Setup) look(ctx context.Context) (slotState, error) {
	ctx, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	var now slotState
	conn, err := s.Primary.Connect(ctx)
	if err != nil {
		return now, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	missing, err := s.unpublished(ctx, conn)
	if err != nil {
		return now, err
	}
	if len(missing) > 0 {
		return now, &Problem{What: fmt.Sprintf("publication %q does not publish %s any more, so its changes are skipped", s.Publication, strings.Join(missing, ", ")),
			Remedy: "start outflow again: it puts the table back and copies every destination anew"}
	}
	err = conn.QueryRow(ctx, `SELECT coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size
		FROM pg_replication_slots WHERE slot_name = $1`, s.Slot).Scan(&now.walStatus, &now.retained, &now.safe)
	return now, err
}
