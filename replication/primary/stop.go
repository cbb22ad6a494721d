package primary

import (
	"context"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgerror"
)

// NotConfigured is the reason noted of a destination no longer in the configuration; a returning destination is copied again whatever
// happened meanwhile. The text is compared with notes of older versions, so it never changes.
const NotConfigured = "it is not in the configuration"

// Ended begins the reason noted of every destination by [Slot.Stop].
const Ended = "reading has ended: "

// Stop notes the end of the reading because a condition of Outflow does not hold: every destination is copied again as soon as the
// condition holds. Nothing is written where nothing ever ran, where the cause is noted already, or where another process reads the slot.
// reading is the caller's newest reading of the slot, 0 where the caller had none.
func (s Slot) Stop(ctx context.Context, cause error, reading int64) error {
	reason := Ended + cause.Error()
	return s.Server.connected(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var noted bool
			err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM outflow.destination_state WHERE slot = $1 AND reason <> $3 AND (state <> 'backfilling' OR reason <> $2))`,
				s.Name, reason, NotConfigured).Scan(&noted)
			if pgerror.SQLState(err) == pgerror.UndefinedTable || err == nil && noted {
				return nil
			}
			if err == nil {
				err = s.unread(ctx, tx, reading)
			}
			if err == nil {
				err = raiseAll(ctx, tx, s.Name, reason)
			}
			if err == nil {
				_, err = tx.Exec(ctx, `UPDATE outflow.source SET covered_lsn = pg_current_wal_insert_lsn() WHERE slot = $1`, s.Name)
			}
			return err
		})
	})
}

// unread fails with [ErrFenced] where another process reads the slot.
func (s Slot) unread(ctx context.Context, tx pgx.Tx, reading int64) error {
	if reading != 0 {
		return s.source().fence(ctx, tx, reading)
	}
	active, err := s.active(ctx, tx)
	if err == nil && active {
		err = ErrFenced
	}
	return err
}
