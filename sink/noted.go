package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/replication"
)

// Noted is the primary's knowledge of a destination, whether a process runs or not.
type Noted struct {
	Tenant, Name string
	State        State
	Reason       string
	Class        string // of the last error, as [Error.Class] has it; "" is none
	SequenceID   int64  // the external database has at least this id; -1 is not known
	At           time.Time
	Since        time.Time       // of the state
	Detached     bool            // the stream goes on without the destination
	Copied       int64           // rows of the copy in progress, or else of the last copy; 0 is not known
	CopyTotal    int64           // about how many rows there will be; -1 is not known
	Mappings     []MappingStatus // how far each mapping is, less the waiting changes; empty where not known
}

// Noted reads the notes on the destinations of a slot: all that have ever run, all of a tenant (name ""), or a single
// destination. Destinations no longer in the configuration are included, with a reason that says so.
func (s *StateStore) Noted(ctx context.Context, tenant, name string) (all []Noted, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT tenant_id, name, state, reason, coalesce(error_class, ''), last_sequence_id, updated_at, `+finiteSince+`, detached, coalesce(copied_rows, 0), coalesce(copy_total, -1), mappings
			FROM outflow.destination_state WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3)
			ORDER BY tenant_id, name`, s.Slot, tenant, name)
		if err == nil {
			all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (n Noted, err error) {
				var mappings string
				err = row.Scan(&n.Tenant, &n.Name, &n.State, &n.Reason, &n.Class, &n.SequenceID, &n.At, &n.Since, &n.Detached, &n.Copied, &n.CopyTotal, &mappings)
				n.Mappings = parseMappings(mappings)
				return n, err
			})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading outflow.destination_state: %w", err)
	}
	return all, nil
}

// Configured reports whether the configuration had the destination when a process last began to read.
func (n Noted) Configured() bool { return n.Reason != replication.NotConfigured }

// Attended reports whether a process reads the slot.
func (s *StateStore) Attended(ctx context.Context) (attended bool, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = $1), false)`, s.Slot).Scan(&attended)
	})
	if err != nil {
		return false, fmt.Errorf("looking for replication slot %q: %w", s.Slot, err)
	}
	return attended, nil
}

// Reading is the reader of the slot, as far as the primary knows and this role may see.
type Reading struct {
	Walsender   int       // process on the primary that serves the slot
	Application string    // application_name; "" is not known
	Address     string    // of the client; "" is a socket of the primary's machine, or not known
	Host        string    // machine of Outflow's reading process, as the process noted; "" is not known
	Process     int       // the process's id there; 0 is not known
	Since       time.Time // when the reading began; zero is not known
}

// Reading finds the reader of the slot; nil is no reader. The notes of the slot's own Outflow process are left out where another
// program has the slot.
func (s *StateStore) Reading(ctx context.Context) (*Reading, error) {
	var r Reading
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT s.active_pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''),
				coalesce(r.host, ''), coalesce(r.process, 0), coalesce(r.begun_at, a.backend_start, 'epoch')
			FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
			LEFT JOIN LATERAL (SELECT * FROM outflow.reading WHERE slot = $1 ORDER BY reading DESC LIMIT 1) r ON r.walsender = s.active_pid
			WHERE s.slot_name::text = $1 AND s.active_pid IS NOT NULL`, s.Slot).
			Scan(&r.Walsender, &r.Application, &r.Address, &r.Host, &r.Process, &r.Since)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for who reads slot %q: %w", s.Slot, err)
	}
	if r.Since.Unix() == 0 {
		r.Since = time.Time{}
	}
	return &r, nil
}
