package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pollEvery is the interval of questions to the server about events the server does not announce.
const pollEvery = 10 * time.Millisecond

// Exec runs SQL in a database by the simple protocol, on a connection of its own: many statements may be given, and are
// a single transaction unless the statements say otherwise. Rows are thrown away.
func (c *Cluster) Exec(ctx context.Context, database, sql string) error {
	_, err := c.query(ctx, database, sql)
	return err
}

// CreateDatabase makes a database and returns its DSN. The name is taken literally, whatever characters the name holds.
func (c *Cluster) CreateDatabase(ctx context.Context, name string) (dsn string, err error) {
	if err := c.Exec(ctx, "", "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	return c.DSN(name), nil
}

// DropDatabase ends all sessions of a database, rolls back its prepared transactions, drops the replication slots, and drops the database.
// A missing database is no error.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	if err := c.rollBackPrepared(ctx, name); err != nil {
		return err
	}
	sql := "DROP DATABASE IF EXISTS " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)"
	for {
		// FORCE does not end walsenders: a database with an active logical slot is refused before FORCE gets there.
		if err := c.DropConnections(ctx, name); err != nil {
			return err
		}
		err := c.Exec(ctx, "", sql)
		var pgErr *pgconn.PgError
		if err == nil || !errors.As(err, &pgErr) || pgErr.Code != "55006" { // object_in_use: a client came back
			return err
		}
		if !wait(ctx, pollEvery) {
			return err
		}
	}
}

// rollBackPrepared rolls back what is prepared in a database: no slot of the whole server can be made while that waits.
func (c *Cluster) rollBackPrepared(ctx context.Context, database string) error {
	rows, err := c.query(ctx, "", `SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = '`+strings.ReplaceAll(database, "'", "''")+`'`)
	for _, row := range rows {
		if err == nil {
			err = c.Exec(ctx, database, string(row[0])) // of the database itself: the Postgres manual, ROLLBACK PREPARED
		}
	}
	return err
}

// DropConnections ends all sessions of a database except DropConnections' session, walsenders included, and waits until
// the sessions are gone. "" is all databases. Clients may have come back by the return.
func (c *Cluster) DropConnections(ctx context.Context, database string) error {
	conn, err := c.connect(ctx, "")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it

	rows := conn.ExecParams(ctx, `SELECT pid, backend_start, pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender') AND ($1 = '' OR datname = $1)`,
		[][]byte{[]byte(database)}, nil, nil, nil).Read()
	if rows.Err != nil {
		return fmt.Errorf("pgcluster: ending the sessions of %q: %w", database, rows.Err)
	}
	for _, row := range rows.Rows {
		if err := awaitEnd(ctx, conn, row[0], row[1]); err != nil {
			return fmt.Errorf("pgcluster: waiting for the end of backend %s: %w", row[0], err)
		}
	}
	return nil
}

// awaitEnd waits until a backend is gone. The start time tells the backend from a later backend with the same pid.
func awaitEnd(ctx context.Context, conn *pgconn.PgConn, pid, started []byte) error {
	const alive = `SELECT 1 FROM pg_stat_activity WHERE pid = $1::int AND backend_start = $2::timestamptz`
	for {
		result := conn.ExecParams(ctx, alive, [][]byte{pid, started}, nil, nil, nil).Read()
		if result.Err != nil || len(result.Rows) == 0 {
			return result.Err
		}
		if !wait(ctx, pollEvery) {
			return context.Cause(ctx)
		}
	}
}

// query runs statements in a database and returns the last statement's rows, as text.
func (c *Cluster) query(ctx context.Context, database, sql string) ([][][]byte, error) {
	conn, err := c.connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	if len(results) == 0 {
		return nil, nil
	}
	return results[len(results)-1].Rows, nil
}

func (c *Cluster) connect(ctx context.Context, database string) (*pgconn.PgConn, error) {
	conn, err := pgconn.Connect(ctx, c.DSN(database))
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	return conn, nil
}

// wait returns true after d, or false as soon as the context has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
