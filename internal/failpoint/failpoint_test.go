package failpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	shape, seen := regexp.MustCompile(`^(sql|replication|sink)/[a-z]+(-[a-z]+)*$`), map[string]bool{}
	for _, i := range All() {
		if !shape.MatchString(i.Name) || i.Where == "" || seen[i.Name] {
			t.Errorf("point %d has the name %q and is at %q", i.Point, i.Name, i.Where)
		}
		seen[i.Name] = true
		if p, ok := named(i.Name); !ok || p != i.Point {
			t.Errorf("%s is found as %s", i.Name, p)
		}
	}
}

func TestParse(t *testing.T) {
	got, err := parse("sink/before-commit=kill@3, replication/received=error@2+,sink/commit-sent=sleep:500ms,sink/park-noted=panic,")
	if err != nil {
		t.Fatal(err)
	}
	want := map[Point]plan{BeforeCommit: {action: actKill, at: 3}, Received: {action: actError, at: 2, later: true},
		CommitSent: {action: actSleep, sleep: 500 * time.Millisecond}, ParkNoted: {action: actPanic}}
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%s is %v", p, got[p])
		}
	}
	for text, says := range map[string]string{
		"sink/befor-commit=kill":                      `no failpoint "sink/befor-commit"`,
		"sink/before-commit":                          "expected POINT=ACTION",
		"sink/before-commit=die":                      "expected kill, stop",
		"sink/before-commit=kill:3":                   "expected kill, stop",
		"sink/before-commit=kill@0":                   "N from 1",
		"sink/before-commit=sleep":                    "expected a duration",
		"sink/before-commit=sleep:-1s":                "expected a duration",
		"sink/park-noted=error":                       "cannot fail",
		"sink/before-commit=kill,sink/before-commit=": "two actions",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, expected %s", text, err, says)
		}
	}
}

func TestCounts(t *testing.T) {
	for _, c := range []struct {
		p    plan
		n    int
		want bool
	}{{plan{}, 1, true}, {plan{}, 9, true}, {plan{at: 3}, 2, false}, {plan{at: 3}, 3, true}, {plan{at: 3}, 4, false}, {plan{at: 3, later: true}, 4, true}} {
		if c.p.counts(c.n) != c.want {
			t.Errorf("%+v at %d", c.p, c.n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("sink/before-commit=kill@3,replication/received=error@2+,sink/commit-sent=sleep:500ms")
	f.Fuzz(func(t *testing.T, text string) {
		plans, err := parse(text)
		if err != nil {
			return
		}
		for p, want := range plans {
			again, err := parse(p.String() + "=" + want.String())
			if err != nil || again[p] != want {
				t.Errorf("%s=%s is read as %v, %v", p, want, again, err)
			}
		}
	})
}

// build builds the program with build tags and returns its file.
func build(t *testing.T, tags string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "outflow")
	out, err := exec.Command("go", "build", "-tags", tags, "-o", file, "outflow/cmd/outflow").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// The program without the tag holds nothing of the package: no function, no name of a point, no variable.
func TestProgramHoldsNoFailpoints(t *testing.T) {
	without, with := build(t, ""), build(t, "failpoint")
	traces := []string{"OUTFLOW_FAILPOINTS", "internal/failpoint.init", "internal/failpoint.(*Error)"}
	for _, i := range All() {
		traces = append(traces, i.Name, i.Where)
	}
	for file, held := range map[string]bool{without: false, with: true} {
		program, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, trace := range traces {
			if strings.Contains(string(program), trace) != held {
				t.Errorf("%s holds %q: %t", file, trace, !held)
			}
		}
	}
	checkEnvironment(t, without, with)
}

// checkEnvironment runs both programs: the list is printed; a name that is not in the list ends the program before it does anything; a
// program without points refuses the variable.
func checkEnvironment(t *testing.T, without, with string) {
	t.Helper()
	run := func(program, points string, args ...string) (string, int) {
		c := exec.Command(program, args...)
		c.Env = append(os.Environ(), "OUTFLOW_FAILPOINTS="+points)
		out, _ := c.CombinedOutput()
		return string(out), c.ProcessState.ExitCode()
	}
	out, code := run(with, "list", "run")
	for _, i := range All() {
		if code != 0 || !strings.Contains(out, i.Name+" ") {
			t.Errorf("the list lacks %s, exit code %d:\n%s", i.Name, code, out)
		}
	}
	if out, code := run(with, "sink/nowhere=kill", "version"); code != 2 || !strings.Contains(out, `there is no failpoint "sink/nowhere"`) {
		t.Errorf("an unknown point: exit code %d, %s", code, out)
	}
	if out, code := run(without, "sink/before-commit=kill", "run", "--set", "source.dsn=postgres://h/d"); code != 2 || !strings.Contains(out, "OUTFLOW_FAILPOINTS") {
		t.Errorf("a program without points: exit code %d, %s", code, out)
	}
}
