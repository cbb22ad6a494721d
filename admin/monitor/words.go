package monitor

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"outflow/sink/ledger"
)

// NoValue stands for an unknown value; never 0.
const NoValue = "—"

// BytesText is a number of bytes with its unit.
func BytesText(n int64) string {
	if n < 0 {
		return "-" + BytesText(-n)
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 1024 && unit < 5 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.3g %s", math.Floor(value*100)/100, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}

// DurationText is short and never more exact than helps.
func DurationText(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case seconds < 0.001:
		return "0 ms"
	case seconds < 1:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case seconds < 60:
		return fmt.Sprintf("%.1f s", seconds)
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// WholeText is for moments: tenths of a second are of no use there.
func WholeText(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return DurationText(math.Floor(d.Seconds()))
}

// NumberText groups thousands.
func NumberText(n int64) string {
	text := strconv.FormatInt(n, 10)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	var groups []string
	for len(text) > 3 {
		groups = append([]string{text[len(text)-3:]}, groups...)
		text = text[:len(text)-3]
	}
	return sign + strings.Join(append([]string{text}, groups...), "\u202f")
}

// SwitchTitle is the name of a switch for all destinations.
func SwitchTitle(name string) string {
	return map[string]string{ledger.SwitchReading: "Reading the slot", ledger.SwitchApplying: "Applying changes",
		ledger.SwitchBackfills: "Backfills"}[name]
}

// plural is "1 destination is", "2 destinations are".
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
