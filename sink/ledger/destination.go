package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/replication/primary"
)

// Destination is what the primary knows of a destination for persons, whether a process runs or not.
type Destination struct {
	Tenant, Name string
	State        State
	Reason       string
	Class        string // of the last error, as [external.Error.Class] has it; "" is none
	SequenceID   int64  // the external database has at least this id; -1 is not known
	At           time.Time
	Since        time.Time         // of the state
	Detached     bool              // the stream goes on without the destination
	Copied       int64             // rows of the copy in progress, or else of the last copy; 0 is not known
	CopyTotal    int64             // about how many rows there will be; -1 is not known
	Mappings     []MappingProgress // how far each mapping is, less the waiting changes; empty where not known
}

// Destinations reads the notes on the destinations of a slot: all that have ever run, all of a tenant (name ""), or a single
// destination. Destinations no longer in the configuration are included, with a reason that says so.
func (s *Store) Destinations(ctx context.Context, tenant, name string) (all []Destination, err error) {
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT tenant_id, name, state, reason, coalesce(error_class, ''), last_sequence_id, updated_at, `+finiteSince+`, detached, coalesce(copied_rows, 0), coalesce(copy_total, -1), mappings
			FROM outflow.destination_state WHERE slot = $1 AND ($2 = '' OR tenant_id = $2) AND ($3 = '' OR name = $3)
			ORDER BY tenant_id, name`, s.Slot, tenant, name)
		if err == nil {
			all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (n Destination, err error) {
				var mappings string
				err = row.Scan(&n.Tenant, &n.Name, &n.State, &n.Reason, &n.Class, &n.SequenceID, &n.At, &n.Since, &n.Detached, &n.Copied, &n.CopyTotal, &mappings)
				n.Mappings = ParseProgress(mappings)
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
func (n Destination) Configured() bool { return n.Reason != primary.NotConfigured }

// State is the activity of a destination, by the names used everywhere.
type State string

// The states of a destination.
const (
	Backfilling State = "backfilling" // rows are copied from the primary's tables, beside the live changes
	Streaming   State = "streaming"   // applies changes, or has nothing to do
	Retrying    State = "retrying"    // failed, and tries again at NextRetry
	Parked      State = "parked"      // away for longer than its queue holds: detached, and copied again when the destination answers
	Paused      State = "paused"      // by a person; the queue fills, and then the destination is detached too
	Halted      State = "halted"      // a mapping or a row needs a person; the destination tries again seldom, and may be detached too
)

// MappingProgress is the progress of a single mapping of a destination.
type MappingProgress struct {
	Name         string    `json:"name"`
	SequenceID   int64     `json:"id"` // last_synced_sequence_id in the external database; -1 before this process has connected
	At           time.Time `json:"at"` // time of the write, on the external server's clock or, for writes of the process, on the process' clock; zero: unknown
	Changes      int64     `json:"-"`  // waiting for this mapping
	Transactions int       `json:"-"`  // bringing the waiting changes
}

// FormatProgress is the form of mappings' progress in a [Note]; "" where nothing is known.
func FormatProgress(all []MappingProgress) string {
	if len(all) == 0 {
		return ""
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err) // strings, numbers and times only
	}
	return string(text)
}

// ParseProgress reads the text of FormatProgress; of an unreadable text nothing is known.
func ParseProgress(note string) (all []MappingProgress) {
	if json.Unmarshal([]byte(note), &all) != nil {
		return nil
	}
	return all
}
