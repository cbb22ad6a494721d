package wal

import (
	"fmt"
	"time"
)

// Kind says what a change did to the row.
type Kind byte

// The kinds of change sent by pgoutput.
const (
	Insert   Kind = 'I'
	Update   Kind = 'U'
	Delete   Kind = 'D'
	Truncate Kind = 'T'
)

func (k Kind) String() string {
	switch k {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	}
	return fmt.Sprintf("Kind(%q)", byte(k))
}

// Change is a row's change (or a table's truncation). A Change is immutable once handed over, and may be shared.
type Change struct {
	Kind Kind
	// Tombstone marks a delete known only from a row of the tombstone table. A trigger may have written the tombstone after the transaction
	// wrote the deleted key again.
	Tombstone bool
	Ordinal   uint32 // place in the source transaction, from 0
	Relation  *Relation
	// Old is the row before the change: for a delete always, for an update only if the replica identity's columns
	// changed or the identity is FULL. Unless the identity is FULL only the identity's columns are filled, the rest is NULL.
	Old Tuple
	// New is the row after an insert or update. Columns left in TOAST by an update are [Unchanged], unless Old has them.
	New Tuple
}

// Bytes is about how much memory the change holds.
func (c *Change) Bytes() int64 { return changeOverhead + int64(len(c.Old.raw)+len(c.New.raw)) }

// changeOverhead is the size of a Change and of its allocation, in bytes.
const changeOverhead = 112

// Transaction is a committed transaction of the primary, or a part of a large one.
type Transaction struct {
	SequenceID int64     // sequence base + commit LSN
	XID        uint32    // the low 32 bits of the transaction id
	CommitLSN  LSN       // of the commit record
	CommitTime time.Time // on the primary's clock
	Changes    []Change  // of the part; may be empty in the last part
	Last       bool      // no more parts follow
	Session    int       // counts the readings of the stream; a lost connection starts a new reading
	Ticket     Ticket    // released by a holder once the transaction is durable
}

// Ticket names a transaction in the reader's tracker of acknowledgements.
type Ticket uint64
