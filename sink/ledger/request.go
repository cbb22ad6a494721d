package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/internal/fit"
	"outflow/replication/primary"
)

// Request is what a person asks of the process that reads the slot. The request travels by way of outflow.destination_state, so a person
// can ask on any machine. A request counts as new until the process notes that the request is carried out: an epoch above
// taken_epoch, retries above retried. Times do not matter: a request may wait for a lock for long, and a clock may be put back.
type Request struct {
	Note    Note
	Retries int64  // how many tries were asked for so far
	By      string // the asking person
	Why     string
	Until   int64 // the destination is to say when it has every change up to this sequence id; -1: not asked
}

// requestsSQL finds the requests that are not carried out yet.
const requestsSQL = `SELECT ` + readColumns + `, retries, asked_by, asked_why, CASE WHEN sync_asked > coalesce(sync_reached, -1) THEN sync_asked ELSE -1 END
	FROM outflow.destination_state
	WHERE slot = $1 AND (epoch > taken_epoch OR retries > retried OR sync_asked > coalesce(sync_reached, -1))`

// Requests are the requests that are not noted as carried out, of destinations in the configuration or not.
func (s *Store) Requests(ctx context.Context) (open []Request, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, requestsSQL, s.Slot)
		if err != nil {
			return err
		}
		open, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Request, err error) {
			err = row.Scan(append(r.Note.columns(), &r.Retries, &r.By, &r.Why, &r.Until)...)
			return r, err
		})
		return err
	})
	return open, err
}

// RequestResync asks the process that reads the slot, or the next such process, to copy destinations again: all of a slot, of a tenant
// (name ""), or one. Destinations no longer in the configuration are copied again anyway should they return. RequestResync returns the
// number of destinations.
func (s *Store) RequestResync(ctx context.Context, tenant, name, by, why string) (n int64, err error) {
	reason := "a resync was requested by " + by
	if why != "" {
		reason += ": " + why
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `UPDATE outflow.destination_state
			SET epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), resync_at = clock_timestamp(), asked_by = $6, asked_why = $7,
			since = CASE WHEN state = 'backfilling' THEN since ELSE now() END, state = 'backfilling', detached = false,
			reason = $4, copied_rows = NULL, copy_total = NULL, updated_at = now()
			WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3) AND reason <> $5`,
			s.Slot, tenant, name, fitted(conn, reason, fit.Reason), primary.NotConfigured, fitted(conn, by, fit.Name), fitted(conn, why, fit.Reason))
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return n, nil
}

// RequestRetry asks the process that reads the slot to try destinations now that wait after a failure: all of a slot, of a tenant (name
// ""), or one. A working destination is not disturbed. RequestRetry returns the number of asked destinations.
func (s *Store) RequestRetry(ctx context.Context, tenant, name, by, why string) (n int64, err error) {
	return s.requestRetry(ctx, "", tenant, name, by, why)
}

// RequestRetryHalted is RequestRetry of the destinations that need a person, and of no other destination.
func (s *Store) RequestRetryHalted(ctx context.Context, tenant, name, by, why string) (n int64, err error) {
	return s.requestRetry(ctx, Halted, tenant, name, by, why)
}

// requestRetry asks destinations in the state; "" is any state.
func (s *Store) requestRetry(ctx context.Context, state State, tenant, name, by, why string) (n int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `UPDATE outflow.destination_state SET retries = retries + 1, retry_at = clock_timestamp(), asked_by = $6, asked_why = $7
			WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3) AND reason <> $4 AND ($5 = '' OR state = $5)`,
			s.Slot, tenant, name, primary.NotConfigured, string(state), fitted(conn, by, fit.Name), fitted(conn, why, fit.Reason))
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return n, nil
}
