package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"outflow/replication"
	"outflow/sink"
)

// apply brings the router to the state in the rows. Failures are tried again with the next reading.
func (dir *directory) apply(ctx context.Context, router *sink.Router, found map[destinationID]destinationRow) {
	for _, id := range sorted(dir.rows) {
		if _, still := found[id]; still {
			continue
		}
		if err := router.Remove(ctx, id.tenant, id.name); err != nil {
			dir.log.Warn("a destination cannot be removed", zap.String("tenant", id.tenant), zap.String("destination", id.name), zap.Error(err))
			continue
		}
		delete(dir.rows, id)
	}
	for _, id := range sorted(found) {
		if row, known := dir.rows[id]; known && row.equal(found[id]) {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if err := router.Put(ctx, dir.specification(id, found[id])); err != nil {
			dir.log.Warn("a destination cannot be added or changed", zap.String("tenant", id.tenant), zap.String("destination", id.name), zap.Error(err))
			continue
		}
		dir.rows[id] = found[id]
	}
	dir.own.keep(dir.rows)
}

// run keeps the router's destinations as the query gives the rows, until ctx is done. A failed query leaves the destinations
// as they are.
func (dir *directory) run(ctx context.Context, pl *Pipeline) error {
	if dir.query == "" {
		return nil
	}
	for {
		err := dir.follow(ctx, pl)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a wanted stop is not an error
		}
		dir.failed(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(dir.refresh):
		}
	}
}

// follow reads the query on one connection: after each notification of a change, and else every refresh.
func (dir *directory) follow(ctx context.Context, pl *Pipeline) error {
	conn, err := pl.primary.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	listening, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if _, err := conn.Exec(listening, "LISTEN "+notifications); err != nil {
		return err
	}
	for {
		found, err := dir.read(ctx, conn)
		if err != nil {
			return err
		}
		dir.failed(nil)
		if pl.mayChange() {
			dir.apply(ctx, pl.Router, found)
		}
		if err := wait(ctx, conn, dir.refresh); err != nil {
			return err
		}
	}
}

// mayChange reports whether this process may write of destinations to the primary: the process has the slot, or has never
// had the slot, when nothing is written.
func (pl *Pipeline) mayChange() bool {
	return !pl.Router.Begun() || pl.Reader.State() == replication.Streaming
}

// wait returns after the time, or soon after a notification.
func wait(ctx context.Context, conn *pgx.Conn, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		within, cancel := context.WithDeadline(ctx, deadline)
		_, err := conn.WaitForNotification(within)
		cancel()
		switch {
		case err == nil:
			if soon := time.Now().Add(gathering); soon.Before(deadline) {
				deadline = soon
			}
		case ctx.Err() == nil && pgconn.Timeout(err) && !conn.IsClosed():
			return nil
		default:
			return err
		}
	}
}

// failed logs a fault once, and the recovery once.
func (dir *directory) failed(err error) {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	was := dir.failure
	dir.failure = err
	switch {
	case err == nil && was != nil:
		dir.log.Info("destinations.query succeeds again")
	case err != nil && (was == nil || was.Error() != err.Error()):
		dir.log.Error("the destinations cannot be read; they stay as they are", zap.Error(err))
	}
}

// fault is the reason why the destinations cannot be read at the moment, or why some rows are left out; nil where all works. Safe for
// concurrent use.
func (dir *directory) fault() error {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	switch {
	case dir.failure != nil:
		return fmt.Errorf("the destinations cannot be read; they stay as they are: %w", dir.failure)
	case len(dir.out) > 0:
		return errors.New(dir.out[0])
	}
	return nil
}
