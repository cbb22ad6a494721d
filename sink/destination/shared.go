package destination

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"outflow/internal/moment"
	"outflow/replication"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/limits"
	"outflow/sink/queue"
	"outflow/sink/schema"
)

// Shared is what all destinations of a process share. The fields are set before the first destination is made, and safe for concurrent use.
type Shared struct {
	Options  WorkOptions
	SourceID string // the source as the metadata of external databases names the source: with tenant and name, the owner
	Log      *zap.Logger
	Tracer   trace.Tracer // of batches; nil: none
	Acks     *replication.AckTracker
	Ledger   *ledger.Store
	Reader   Reader
	// Rows reads current rows of the primary by key, for values that an UPDATE left in TOAST: see [tableread.Lookup.Rows].
	Rows func(context.Context, tableread.Look) (tableread.Found, error)
	// SequenceID is the id of a transaction that committed at the given place.
	SequenceID func(wal.LSN) int64

	Workers       *limits.Workers
	Gate          *queue.Gate
	Lookups       *limits.Memory
	Connections   *external.Connections
	BackfillSlots *limits.Slots
	Schemas       *schema.Schemas
	Copying       *backfill.Shared
	Router        Router

	LastPart    moment.Moment // when the stream last brought something
	ForeignRows atomic.Int64  // rows of other tenants that were about to be sent to external databases, and were refused
}

// Router is what a destination asks of the router of the process. Implementations are safe for concurrent use.
type Router interface {
	// CheckpointID is the id of the newest checkpoint, "" before the first.
	CheckpointID() string
	// Checkpoint notes on the primary how far each destination is.
	Checkpoint(context.Context) error
	// Arriving is the sequence id of the transaction whose parts are arriving, -1 before the first.
	Arriving() int64
	// Configured reports whether the tenant has a destination of that name.
	Configured(tenant, name string) bool
	// BegunAt is where the primary's WAL ended when the reading began.
	BegunAt() wal.LSN
	// ReadingOff is the switch that has the slot not read; nil where the slot is read.
	ReadingOff() *ledger.Switch
}

// Reader is a destination's view of the reader of the stream.
type Reader interface {
	// Position is how far the stream was read: every transaction committed before Position was given to the router.
	Position() wal.LSN
	// Restart has the stream read again from the flush LSN.
	Restart()
	// State says whether this process has the slot.
	State() replication.State
}

// stalled reports whether the stream has brought nothing for a while, since the given time at the earliest, and not because the reader waits
// for room: the judge ends such a wait.
func (s *Shared) stalled(since time.Time) bool {
	now := time.Now()
	return min(now.Sub(since), s.LastPart.Ago(now)) > openPatience && (s.Reader.State() != replication.Streaming || !s.Gate.Closed())
}

// ResetRemedy heals the damage of a restored primary.
const ResetRemedy = "run: outflow run --slot-reset, which raises the ids and copies every destination again"
