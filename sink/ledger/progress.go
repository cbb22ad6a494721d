package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/replication/wal"
)

// AskSync asks the process that reads the slot to note when the destination has every change up to the sequence id.
func (s *Store) AskSync(ctx context.Context, tenant, name string, id int64) error {
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

// AnswerSync notes that the destinations have every change up to the requests' Until: see AskSync.
func (s *Store) AnswerSync(ctx context.Context, reached []Request) error {
	tenants, names, ids := make([]string, len(reached)), make([]string, len(reached)), make([]int64, len(reached))
	for i, r := range reached {
		tenants[i], names[i], ids[i] = r.Note.Tenant, r.Note.Name, r.Until
	}
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var fenced int
		return s.fencedBy(conn.QueryRow(ctx, `WITH `+fenceSQL+`, reached AS (UPDATE outflow.destination_state s SET sync_reached = greatest(s.sync_reached, r.id)
				FROM fence CROSS JOIN unnest($3::text[], $4::text[], $5::bigint[]) AS r (tenant, name, id)
				WHERE s.slot = $1 AND s.tenant_id = r.tenant AND s.name = r.name)
			SELECT 1 FROM fence`, s.Slot, s.newest.reading, tenants, names, ids).Scan(&fenced))
	})
	if err != nil {
		return fmt.Errorf("writing outflow.destination_state: %w", err)
	}
	return nil
}

// Progress is how far the stream is known to be, for the slot and for one destination.
type Progress struct {
	Confirmed wal.LSN // the slot was told that all destinations have everything up to there
	Attended  bool    // a process reads the slot
	Reached   int64   // the destination has everything up to this sequence id; -1 is not known
	State     State   // of the destination; "" where nothing is noted
	Reason    string
}

// Waits reports whether the stream brings the destination nothing as long as the state lasts.
func (p Progress) Waits() bool { return p.State == Paused || p.State == Halted || p.State == Parked }

// Progress reads how far the stream is, for the slot and for one destination.
func (s *Store) Progress(ctx context.Context, tenant, name string) (now Progress, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var confirmed string
		err := conn.QueryRow(ctx, `SELECT coalesce((SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name::text = $1), '0/0'),
				coalesce((SELECT active FROM pg_replication_slots WHERE slot_name::text = $1), false),
				coalesce(d.sync_reached, -1), coalesce(d.state, ''), coalesce(d.reason, '')
			FROM (VALUES (1)) AS one LEFT JOIN outflow.destination_state d ON d.slot = $1 AND d.tenant_id = $2 AND d.name = $3`,
			s.Slot, tenant, name).Scan(&confirmed, &now.Attended, &now.Reached, &now.State, &now.Reason)
		if err == nil {
			now.Confirmed, err = wal.ParseLSN(confirmed)
		}
		return err
	})
	if err != nil {
		return now, fmt.Errorf("looking at the slot: %w", err)
	}
	return now, nil
}
