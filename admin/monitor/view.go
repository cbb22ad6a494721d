package monitor

import (
	"time"

	"outflow/replication/wal"
)

// Role is the work of the process on the slot: connecting, standby or streaming.
type Role string

// Health sums up the reasons: healthy, degraded (the stream goes on, but needs attention) or failing (the stream does not go on).
type Health string

// The values of Health.
const (
	Healthy  Health = "healthy"
	Degraded Health = "degraded"
	Failing  Health = "failing"
)

// Reason is a fact for the operator, in words.
type Reason struct {
	Severity string `json:"severity"` // notice, warning or critical
	Message  string `json:"message"`
}

// Position is an LSN as text and as an integer.
type Position struct {
	Text    string `json:"text"`
	Integer uint64 `json:"integer"`
}

// newPosition shows an LSN; nil for 0, which is no position (pg_lsn 0/0).
func newPosition(lsn wal.LSN) *Position {
	if lsn == 0 {
		return nil
	}
	return &Position{lsn.String(), uint64(lsn)}
}

// Status is the whole process at one moment: GET /api/status. Unknown fields are nil.
type Status struct {
	Version      string         `json:"version"`
	StartedAt    time.Time      `json:"started_at"`
	At           time.Time      `json:"at"`
	Role         Role           `json:"role"`
	State        Health         `json:"state"`
	Ready        bool           `json:"ready"`
	Reasons      []Reason       `json:"reasons"`
	Slot         Slot           `json:"slot"`
	Lag          Lag            `json:"lag"`
	Throughput   Throughput     `json:"throughput"`
	Totals       Totals         `json:"totals"`
	Queue        Queue          `json:"queue"`
	Destinations map[string]int `json:"destinations"` // by state, all states
	Total        int            `json:"total"`        // of the destinations
	InSync       *int           `json:"in_sync"`      // destinations streaming at most inSyncWithin behind; nil is not known
	Detached     int            `json:"detached"`     // destinations that the stream goes on without
	Noted        *Notes         `json:"noted"`        // nil: this process reads the slot, and knows the destinations itself
	Switches     []Switch       `json:"switches"`
}

// Notes say that the destinations are shown from the primary's notes, written by the process reading the slot.
type Notes struct {
	At     *time.Time  `json:"at"`     // when the notes were read; nil: not yet
	Reader *SlotReader `json:"reader"` // nil: no process reads the slot
	Error  *string     `json:"error"`  // why the notes cannot be read
}

// SlotReader is the reader of the slot, as the primary sees the reader.
type SlotReader struct {
	Host        *string    `json:"host"`             // machine of the process of Outflow
	Process     *int       `json:"process"`          // id of the process on the host
	Walsender   int        `json:"walsender"`        // the process of the primary that serves the reader
	Application *string    `json:"application_name"` // nil also where this role may not see the name
	Address     *string    `json:"client_address"`
	Since       *time.Time `json:"since"`
}

// Slot is the replication slot, as the primary last reported the slot.
type Slot struct {
	Name          string     `json:"name"`
	CheckedAt     *time.Time `json:"checked_at"`
	Active        *bool      `json:"active"`
	WALStatus     *string    `json:"wal_status"`
	Invalidation  *string    `json:"invalidation_reason"`
	ConfirmedLSN  *Position  `json:"confirmed_flush_lsn"`
	RestartLSN    *Position  `json:"restart_lsn"`
	WALEnd        *Position  `json:"wal_end_lsn"`
	FlushLSN      *Position  `json:"flush_lsn"` // acknowledged by this process
	ReadLSN       *Position  `json:"read_lsn"`  // read by this process
	RetainedBytes *int64     `json:"retained_bytes"`
	SafeBytes     *int64     `json:"safe_bytes"` // nil also where there is no limit
	Outstanding   *int       `json:"outstanding_transactions"`
}

// IsActive reports whether a process reads the slot.
func (s Slot) IsActive() bool { return s.Active != nil && *s.Active }

// Lag is the distance of the streaming external databases behind the primary.
type Lag struct {
	Bytes           *int64     `json:"bytes"`
	Seconds         *float64   `json:"seconds"` // of the worst; nil: none streams, or nothing is known
	P50Seconds      *float64   `json:"p50_seconds"`
	P99Seconds      *float64   `json:"p99_seconds"`
	Worst           *Laggard   `json:"worst"`
	EndToEndSeconds *float64   `json:"end_to_end_seconds"` // of the last heartbeat
	EndToEndAt      *time.Time `json:"end_to_end_at"`
}

