package sink

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// A batch commits with synchronous_commit off: the answer comes without waiting for the external server's disk. The batch's
// transactions stay in the queue, and their tickets held, until the server reports its WAL flushed beyond the transactions. If
// the server crashes before, rows and metadata go back together, and the same transactions are taken from the queue again.

const (
	// flushPause is how often an idle destination asks whether its last commits are flushed. The server's WAL writer needs at
	// most three of its rounds, 200 ms each by default (the Postgres manual, "Asynchronous Commit").
	flushPause = 100 * time.Millisecond
	// flushPatience is how long a destination waits for the server to report the flush; then a commit that waits for the disk
	// forces the flush. A server whose WAL writer does not run, or only claims not to have flushed, must not hold the slot.
	flushPatience = 5 * time.Second
)

// A server may refuse the role the positions in the WAL, or may lack the functions (a service without a WAL of the usual kind). Every batch there waits for the disk.
const (
	positionsSQL   = `pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn()`
	noPositionsSQL = `NULL, NULL`
)

// findPositions learns whether the server gives the positions in its WAL.
func (s *session) findPositions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.router.Options.ConnectTimeout)
	defer cancel()
	_, err := s.askRow(ctx, 2, `SELECT `+positionsSQL)
	if s.positions = err == nil; asPgError(err) == nil {
		return err
	}
	s.d.log.Info("the external server does not give the positions in its WAL: every batch waits for the disk", zap.Error(err))
	return nil
}

// settings is the statement that sets up a transaction.
func (s *session) settings() string {
	if s.positions {
		return s.d.router.settings
	}
	return s.d.router.settingsAlone
}

// unpositioned turns the server's refusal of a statement that asks for positions into a reason to connect again: the right to ask was revoked
// since.
func (s *session) unpositioned(err error) error {
	if asPgError(err) != nil && s.positions && newError(err).verdict == needsHuman {
		return &Error{verdict: retry, SQLState: sqlstate(err), Err: fmt.Errorf("asking for the positions in the WAL: %w", err)}
	}
	return err
}

// mayLag decides whether a batch commits without waiting for the disk. A batch that would leave too many bytes waiting for the
// flush does wait for the disk, and flushes all commits before.
func (d *Destination) mayLag(b *batch) bool {
	if b.large != nil || !d.session.positions {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session.place.crowded() { // the connection is for others, and must not wait for the flush
		return false
	}
	return d.queue.lagging+b.bytes <= d.router.Options.queueBytes() && !d.queue.overdue(time.Now())
}

// flushed takes the external server's WAL positions, written and flushed, as just reported by the server.
func (d *Destination) flushed(row [][]byte) {
	if len(row) < 2 {
		return
	}
	insert, err := wal.ParseLSN(string(row[0]))
	if err != nil {
		return
	}
	flush, err := wal.ParseLSN(string(row[1]))
	if err != nil {
		return
	}
	d.mu.Lock()
	tickets := d.queue.flushed(insert, flush, time.Now())
	d.mu.Unlock()
	if len(tickets) > 0 {
		failpoint.Hit(failpoint.Flushed)
	}
	d.router.Acks.Release(tickets...)
}

// confirmFlush runs when a destination is idle and its last commits may not be flushed yet.
func (d *Destination) confirmFlush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = nil
	if d.working || d.retryAt != nil {
		return
	}
	d.runLocked(func(ctx context.Context) {
		if err := d.askFlush(ctx); err != nil {
			d.failed(newError(err))
			return
		}
		d.work(ctx)
	})
}

// askFlushNowAndThen asks once every flushPause while commits wait to be flushed.
func (d *Destination) askFlushNowAndThen(ctx context.Context) error {
	d.mu.Lock()
	waiting := d.queue.applied > 0
	d.mu.Unlock()
	if !waiting || time.Since(d.asked) < flushPause {
		return nil
	}
	d.asked = time.Now()
	return d.askFlush(ctx)
}

func (d *Destination) askFlush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.router.Options.ConnectTimeout)
	defer cancel()
	if d.session.positions {
		row, err := d.session.askRow(ctx, 2, `SELECT `+positionsSQL)
		if err != nil {
			return fmt.Errorf("asking how far the WAL is flushed: %w", d.session.unpositioned(err))
		}
		d.flushed(row)
	}
	d.mu.Lock()
	force, n := d.queue.overdue(time.Now()) || d.queue.applied > 0 && !d.session.positions, d.queue.applied // commits of an earlier session may lag
	d.mu.Unlock()
	if !force {
		return nil
	}
	if err := d.session.exec(ctx, flushSQL, d.session.names()); err != nil {
		return fmt.Errorf("flushing the WAL: %w", err)
	}
	d.mu.Lock()
	tickets := d.queue.letGo(n)
	d.mu.Unlock()
	d.router.Acks.Release(tickets...)
	return nil
}

// flushSQL commits an update with a wait for the disk, and thereby flushes all commits before.
const flushSQL = `WITH waiting AS MATERIALIZED (SELECT pg_catalog.set_config('synchronous_commit', 'local', true) AS is)
	UPDATE public."_stack_sync_metadata" SET "updated_at" = "updated_at" FROM waiting WHERE waiting.is = 'local' AND "mapping_name" = ANY ($1::text[])`

// settle waits, at the end of the process, until the last commits are flushed, so that the next process need not read the
// transactions again. Transactions not flushed within the time of the server's defaults are read again and skipped.
func (d *Destination) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	tick := time.NewTicker(flushPause / 4)
	defer tick.Stop()
	for {
		d.mu.Lock()
		waiting := d.queue.applied > 0 && d.session != nil
		d.mu.Unlock()
		if !waiting || d.askFlush(ctx) != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
