package wal

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot tells which transactions a read of the primary saw. The zero value saw none.
type Snapshot struct {
	xmax       uint64
	inProgress []uint32 // low halves
}

// ParseSnapshot reads the text form of pg_current_snapshot: xmin:xmax:xip,xip,... (the Postgres manual, "Transaction ID
// and Snapshot Information Functions").
func ParseSnapshot(s string) (Snapshot, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return Snapshot{}, fmt.Errorf("%q is not a snapshot", s)
	}
	xmax, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return Snapshot{}, fmt.Errorf("%q is not a snapshot: %w", s, err)
	}
	snapshot := Snapshot{xmax: xmax}
	for x := range strings.SplitSeq(parts[2], ",") {
		if x == "" {
			continue
		}
		n, err := strconv.ParseUint(x, 10, 64)
		if err != nil {
			return Snapshot{}, fmt.Errorf("%q is not a snapshot: %w", s, err)
		}
		snapshot.inProgress = append(snapshot.inProgress, uint32(n))
	}
	return snapshot, nil
}

// Sees reports whether the transaction with the low 32 bits xid had become visible. Begin messages carry no more; a
// transaction is never 2^31 away from the snapshot, so the low halves compare in a circle, as in Postgres itself
// (TransactionIdPrecedes).
func (s Snapshot) Sees(xid uint32) bool {
	return int32(xid-uint32(s.xmax)) < 0 && !slices.Contains(s.inProgress, xid)
}

// InProgress are the low 32 bits of the transactions with an id and not visible yet. Such a transaction may have committed, and may have
// been decoded, already: the transaction becomes visible a moment later, or with synchronous replication perhaps much later.
func (s Snapshot) InProgress() []uint32 { return s.inProgress }

// End is the end of the snapshot: the snapshot sees no transaction with the id End or a later id. End is behind the
// newest visible transaction, so running transactions may have later ids, and are then not among InProgress.
func (s Snapshot) End() uint32 { return uint32(s.xmax) }
