package primary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgerror"
	"outflow/replication/wal"
)

// Slot is the replication slot that Outflow reads: its row of pg_replication_slots, and by the same name its row of outflow.source.
type Slot struct {
	Server *Server
	Name   string
	// Waiting is called about once a second while the server waits for older transactions to end before creating the
	// slot, with their number, at least 1, and a description of the oldest transaction; nil is allowed.
	Waiting func(transactions int, oldest string)
}

// source is the slot's row of outflow.source.
func (s Slot) source() sourceRow { return sourceRow{s.Name} }

// find looks for the slot, and for its confirmed flush LSN. A slot that Outflow cannot read is a [*Problem].
func (s Slot) find(ctx context.Context, conn *pgx.Conn) (confirmed wal.LSN, found bool, err error) {
	var plugin, database, walStatus *string
	var flushed *string
	var invalidation string // a column from 17 on; to_jsonb reads the column where the column exists
	err = conn.QueryRow(ctx, `SELECT plugin::text, database::text, wal_status, coalesce(to_jsonb(s) ->> 'invalidation_reason', ''), confirmed_flush_lsn::text
		FROM pg_replication_slots s WHERE slot_name = $1`, s.Name).Scan(&plugin, &database, &walStatus, &invalidation, &flushed)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, fmt.Errorf("looking for replication slot %q: %w", s.Name, err)
	}
	switch {
	case plugin == nil || *plugin != "pgoutput":
		return 0, false, &Problem{What: fmt.Sprintf("replication slot %q is not a pgoutput slot", s.Name),
			Remedy: "set another slot in source.slot"}
	case database == nil || *database != conn.Config().Database:
		return 0, false, &Problem{What: fmt.Sprintf("replication slot %q belongs to another database of this cluster", s.Name),
			Remedy: "set another slot in source.slot"}
	case walStatus != nil && *walStatus == "lost":
		return 0, false, slotLost(s.Name, invalidation)
	case flushed == nil:
		return 0, false, fmt.Errorf("replication slot %q is still being created", s.Name)
	}
	confirmed, err = wal.ParseLSN(*flushed)
	return confirmed, true, err
}

func (s Slot) create(ctx context.Context, conn *pgx.Conn) (wal.LSN, error) {
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait() // the watcher may be calling Waiting, and the caller expects no call afterwards
	defer stop()
	watcher.Go(func() { s.watchCreation(watching, conn.PgConn().PID()) })
	var at string
	err := conn.QueryRow(ctx, s.createSQL()).Scan(&at)
	switch pgerror.SQLState(err) {
	case pgerror.ConfigLimitExceeded:
		return 0, &Problem{What: "all replication slots of the primary are in use",
			Remedy: "raise max_replication_slots and restart the primary, or drop an unused slot", Err: err}
	case pgerror.InsufficientRights:
		return 0, &Problem{What: "the role may not create a replication slot",
			Remedy: replicateRemedy(conn.Config().User), Err: err}
	}
	if err != nil {
		return 0, fmt.Errorf("creating replication slot %q: %w", s.Name, err)
	}
	return wal.ParseLSN(at)
}

// watchCreation tells once a second how many transactions the creation of the slot waits for: the creation needs all
// transactions running now to end (the Postgres manual, "Logical Decoding Concepts"; SnapBuildWaitSnapshot).
func (s Slot) watchCreation(ctx context.Context, creator uint32) {
	if s.Waiting == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		conn, err := s.Server.Connect(ctx)
		if err != nil {
			continue
		}
		n, oldest, err := oldTransactions(ctx, conn, creator, 0)
		_ = conn.Close(ctx)
		if err == nil && n > 0 {
			s.Waiting(n, oldest)
		}
	}
}

// oldTransactions counts the transactions of the whole cluster with an id and open for at least the duration open, without transactions of
// the process except (0: none), and describes the oldest transaction with the statement to end it. A prepared transaction has no process:
// only pg_prepared_xacts has it.
func oldTransactions(ctx context.Context, conn *pgx.Conn, except uint32, open time.Duration) (n int, oldest string, err error) {
	err = conn.QueryRow(ctx, `WITH old AS (
			SELECT xact_start AS since, format('process %s of %s in database %s, open since %s: SELECT pg_terminate_backend(%s) ends it',
				pid, quote_ident(usename), quote_ident(datname), date_trunc('second', xact_start), pid) AS what
			FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> $1
			UNION ALL SELECT prepared, format('prepared transaction %L of %I in database %I, prepared at %s: COMMIT PREPARED or ROLLBACK PREPARED ends it',
				gid, owner, database, date_trunc('second', prepared)) FROM pg_prepared_xacts)
		SELECT count(*) OVER (), what FROM old WHERE since <= now() - make_interval(secs => $2) ORDER BY since NULLS LAST LIMIT 1`, int64(except), open.Seconds()).Scan(&n, &oldest)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", nil
	}
	return n, oldest, err
}

func (s Slot) createSQL() string {
	return fmt.Sprintf("SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')", QuoteLiteral(s.Name))
}

