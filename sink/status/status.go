package status

import (
	"time"

	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// Status is a destination at one moment.
type Status struct {
	State        ledger.State
	Since        time.Time // of the state
	Reason       string    // of the state, for people; "" where State says enough
	SequenceID   int64     // last committed in the external database, -1 before it is known
	CommitTime   time.Time // of the last committed transaction on the primary, zero before there was one
	Rows         int64     // net changes committed since the process started
	Batches      int64     // external transactions committed since then
	Transactions int64     // of the source, committed by the batches
	Failures     int64     // since the process started
	QueueStatus
	CopyStatus
	Attempts    int       // failures in a row
	NextRetry   time.Time // zero unless Retrying or Halted
	Err         error     // the last failure, nil while all is well; the failure for a person where State is Halted
	Detached    bool      // the stream goes on without the destination, which is copied again when it takes rows again
	DetachedWhy string    // for people; "" unless Detached
}

// QueueStatus is what waits for a destination.
type QueueStatus struct {
	Queued        int // transactions
	QueuedChanges int64
	QueueBytes    int64
	Oldest        time.Time // commit of the first queued transaction on the primary; zero where none waits
}

// CopyStatus is how far a destination's copy is.
type CopyStatus struct {
	Copying   bool   // a backfill goes on, whatever the state
	Copied    int64  // rows copied by the backfill in progress
	CopyTotal int64  // how many there are, by the planner's estimate; -1 is not known
	CopyTable string // the copied or swept source table; "" where there is none
}

// StateOf is the state as it is shown. unread says that a person has switched off the reading of the slot.
func StateOf(l lifecycle.Life, unread bool) ledger.State {
	switch {
	case l.Unusable:
		return ledger.Halted
	case l.Paused:
		return ledger.Paused
	case l.Health == lifecycle.Halted:
		return ledger.Halted
	case l.Stream == lifecycle.Detached:
		return ledger.Parked
	case l.Health == lifecycle.Failing:
		return ledger.Retrying
	case !l.Current:
		return ledger.Backfilling
	case unread:
		return ledger.Paused
	}
	return ledger.Streaming
}

// Event is a change of a destination's state.
type Event struct {
	At     time.Time
	State  ledger.State
	Reason string // for people; "" where the state says enough
}
