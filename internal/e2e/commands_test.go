package e2e

import (
	"bytes"
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// outflow runs the program and returns what it writes, and its exit code.
func outflow(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := osexec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), "OUTFLOW_TEST_EXEC=1"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *osexec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCommandLine(t *testing.T) {
	anyVersion(t)
	good := write(t, "good.yaml", mirror("item", 1, "id int", "note text"))
	bad := write(t, "bad.yaml", "name: bad\ntarget: bad\nafter: [bad]\nunknown: 1\nsteps:\n  - from: item\n    when: never\n    sql: COMMIT\n")
	worse := write(t, "worse.yaml", "name: worse\ntarget: worse\nsteps:\n  - from: item\n    when: sometimes\n    sql: COMMIT\n")
	cfg := write(t, "outflow.yaml", "source:\n  dsn: postgres://me:hunter2@db.example/app\n  slot: mine\nsink: {batch_rows: 77}\n")
	typo := write(t, "typo.yaml", "source:\n  dsn: postgres://me@db.example/app\n  slots: mine\nsink: {batch_rows: many}\n")
	for _, c := range []struct {
		args   string
		code   int
		stdout []string
		stderr []string
	}{
		{"mapping check " + good, 0, []string{good + ": mapping item is well-formed: 2 steps over item"}, nil},
		{"mapping check " + good + " " + bad, 1, []string{good}, []string{bad + ":4:1: ", "unknown", "1 of 2 mappings have faults"}},
		{"mapping check " + worse, 1, nil, []string{worse + ":5:11: ", `found "sometimes"`, worse + ":6:10: ", `found "commit"`, "1 of 1"}},
		{"mapping check /nowhere.yaml", 2, nil, []string{"/nowhere.yaml"}},
		{"mapping check", 2, nil, []string{"requires at least 1 arg"}},
		{"mapping", 0, []string{"check"}, nil},
		{"mapping chekc", 2, nil, []string{"chekc"}},
		{"config print --config " + cfg, 0, []string{"slot: mine # file " + cfg + ":3", "batch_rows: 77 # file", "publication: outflow # default", "me:"}, nil},
		{"config print --config " + cfg + " --set sink.batch_rows=5 --set source.slot=other", 0,
			[]string{"batch_rows: 5 # flag", "slot: other # flag", "queue_bytes: 8MiB # default"}, nil},
		{"config print --config " + cfg + " --set sink.batch_rows", 2, nil, []string{"expected path=value"}},
		{"config print --config " + cfg + " --set sink.nonsense=1", 2, nil, []string{"nonsense"}},
		{"config print --config " + typo, 2, nil, []string{typo + ":3:3: ", "slots", typo + ":4:20: "}},
		{"config print --config /nowhere.yaml", 2, nil, []string{"/nowhere.yaml"}},
		{"config print extra", 2, nil, []string{"extra"}},
		{"config print --nonsense", 2, nil, []string{"--nonsense"}},
		{"run --config " + typo, 2, nil, []string{typo + ":3:3: "}},
		{"check --config " + typo, 2, nil, []string{typo + ":3:3: "}},
		{"check --config " + cfg + " -o xml", 2, nil, []string{"expected text or json"}},
		{"run extra", 2, nil, []string{"extra"}},
		{"nonsense", 2, nil, []string{"nonsense"}},
		{"", 0, []string{"Usage:", "Exit codes: 0 done"}, nil},
		{"version", 0, []string{"dev"}, nil},
		{"completion bash", 0, []string{"outflow"}, nil},
	} {
		stdout, stderr, code := outflow(t, nil, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("outflow %s: exit code %d, expected %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
		contains(t, stdout, c.stdout...)
		contains(t, stderr, c.stderr...)
		if all := stdout + stderr; strings.Contains(all, "hunter2") || strings.Contains(all, "panic") {
			t.Errorf("outflow %s prints what it must not:\n%s", c.args, all)
		}
	}
	stdout, stderr, code := outflow(t, []string{"OUTFLOW_SINK_BATCH_ROWS=9", "OUTFLOW_LOG_LEVEL=loud"}, "config", "print", "--config", cfg)
	if code != 2 {
		t.Errorf("a bad value in the environment: exit code %d\n%s%s", code, stdout, stderr)
	}
	contains(t, stderr, "OUTFLOW_LOG_LEVEL", "debug, info, warn, error")
	stdout, _, _ = outflow(t, []string{"OUTFLOW_SINK_BATCH_ROWS=9"}, "config", "print", "--config", cfg)
	contains(t, stdout, "batch_rows: 9 # environment OUTFLOW_SINK_BATCH_ROWS")
}