// Laggard is the streaming destination farthest behind.
type Laggard struct {
	Tenant  string  `json:"tenant"`
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Throughput is the work committed in external databases per second, over the last seconds.
type Throughput struct {
	Rows         *float64 `json:"rows_per_second"`
	Transactions *float64 `json:"transactions_per_second"`
	Window       float64  `json:"window_seconds"`
}

// Totals count from the start of the pipeline on.
type Totals struct {
	Rows         int64 `json:"rows"`
	Transactions int64 `json:"transactions"`
	Batches      int64 `json:"batches"`
	Failures     int64 `json:"failures"`
}

// Queue is the waiting work, for all destinations or for one.
type Queue struct {
	Transactions int    `json:"transactions"`
	Changes      int64  `json:"changes"`
	Bytes        int64  `json:"bytes"`
	LimitBytes   *int64 `json:"limit_bytes"`
}

// Switch is a fuse, or the pause of one destination.
type Switch struct {
	Name        string     `json:"name"` // reading, applying, backfills or destination
	Tenant      *string    `json:"tenant"`
	Destination *string    `json:"destination"`
	Off         bool       `json:"off"`
	By          *string    `json:"by"`
	Reason      *string    `json:"reason"`
	At          *time.Time `json:"at"`
}

// Destination is one external database at one moment.
type Destination struct {
	Tenant         string     `json:"tenant"`
	Name           string     `json:"name"`
	Address        *string    `json:"address"` // without secrets
	State          string     `json:"state"`
	Reason         *string    `json:"reason"`
	Since          *time.Time `json:"since"`
	Detached       bool       `json:"detached"` // the stream goes on without the destination; rows are copied again when it takes rows again
	DetachedReason *string    `json:"detached_reason"`
	LastSequenceID *int64     `json:"last_sequence_id"`
	LastCommitAt   *time.Time `json:"last_commit_at"` // on the primary, of the last applied transaction
	Backlog        *Queue     `json:"backlog"`
	LagSeconds     *float64   `json:"lag_seconds"`
	Rows           *int64     `json:"rows"`
	RowsPerSecond  *float64   `json:"rows_per_second"`
	Attempts       int        `json:"attempts"`
	NextRetryAt    *time.Time `json:"next_retry_at"`
	Error          *Failure   `json:"error"`
	Backfill       *Backfill  `json:"backfill"`
	CopiedRows     *int64     `json:"copied_rows"` // of the copy in progress, or else of the last copy
	Mappings       []Mapping  `json:"mappings"`    // in the order of execution
}

// Mapping is the progress of one mapping of a destination.
type Mapping struct {
	Name                string     `json:"name"`
	SequenceID          *int64     `json:"last_synced_sequence_id"`
	SyncedAt            *time.Time `json:"last_synced_at"`
	PendingChanges      *int64     `json:"pending_changes"` // nil where only notes are known, and for a detached destination
	PendingTransactions *int       `json:"pending_transactions"`
}

// Detail is a destination with the fields that only the destination's own page shows.
type Detail struct {
	Destination
	History []Event `json:"history"` // newest first
}

// Event is a change of a destination's state.
type Event struct {
	At     time.Time `json:"at"`
	State  string    `json:"state"`
	Reason string    `json:"reason"`
}

// Failure is the last error of a destination without a success since.
type Failure struct {
	Message  string  `json:"message"`
	Class    string  `json:"class"`
	SQLState *string `json:"sqlstate"`
	Mapping  *string `json:"mapping"`
	File     *string `json:"file"`
	Line     *int    `json:"line"`
	Column   *int    `json:"column"`
	Table    *string `json:"table"`
	Key      *string `json:"key"`
	Remedy   *string `json:"remedy"`
}

// Backfill is a copy of a destination's rows that is in progress.
type Backfill struct {
	Table       *string  `json:"table"`
	Rows        int64    `json:"rows"`
	Estimated   *int64   `json:"estimated_rows"`
	SecondsLeft *float64 `json:"seconds_left"`
}

// Table counts the changes of one source table read since the pipeline started.
type Table struct {
	Name          string `json:"name"`
	Inserts       int64  `json:"inserts"`
	Updates       int64  `json:"updates"`
	Deletes       int64  `json:"deletes"`
	Truncates     int64  `json:"truncates"`
	Skipped       int64  `json:"skipped"` // changes of tables that are not configured, rows without a tenant, tombstones of tables that are not synced
	MinSequenceID *int64 `json:"min_sequence_id"`
	MaxSequenceID *int64 `json:"max_sequence_id"`
}

// Page is a part of a list, and the length of the list.
type Page struct {
	Destinations []Destination `json:"destinations"`
	Total        int           `json:"total"` // entries matching the filter
	Limit        int           `json:"limit"`
	Offset       int           `json:"offset"`
}

// known returns nil for the zero value, which stands for "not known" or "none".
func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// knownTime is nil for the zero time.
func knownTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
