package tableread

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Unfinished are the transactions of the database with an id and not visible yet. A transaction whose commit is in the WAL already, and was
// perhaps decoded, is included until snapshots see the transaction: until then the transaction holds the lock on its own id. Transactions
// of other databases, running or prepared, never come in the stream and are left out: no caller need wait for such a transaction.
func (c *Copier) Unfinished(ctx context.Context) (xids []uint32, err error) {
	return c.unfinished(ctx, `coalesce(p.database, a.datname, current_database()) = current_database()`)
}

// Elsewhere are the transactions of other databases with an id and not visible yet.
func (c *Copier) Elsewhere(ctx context.Context) (xids []uint32, err error) {
	return c.unfinished(ctx, `coalesce(p.database, a.datname) <> current_database()`)
}

func (c *Copier) unfinished(ctx context.Context, which string) (xids []uint32, err error) {
	var xid int64
	err = c.connect(ctx)
	if err == nil {
		var rows pgx.Rows
		rows, _ = c.conn.Query(ctx, `SELECT l.transactionid::text::bigint FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
			LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid AND l.pid IS NULL
			WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND `+which) // a prepared transaction has no process
		_, err = pgx.ForEachRow(rows, []any{&xid}, func() error {
			xids = append(xids, uint32(xid))
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("looking for transactions that run: %w", err)
	}
	return xids, nil
}

// Holder tells people which transaction has the id (low 32 bits), since when it is open, and what ends it, as far as the role may know
// (pg_read_all_stats).
func (c *Copier) Holder(ctx context.Context, xid uint32) (what string, err error) {
	if err = c.connect(ctx); err == nil {
		err = c.conn.QueryRow(ctx, `SELECT coalesce(
			(SELECT format('prepared transaction %L of %I in database %I, prepared at %s: COMMIT PREPARED or ROLLBACK PREPARED ends it', gid, owner, database, date_trunc('second', prepared))
				FROM pg_prepared_xacts WHERE transaction::text = $1),
			(SELECT format('transaction %s of process %s, user %I, application %L', $1, a.pid, a.usename, a.application_name) || coalesce(', open since ' || date_trunc('second', a.xact_start), '')
				|| CASE WHEN a.wait_event = 'SyncRep' THEN ', whose commit waits for a synchronous standby: see synchronous_standby_names'
					ELSE format(': SELECT pg_terminate_backend(%s) ends it', a.pid) END
				FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
				WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.transactionid::text = $1 LIMIT 1),
			format('transaction %s', $1))`, strconv.FormatUint(uint64(xid), 10)).Scan(&what)
	}
	if err != nil {
		return "", fmt.Errorf("looking for transaction %d: %w", xid, err)
	}
	return what, nil
}

// AwaitingStandby is how many commits of the database wait for a synchronous standby, as far as the role may know
// (pg_read_all_stats): the commits are in the WAL, and perhaps in external databases, and no session sees them on the
// primary.
func (c *Copier) AwaitingStandby(ctx context.Context) (n int, err error) {
	if err = c.connect(ctx); err == nil {
		err = c.conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'`).Scan(&n)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for commits that wait for a standby: %w", err)
	}
	return n, nil
}
