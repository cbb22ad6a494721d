package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/internal/pgerror"
)

// RaiseEpoch gives a destination its next epoch, with the note's state, reason and Detached: the external database is copied again. The epoch is
// durable when RaiseEpoch returns. An epoch is a time in microseconds, so that a primary restored from a backup does not give the same epoch
// again; the epoch is above the note's, also where the primary has no note yet and its clock is behind. No text of the note keeps the epoch from being raised: see raiseAnyhow. RaiseEpoch fails with [primary.ErrFenced] where another
// process reads the slot.
func (s *Store) RaiseEpoch(ctx context.Context, d Note) (epoch int64, err error) {
	if err := failpoint.Fail(failpoint.BeforeRaise); err != nil {
		return 0, err
	}
	epoch, err = s.raiseRow(ctx, d)
	if refusesData(err) {
		epoch, err = s.raiseAnyhow(ctx, d, err)
	}
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return epoch, failpoint.Fail(failpoint.Raised)
}

func (s *Store) raiseRow(ctx context.Context, d Note) (epoch int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return s.fencedBy(conn.QueryRow(ctx, `WITH `+fenceSQL+`
			INSERT INTO outflow.destination_state AS s (slot, tenant_id, name, epoch, taken_epoch, state, reason, detached)
			SELECT $1, $3, $4, now.epoch, now.epoch, $5, $6, $7 FROM fence, (SELECT greatest($8::bigint + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS epoch) AS now
			ON CONFLICT (slot, tenant_id, name) DO UPDATE SET epoch = greatest(s.epoch + 1, excluded.epoch), taken_epoch = greatest(s.epoch + 1, excluded.epoch), state = excluded.state, reason = excluded.reason,
				detached = excluded.detached, since = `+sinceSQL+`, updated_at = now()
			RETURNING epoch`, s.Slot, s.newest.reading, d.Tenant, d.Name, d.State, fitted(conn, d.Reason, fit.Reason), d.Detached, d.Epoch).Scan(&epoch))
	})
	return epoch, err
}

// raiseAnyhow is RaiseEpoch where the primary refuses the note: with a plain reason, and else by deleting the note, since a destination without a
// note is copied as well. A primary whose encoding lacks the name has no note of the destination.
func (s *Store) raiseAnyhow(ctx context.Context, d Note, refusal error) (epoch int64, err error) {
	d.Reason = "the primary refuses the note of this destination: SQLSTATE " + pgerror.SQLState(refusal)
	if epoch, err = s.raiseRow(ctx, d); !refusesData(err) {
		return epoch, err
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return s.fencedBy(conn.QueryRow(ctx, `WITH `+fenceSQL+`, gone AS (DELETE FROM outflow.destination_state USING fence
				WHERE slot = $1 AND tenant_id = $3 AND name = $4 RETURNING epoch)
			SELECT greatest(coalesce((SELECT epoch FROM gone), 0) + 1, $5::bigint + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) FROM fence`,
			s.Slot, s.newest.reading, d.Tenant, d.Name, d.Epoch).Scan(&epoch))
	})
	if isUnwritable(pgerror.SQLState(err)) {
		return max(d.Epoch+1, time.Now().UnixMicro()), nil
	}
	return epoch, err
}
