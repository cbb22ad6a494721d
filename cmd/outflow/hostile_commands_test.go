package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// The commands that ask the external servers end within a bounded time, with an exit code of theirs, and with an output fit for a terminal.
func TestCommandsAgainstHostileServers(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	l := newLiars(t, 4)
	commands := [][]string{{"check"}, {"verify"}, {"check", "-o", "json"}, {"verify", "-o", "json"}, {"verify", "--repair"}, {"run", "--slot-reset", "--yes"}}
	for end, n := time.Now().Add(lasting(t, 8*time.Second)), 0; time.Now().Before(end) || n < len(commands); n++ {
		for i := range l.tenants {
			l.lies(i)
		}
		command := commands[n%len(commands)]
		p := launch(t, append(append(slices.Clone(command), "--config", l.file), impatient...)...)
		began := time.Now()
		if command[0] == "run" {
			p.says("the slot was reset")
			if code := p.terminate(); code != 0 {
				t.Errorf("SIGTERM has ended run --slot-reset with %d", code)
			}
		} else {
			stop := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
			_ = p.cmd.Wait()
			stop.Stop()
			if code := p.cmd.ProcessState.ExitCode(); code < 0 || code > 2 {
				t.Errorf("%v has ended with %s after %s:\n%.4000s", command, p.cmd.ProcessState, time.Since(began), p.out)
			}
		}
		if out := p.out.String(); strings.Contains(out, "goroutine ") {
			t.Errorf("%v: a panic:\n%.4000s", command, out)
		}
		l.cleanText(p.out.String())
		if t.Failed() {
			l.told()
			return
		}
	}
}
