package primary

import (
	"math"
	"testing"

	"outflow/replication/wal"
)

// No id and no place in the WAL makes a sum that is no int64.
func TestSequenceIDsDoNotOverflow(t *testing.T) {
	for _, base := range []int64{0, maxBase, -maxBase, 1 << 40} {
		last := int64(math.MinInt64)
		for _, at := range []wal.LSN{0, 1, 1 << 40, maxLSN, math.MaxInt64, math.MaxUint64} {
			id := Source{SequenceBase: base}.SequenceID(at)
			if id < last {
				t.Errorf("base %d at %d: the id %d is below %d", base, at, id, last)
			}
			last = id
		}
	}
	for _, highest := range []int64{-1, 0, 1 << 46, maxBase} {
		for _, at := range []wal.LSN{1, 1 << 40, math.MaxUint64} {
			if base := settleBase(Source{SystemID: "a"}, Source{SystemID: "b"}, at, highest); highest >= 0 && base+int64(min(at, maxLSN)) <= highest {
				t.Errorf("base %d at %d is not above %d", base, at, highest)
			}
		}
	}
}
