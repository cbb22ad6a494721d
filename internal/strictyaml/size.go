package strictyaml

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// ByteSize is a number of bytes, written as 64KiB, 8MiB, 1GiB or a plain
// integer.
type ByteSize int64

// The units of a ByteSize.
const (
	KiB ByteSize = 1 << (10 * (iota + 1))
	MiB
	GiB
)

var errSize = errors.New("expected a size such as 64KiB, 8MiB, 1GiB or a number of bytes")

var sizeUnits = []struct {
	suffix string
	bytes  ByteSize
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

// String gives the size in the largest unit that divides it.
func (b ByteSize) String() string {
	for _, unit := range sizeUnits {
		if b != 0 && b%unit.bytes == 0 {
			return strconv.FormatInt(int64(b/unit.bytes), 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText gives the same text as String.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what String writes; spaces, fractions and negative
// numbers are refused.
func (b *ByteSize) UnmarshalText(text []byte) error {
	digits, multiple := string(text), ByteSize(1)
	for _, unit := range sizeUnits {
		if number, ok := strings.CutSuffix(digits, unit.suffix); ok {
			digits, multiple = number, unit.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || ByteSize(n) > math.MaxInt64/multiple {
		return errSize
	}
	*b = ByteSize(n) * multiple
	return nil
}
