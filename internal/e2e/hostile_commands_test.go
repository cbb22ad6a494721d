package e2e

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/internal/liar"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// The commands that ask the external servers end within a bounded time, with an exit code of theirs, and with an output fit for a terminal.
func TestCommandsAgainstHostileServers(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	l := newLiars(t, 4, nil)
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

// A primary that answers anything, or a pooler before the primary, makes no command panic, and has the terminal obey nothing. How long a command
// waits for a silent primary is in TestSilentPrimary.
func TestCommandsAgainstALyingPrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(3, tenant1)
	w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	r.end()
	commands := [][]string{{"check"}, {"verify"}, {"init"}, {"status"}, {"pause", tenant1 + "/main"}, {"resume", tenant1 + "/main"}, {"retry", "--all"}, {"resync", "--no-wait"},
		{"verify", "--repair"}, {"init", "--apply"}}
	rnd := rand.New(rand.NewPCG(seed(t), 13))
	for end, n := time.Now().Add(lasting(t, 4*time.Second)), 0; time.Now().Before(end); n++ {
		command := commands[n%len(commands)]
		s, err := liar.Listen(w.cluster.Addr(), rnd.Uint64(), []float64{0.01, 0.05, 0.2}[rnd.IntN(3)])
		must(t, err)
		copied := *w.cfg
		copied.Source.DSN = secret.New(s.DSN(w.source))
		one := &world{tb: t, cfg: &copied}
		p := launch(t, append(slices.Clone(command), "--config", one.configFile())...)
		stop := time.AfterFunc(time.Second, func() { _ = p.cmd.Process.Kill() }) // it waits for an answer
		_ = p.cmd.Wait()
		stop.Stop()
		must(t, s.Close())
		if out := p.out.String(); strings.Contains(out, "goroutine ") || strings.IndexFunc(out, steersTerminal) >= 0 {
			t.Fatalf("%v, lies %v:\n%.4000q", command, s.Told(), out)
		}
	}
}
