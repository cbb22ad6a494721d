package command

import (
	"strings"
	"testing"
)

// Options of bench and demo that cannot be are usage errors, and nothing is started.
func TestOptionsAreRefused(t *testing.T) {
	for _, line := range []string{"bench --rounds 0", "bench --only w7", "bench -o xml", "bench --changes -1", "bench --latency-duration 1h", "bench more",
		"demo --tenants 0", "demo --rate 0", "demo --duration -1s"} {
		var out strings.Builder
		if code := Execute(t.Context(), "test", strings.Fields(line), &out, &out); code != exitUsage {
			t.Errorf("%s: exit code %d: %s", line, code, out.String())
		}
	}
}
