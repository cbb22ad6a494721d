package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the primary's write-ahead log, in bytes. 0 is no position.
type LSN uint64

// ParseLSN reads the server's text form of an LSN: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	upper, lower, divided := strings.Cut(s, "/")
	high, err := strconv.ParseUint(upper, 16, 32)
	if err != nil || !divided {
		return 0, fmt.Errorf("%q is not an LSN", s)
	}
	low, err := strconv.ParseUint(lower, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not an LSN", s)
	}
	return LSN(high<<32 | low), nil
}

// String is the server's text form.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }
