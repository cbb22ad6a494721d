package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// series of a scenario, by what stands between outflow_ and the closing brace of the labels, but for job; with a value for each minute.
type series map[string]string

// situations are what Prometheus may see for an hour, and which alerts fire at its minute 45. "a" reads the slot, "b" is a standby.
var situations = []struct {
	name   string
	series series
	fire   []string
}{
	{"all is well", series{
		`role{instance="a",role="streaming"`: "1x60", `role{instance="b",role="standby"`: "1x60", `ready{instance="a"`: "1x60",
		`destinations_in_sync{instance="a"`: "2000x60", `destinations_in_sync{instance="b"`: "2000x60", `slot_active{instance="a"`: "1x60",
		`destinations{instance="a",state="streaming"`: "2000x60", `destinations{instance="b",state="streaming"`: "2000x60",
		`lag_seconds{instance="a"`: "1x60", `lag_p50_seconds{instance="a"`: "0x60", `lag_bytes{instance="a"`: "1024x60",
	}, nil},
	{"1,970 of 2,000 are dead", series{
		`role{instance="a",role="streaming"`: "1x60", `role{instance="b",role="standby"`: "1x60", `ready{instance="a"`: "1x60",
		`destinations_in_sync{instance="a"`: "30x60", `lag_seconds{instance="a"`: "0x60", `lag_p50_seconds{instance="a"`: "0x60",
		`destinations{instance="a",state="streaming"`: "30x60", `destinations{instance="a",state="retrying"`: "100x60", `destinations{instance="a",state="parked"`: "1870x60",
	}, []string{"OutflowNotInSync", "OutflowManyDestinationsFail", "OutflowDestinationsParked", "OutflowDestinationsRetrying"}},
	{"most are behind, which the standby does not know", series{
		`role{instance="a",role="streaming"`: "1x60", `role{instance="b",role="standby"`: "1x60", `ready{instance="a"`: "1x60",
		`destinations_in_sync{instance="a"`: "100x60", `destinations_in_sync{instance="b"`: "2000x60",
		`destinations{instance="a",state="streaming"`: "2000x60", `destinations{instance="b",state="streaming"`: "2000x60",
		`lag_seconds{instance="a"`: "900x60", `lag_p50_seconds{instance="a"`: "90x60",
	}, []string{"OutflowNotInSync", "OutflowLag", "OutflowLagOfMost"}},
	{"a destination is halted, the reader is killed, the standby takes over", series{
		`role{instance="a",role="streaming"`: "1x30", `role{instance="b",role="standby"`: "1x30 0x30", `role{instance="b",role="streaming"`: "0x30 1x30", `ready{instance="b"`: "1x60",
		`destinations{instance="a",state="halted"`: "1x30", `destinations{instance="b",state="halted"`: "1x60",
		`destinations{instance="a",state="streaming"`: "99x30", `destinations{instance="b",state="streaming"`: "99x60",
		`destinations_in_sync{instance="a"`: "99x30", `destinations_in_sync{instance="b"`: "99x60",
	}, []string{"OutflowDestinationsHalted"}},
	{"nobody reads the slot", series{
		`role{instance="b",role="standby"`: "1x60", `role{instance="b",role="streaming"`: "0x60", `ready{instance="b"`: "1x60", `slot_active{instance="b"`: "0x60",
		`destinations{instance="b",state="halted"`: "3x60",
	}, []string{"OutflowNotStreaming", "OutflowSlotInactive", "OutflowDestinationsHalted"}},
	{"a copy stands still", series{
		`role{instance="a",role="streaming"`: "1x60", `role{instance="b",role="standby"`: "1x60", `ready{instance="a"`: "1x60", `switch_off{instance="a",switch="backfills"`: "0x60",
		`destinations{instance="a",state="backfilling"`: "1x60", `destinations{instance="a",state="streaming"`: "99x60", `destinations_in_sync{instance="a"`: "99x60",
		`backfill_rows{instance="a"`: "5000x60",
	}, []string{"OutflowBackfillStuck"}},
	{"nothing is scraped", series{}, []string{"OutflowAbsent"}},
}

// Prometheus itself evaluates the rules over each situation: those alerts fire that should, and no others.
func TestAlertsFire(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool, of Prometheus, is not installed")
	}
	dir := t.TempDir()
	rules := regexp.MustCompile(`(?m)^        annotations:\n(?:          .*\n)+`).ReplaceAllString(read(t, "prometheus/alerts.yaml"), "") // a test would have to repeat them
	write(t, filepath.Join(dir, "alerts.yaml"), rules)
	var b strings.Builder
	b.WriteString("rule_files: [alerts.yaml]\nevaluation_interval: 1m\ntests:\n")
	for _, s := range situations {
		fmt.Fprintf(&b, "  - name: %q\n    interval: 1m\n    input_series:\n", s.name)
		for labels, values := range s.series {
			fmt.Fprintf(&b, "      - {series: 'outflow_%s,job=\"outflow\"}', values: '%s'}\n", labels, values)
		}
		b.WriteString("    alert_rule_test:\n")
		for _, a := range alerts(t) {
			fmt.Fprintf(&b, "      - {eval_time: 45m, alertname: %s, exp_alerts: [", a.Alert)
			for _, name := range s.fire {
				if name == a.Alert {
					job := "job: outflow, "
					if name == "OutflowAbsent" {
						job = ""
					}
					fmt.Fprintf(&b, "{exp_labels: {%sseverity: %s}}", job, a.Labels["severity"])
				}
			}
			b.WriteString("]}\n")
		}
	}
	file := filepath.Join(dir, "test.yaml")
	write(t, file, b.String())
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v:\n%.6000s", err, out)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
