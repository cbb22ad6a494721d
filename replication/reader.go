package replication

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"outflow/internal/pgerror"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// Sink takes the transactions of the reader. The reader's goroutine calls the Sink, a single call at a time.
type Sink interface {
	// Begin is called at the start of each reading of the stream, when the process has the slot and no other process
	// can have the slot, before the first Write.
	Begin(ctx context.Context) error
	// Write takes a part of a transaction. Write must not wait for anything; a keeper of the part holds the ticket in
	// the tracker before Write returns. The same transaction may come again after a lost connection.
	Write(part *wal.Transaction) error
	// Full returns nil when there is room. Otherwise Full returns a channel closed once there is room; until then the
	// reader reads nothing, and goes on reporting to the primary.
	Full() <-chan struct{}
	// Settle finishes or rolls back the work in flight. The reader calls Settle when reading has ended for good, before
	// the last status update, which acknowledges the work finished by Settle. Settle is bounded in time, and may be
	// called again.
	Settle()
}

// Reader reads a slot. Set the fields, then call Run once.
type Reader struct {
	Slot        primary.Slot // which exists
	Publication primary.Publication
	Source      primary.Source // the required origin of the stream, and the sequence base
	Confirmed   wal.LSN        // of the slot when Source was read
	Acks        *AckTracker
	Sink        Sink
	Log         *zap.Logger
	Heartbeat   *Heartbeat // nil: none, and logical messages are not asked for
	// StatusInterval is the interval of status updates to the primary; 0 means 1 s. The interval must be well below
	// wal_sender_timeout.
	StatusInterval time.Duration
	// Patience is the shortest silence of the server that ends a session; 0 means 30 s. A longer wal_sender_timeout of the server has
	// precedence, and 0 there allows any silence.
	Patience time.Duration

	state   atomic.Int32
	wal     atomic.Uint64 // see Position
	restart restart

	// The fields below are the reading goroutine's.

	reported  wal.LSN                  // the highest flush LSN sent
	silent    int                      // sessions since the last transaction that the server's silence has ended
	sessions  int                      // started so far
	relations map[uint32]*wal.Relation // resolved ones by oid, kept over sessions
}

// State is the activity of a Reader.
type State int32

// The states of a Reader.
const (
	Connecting State = iota
	Standby          // another process has the slot; the reader waits for the slot
	Streaming
)

func (s State) String() string { return [...]string{"connecting", "standby", "streaming"}[s] }

// State returns the reader's activity. Safe for concurrent use.
func (r *Reader) State() State { return State(r.state.Load()) }

// Latency is the duration of the newest heartbeat from the primary through the stream, and the time of arrival; see [Heartbeat.Latency].
func (r *Reader) Latency() (time.Duration, time.Time) { return r.Heartbeat.Latency() }

// Behind is how far the stream is behind the primary at least; see [Heartbeat.Behind].
func (r *Reader) Behind(now time.Time) time.Duration { return r.Heartbeat.Behind(now) }

// Position is how far the stream was read: the sink has every transaction committed before Position. Position is 0
// before the server said anything. Safe for concurrent use.
func (r *Reader) Position() wal.LSN { return wal.LSN(r.wal.Load()) }

// ErrMoved ends Run because the slot moved without the process: another process had the slot meanwhile, or a person advanced the slot. The
// state in the memory of the process may be out of date; the process starts over from the notes on the primary.
var ErrMoved = errors.New("the slot has moved since this process last read it")

// Run reads until ctx is done, which is not an error. Run reconnects by itself and waits as a standby while another
// process has the slot. Run returns an error where a person must act: the slot is gone, the publication was dropped,
// the primary is another server.
func (r *Reader) Run(ctx context.Context) error {
	if r.StatusInterval == 0 {
		r.StatusInterval = time.Second
	}
	if r.Patience == 0 {
		r.Patience = patience
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	for {
		started := time.Now()
		err := r.readSession(ctx)
		if ctx.Err() != nil {
			r.Sink.Settle()
			return nil //nolint:nilerr // a wanted stop is not an error
		}
		if time.Since(started) > pause.MaxInterval {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		switch {
		case errors.Is(err, ErrMoved), errors.As(err, new(*primary.Gap)):
			return err
		case errors.Is(err, errRestart):
			r.Log.Info("reading the stream again from the flush LSN", zap.Stringer("lsn", r.Acks.Flush()))
		case isSlotInUse(err):
			if r.State() != Standby {
				r.Log.Info("another process reads the slot; waiting as standby", zap.String("slot", r.Slot.Name))
			}
			r.state.Store(int32(Standby))
			wait = min(wait, time.Second)
		default:
			var refusal *primary.Problem
			if pgerror.SQLState(err) != "" {
				refusal = r.Slot.Server.Refusal(ctx)
			}
			if refusal == nil && isFatal(err) {
				return r.explainFatal(ctx, err)
			}
			r.state.Store(int32(Connecting))
			what := "lost the primary; connecting again"
			if refusal != nil {
				what, err = "the primary takes no writes; trying again", refusal
			}
			r.Log.Warn(what, zap.Error(err), zap.Duration("next_try_ms", wait))
		}
		select {
		case <-ctx.Done():
			r.Sink.Settle()
			return nil
		case <-time.After(wait):
		}
	}
}