// Gone tells of a slot that outflow.source knows and the server does not have.
func (s Slot) Gone() *Problem {
	return &Problem{
		What:   fmt.Sprintf("replication slot %q is gone; later commits are lost to the stream", s.Name),
		Remedy: "run: " + ResetCommand + " (a new slot, and every destination is copied again while changes flow)",
	}
}

// slotLost names why the primary invalidated a slot, and the setting to keep the next slot. reason is invalidation_reason of
// pg_replication_slots (the Postgres manual, "pg_replication_slots"); "" is a server before 17, which invalidates for missing WAL only.
func slotLost(slot, reason string) *Problem {
	cause, keep := "the primary removed WAL that the slot needs", "raise max_slot_wal_keep_size on the primary"
	switch reason {
	case "", "wal_removed":
	case "idle_timeout":
		cause, keep = "no process read the slot for longer than idle_replication_slot_timeout", "raise idle_replication_slot_timeout on the primary"
	case "wal_level_insufficient":
		cause, keep = "wal_level on the primary was not logical for a time", "keep wal_level = logical on the primary"
	default:
		cause, keep = "the primary names the reason "+reason, "see pg_replication_slots.invalidation_reason in the Postgres manual"
	}
	return &Problem{What: fmt.Sprintf("replication slot %q is lost: %s", slot, cause), Remedy: keep + " and run: " + ResetCommand}
}

// active reports whether a process reads the slot.
func (s Slot) active(ctx context.Context, db rowQuerier) (active bool, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1`, s.Name).Scan(&active)
	if err != nil {
		return false, fmt.Errorf("looking for replication slot %q: %w", s.Name, err)
	}
	return active, nil
}

func (s Slot) inUse(err error) *Problem {
	return &Problem{What: fmt.Sprintf("replication slot %q is in use, so it cannot be reset", s.Name),
		Remedy: "stop the other outflow process first", Err: err}
}

func (s Slot) drop(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, s.Name)
	if pgerror.SQLState(err) == pgerror.ObjectInUse {
		return s.inUse(err)
	} else if err != nil {
		return fmt.Errorf("dropping replication slot %q: %w", s.Name, err)
	}
	return nil
}

// SlotStatus is the row of pg_replication_slots about the slot.
type SlotStatus struct {
	Active             bool   // a process reads the slot
	WALStatus          string // reserved, extended, unreserved or lost
	InvalidationReason string // "" where there is none, and before Postgres 17
	ConfirmedFlush     wal.LSN
	Restart            wal.LSN
	WALEnd             wal.LSN // of the primary
	RetainedBytes      int64
	SafeBytes          *int64 // of WAL allowed before the slot is lost; nil: no limit
	At                 time.Time
}

// Status asks the primary for the slot's row of pg_replication_slots. [Watcher] does so by itself.
func (s Slot) Status(ctx context.Context, conn *pgx.Conn) (now SlotStatus, err error) {
	var confirmed, restart, end string
	// invalidation_reason is a column from 17 on; to_jsonb asks for the column where the column exists.
	err = conn.QueryRow(ctx, `SELECT active, coalesce(wal_status, ''), coalesce(to_jsonb(s)->>'invalidation_reason', ''),
		coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text, pg_current_wal_lsn()::text,
		coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size, clock_timestamp()
		FROM pg_replication_slots s WHERE slot_name = $1`, s.Name).
		Scan(&now.Active, &now.WALStatus, &now.InvalidationReason, &confirmed, &restart, &end, &now.RetainedBytes, &now.SafeBytes, &now.At)
	if err != nil {
		return now, err
	}
	var faults [3]error
	now.ConfirmedFlush, faults[0] = wal.ParseLSN(confirmed)
	now.Restart, faults[1] = wal.ParseLSN(restart)
	now.WALEnd, faults[2] = wal.ParseLSN(end)
	return now, errors.Join(faults[:]...)
}

// Known returns the row of outflow.source about the slot, for a caller that only reads. Known changes nothing.
func (s Slot) Known(ctx context.Context, conn *pgx.Conn) (Source, error) {
	source, known, err := s.source().load(ctx, conn)
	switch {
	case err == nil && !known, pgerror.SQLState(err) == pgerror.UndefinedTable:
		return Source{}, &Problem{What: fmt.Sprintf("nothing has ever run on replication slot %q", s.Name),
			Remedy: "run: outflow run, or correct source.slot"}
	case err == nil && source.resetting:
		return Source{}, &Problem{What: fmt.Sprintf("a reset of replication slot %q was begun and not finished", s.Name),
			Remedy: "finish the reset: " + ResetCommand}
	}
	return source, err
}

// Healthy reports whether the slot exists, fits, and goes on where it was left: a reset of such a slot would be a resync for nothing.
func (s Slot) Healthy(ctx context.Context, conn *pgx.Conn) (bool, error) {
	_, found, err := s.find(ctx, conn)
	if problem := (*Problem)(nil); errors.As(err, &problem) {
		return false, nil
	} else if err != nil || !found {
		return false, err
	}
	source, known, err := s.source().load(ctx, conn)
	if err != nil || !known || source.resetting {
		return false, err
	}
	now, err := s.Server.identify(ctx)
	return err == nil && now.SystemID == source.SystemID && now.Timeline == source.Timeline, err
}
