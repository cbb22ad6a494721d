package sink

import (
	"cmp"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/replication"
)

// A request is a person's word to the process with the slot. The request travels by way of outflow.destination_state, so a person
// can make the request anywhere. A request counts as new until the process notes that the request is carried out: an epoch above
// taken_epoch, retries above retried. Times do not matter: a request may wait for a lock for long, and a clock may be put back.
type request struct {
	destinationState
	retries int64  // how many tries were asked for so far
	by      string // the asking person
	why     string
	until   int64 // the destination is to say when it has every change up to this sequence id; -1: not asked
}

// requestsSQL finds the requests that are not carried out.
const requestsSQL = `SELECT ` + readColumns + `, retries, asked_by, asked_why, CASE WHEN sync_asked > coalesce(sync_reached, -1) THEN sync_asked ELSE -1 END
	FROM outflow.destination_state
	WHERE slot = $1 AND (epoch > taken_epoch OR retries > retried OR sync_asked > coalesce(sync_reached, -1))`

// requests returns the requests that are not noted as carried out.
func (s *StateStore) requests(ctx context.Context) (open []request, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, requestsSQL, s.Slot)
		if err != nil {
			return err
		}
		open, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r request, err error) {
			err = row.Scan(append(r.destinationState.columns(), &r.retries, &r.by, &r.why, &r.until)...)
			return r, err
		})
		return err
	})
	return open, err
}

// RequestResync asks the process that reads the slot, or the next such process, to copy destinations again: all of a slot, of a tenant
// (name ""), or one. Destinations no longer in the configuration are copied again anyway should they return. RequestResync returns the
// number of destinations.
func (s *StateStore) RequestResync(ctx context.Context, tenant, name, by, why string) (n int64, err error) {
	reason := "a resync was asked for by " + by
	if why != "" {
		reason += ": " + why
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `UPDATE outflow.destination_state
			SET epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), resync_at = clock_timestamp(), asked_by = $6, asked_why = $7,
			since = CASE WHEN state = 'backfilling' THEN since ELSE now() END, state = 'backfilling', detached = false,
			reason = $4, copied_rows = NULL, copy_total = NULL, updated_at = now()
			WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3) AND reason <> $5`,
			s.Slot, tenant, name, fitted(conn, reason, fit.Reason), replication.NotConfigured, fitted(conn, by, fit.Name), fitted(conn, why, fit.Reason))
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return n, nil
}

// RequestRetry asks the process that reads the slot to try destinations now that wait after a failure: all of a slot, of a tenant (name
// ""), or one; with onlyHalted only destinations that need a person. A working destination is not disturbed. RequestRetry returns the
// number of asked destinations.
func (s *StateStore) RequestRetry(ctx context.Context, tenant, name string, onlyHalted bool, by, why string) (n int64, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `UPDATE outflow.destination_state SET retries = retries + 1, retry_at = clock_timestamp(), asked_by = $6, asked_why = $7
			WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3) AND reason <> $4 AND (state = 'halted' OR NOT $5)`,
			s.Slot, tenant, name, replication.NotConfigured, onlyHalted, fitted(conn, by, fit.Name), fitted(conn, why, fit.Reason))
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return n, nil
}

// askSync asks the process that reads the slot to note when the destination has every change up to the sequence id.
func (s *StateStore) askSync(ctx context.Context, tenant, name string, id int64) error {
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `UPDATE outflow.destination_state SET sync_asked = greatest(sync_asked, $4)
			WHERE slot = $1 AND tenant_id = $2 AND name = $3`, s.Slot, tenant, name, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return nil
}

// noteSynced answers askSync.
func (s *StateStore) noteSynced(ctx context.Context, reached []request) error {
	tenants, names, ids := make([]string, len(reached)), make([]string, len(reached)), make([]int64, len(reached))
	for i, r := range reached {
		tenants[i], names[i], ids[i] = r.tenant, r.name, r.until
	}
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var fenced int
		return s.fencedBy(conn.QueryRow(ctx, `WITH `+fenceSQL+`, reached AS (UPDATE outflow.destination_state s SET sync_reached = greatest(s.sync_reached, r.id)
				FROM fence CROSS JOIN unnest($3::text[], $4::text[], $5::bigint[]) AS r (tenant, name, id)
				WHERE s.slot = $1 AND s.tenant_id = r.tenant AND s.name = r.name)
			SELECT 1 FROM fence`, s.Slot, s.mark.reading, tenants, names, ids).Scan(&fenced))
	})
	if err != nil {
		return fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return nil
}

// takeRequests carries out the requests on the primary.
func (r *Router) takeRequests(ctx context.Context) error {
	requests, err := r.State.requests(ctx)
	if err != nil || len(requests) == 0 {
		return err
	}
	failpoint.Hit(failpoint.RequestTaken)
	all := map[[2]string]*Destination{}
	for _, d := range r.Destinations() {
		all[[2]string{d.Tenant, d.Name}] = d
	}
	var reached []request
	for _, q := range requests {
		d := all[[2]string{q.tenant, q.name}]
		if d == nil {
			continue
		}
		d.carryOut(q)
		if q.until >= 0 && d.hasAll(q.until) {
			reached = append(reached, q)
		}
	}
	if len(reached) == 0 {
		return nil
	}
	return r.State.noteSynced(ctx, reached)
}

// carryOut carries out a request unless the destination has done so already. The next checkpoint notes the request as carried out.
func (d *Destination) carryOut(q request) {
	d.mu.Lock()
	if d.parking { // in an epoch of its own
		d.mu.Unlock()
		return
	}
	resync, retry := q.epoch > d.epoch, q.retries > d.retried
	d.retried = max(d.retried, q.retries)
	if resync { // the asking person has seen why the destination was halted
		d.epoch, d.caughtUp = q.epoch, false
		d.status.Copied, d.status.CopyTotal = 0, -1
		d.unhalt()
		d.observe()
	}
	d.mu.Unlock()
	switch {
	case resync:
		d.log.Info("a resync was asked for", zap.String("by", q.by), zap.String("reason", cmp.Or(q.why, q.reason)))
		d.restart()
	case retry:
		d.tryNow(q)
	}
}

// tryNow ends the pause after a failure.
func (d *Destination) tryNow(q request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log.Info("a try was asked for", zap.String("by", q.by), zap.String("reason", q.why), zap.Bool("waits", d.retryAt != nil))
	if d.retryAt != nil && !d.retryAt.Stop() {
		return
	}
	d.retryAt, d.due = nil, true
	d.backoff.reset()
	d.wake()
}

// hasAll reports whether the stream has brought the destination every change up to the sequence id.
func (d *Destination) hasAll(id int64) bool {
	position := d.router.SequenceID(d.router.Reader.Position()) // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if position < id || d.parked || d.gone || len(d.queue.kept) > 0 {
		return false
	}
	return d.queue.has(id)
}
