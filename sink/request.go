package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/replication"
)

// A request is a person's word to the process which reads the slot. The request travels by way of outflow.destination_state, so a person
// can make the request anywhere.
type request struct {
	destinationState
	resync bool   // copy the destination again; the epoch is raised already
	retry  bool   // try now
	by     string // the asking person
	why    string
	until  int64 // the destination is to say when it has every change up to this sequence id; -1: not asked

	at time.Time
}

// requestOverlap is how far back requests are looked at again: the time of a request is given before the commit.
const requestOverlap = 10 * time.Second

// requestsSQL finds the requests after $2.
const requestsSQL = `SELECT ` + readColumns + `, coalesce(resync_at > $2, false), coalesce(retry_at > $2, false), asked_by, asked_why,
		CASE WHEN sync_asked > coalesce(sync_reached, -1) THEN sync_asked ELSE -1 END, coalesce(greatest(resync_at, retry_at), 'epoch')
	FROM outflow.destination_state
	WHERE slot = $1 AND (resync_at > $2 OR retry_at > $2 OR sync_asked > coalesce(sync_reached, -1))`

// requests returns the requests since the last call.
func (s *StateStore) requests(ctx context.Context) (fresh []request, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		all, err := s.readRequests(ctx, conn)
		for _, r := range all {
			key := [2]string{r.tenant, r.name}
			if known := s.seen[key]; !r.at.After(known) {
				r.resync, r.retry = false, false
			}
			if r.resync || r.retry || r.until >= 0 {
				fresh = append(fresh, r)
			}
			s.see(r)
		}
		return err
	})
	return fresh, err
}

// skipRequests counts all requests so far as seen.
func (s *StateStore) skipRequests(ctx context.Context, conn *pgx.Conn) error {
	s.seen = map[[2]string]time.Time{}
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(greatest(resync_at, retry_at)), 'epoch')
		FROM outflow.destination_state WHERE slot = $1`, s.Slot).Scan(&s.polled); err != nil {
		return err
	}
	all, err := s.readRequests(ctx, conn)
	for _, r := range all {
		s.see(r)
	}
	return err
}

func (s *StateStore) readRequests(ctx context.Context, conn *pgx.Conn) ([]request, error) {
	rows, err := conn.Query(ctx, requestsSQL, s.Slot, s.polled.Add(-requestOverlap))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r request, err error) {
		err = row.Scan(append(r.destinationState.columns(), &r.resync, &r.retry, &r.by, &r.why, &r.until, &r.at)...)
		return r, err
	})
}

func (s *StateStore) see(r request) {
	s.seen[[2]string{r.tenant, r.name}] = r.at
	if r.at.After(s.polled) {
		s.polled = r.at
	}
}

// RequestResync asks the process that reads the slot, or the next such process, to copy destinations again: all of a slot, of a tenant
// (name ""), or one. Destinations no longer in the configuration are copied again anyway should they return. RequestResync returns the
// number of destinations.
func (s *StateStore) RequestResync(ctx context.Context, tenant, name, by, why string) (n int64, err error) {
	by, why = fit.Text(by, fit.Name), fit.Text(why, fit.Reason)
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
			s.Slot, tenant, name, fit.Text(reason, fit.Reason), replication.NotConfigured, by, why)
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
		tag, err := conn.Exec(ctx, `UPDATE outflow.destination_state SET retry_at = clock_timestamp(), asked_by = $6, asked_why = $7
			WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3) AND reason <> $4 AND (state = 'halted' OR NOT $5)`,
			s.Slot, tenant, name, replication.NotConfigured, onlyHalted, fit.Text(by, fit.Name), fit.Text(why, fit.Reason))
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
		_, err := conn.Exec(ctx, `UPDATE outflow.destination_state s SET sync_reached = greatest(s.sync_reached, r.id)
			FROM unnest($2::text[], $3::text[], $4::bigint[]) AS r (tenant, name, id)
			WHERE s.slot = $1 AND s.tenant_id = r.tenant AND s.name = r.name`, s.Slot, tenants, names, ids)
		return err
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
		if q.resync {
			d.resync(q)
		}
		if q.retry {
			d.tryNow(q)
		}
		if q.until >= 0 && d.hasAll(q.until) {
			reached = append(reached, q)
		}
	}
	if len(reached) == 0 {
		return nil
	}
	return r.State.noteSynced(ctx, reached)
}

// resync has the destination copied again, in the epoch of the request. The asking person has seen why the destination was halted.
func (d *Destination) resync(q request) {
	d.mu.Lock()
	d.epoch, d.caughtUp = max(d.epoch, q.epoch), false
	d.status.Copied, d.status.CopyTotal = 0, -1
	d.unhalt()
	d.observe()
	d.mu.Unlock()
	d.log.Info("a resync was asked for", zap.String("by", q.by), zap.String("reason", q.why))
	d.restart()
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
	d.backoff.Reset()
	d.wake()
}

// hasAll reports whether the stream has brought the destination every change up to the sequence id.
func (d *Destination) hasAll(id int64) bool {
	position := d.router.SequenceID(d.router.Reader.Position()) // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if position < id || d.parked || d.gone || len(d.kept) > 0 {
		return false
	}
	return d.applied == len(d.queue) || d.queue[d.applied].id > id
}
