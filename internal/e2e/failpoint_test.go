package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"outflow/internal/failpoint"
)

// An ordeal brings about a part of the failpoints. TestFailpoints plays each ordeal with each action: the process with the tag runs, fails
// at a point, is started again after its end, and so on, until every chosen point has done its action. Then both sides must be equal, and
// the journals must hold each change a single time.
type ordeal struct {
	name   string
	points []failpoint.Point
	args   []string // of outflow, behind "run --config FILE"
	// begin makes the world ready for the first process.
	begin func(f *failing)
	// again makes the world as it was after begin, before each action; nil: nothing is to be done.
	anew func(f *failing)
	// stir has the points reached; the ordeal calls stir again and again. nil: the start of the process is enough.
	stir func(f *failing, n int)
	// heal gives back what stir has taken away; nil: nothing.
	heal func(f *failing)
	// settled compares both sides at the end.
	settled func(f *failing)
}

// failing is an ordeal in play.
type failing struct {
	*world
	t       *testing.T
	s       *ordeal
	program string // built with the tag
	file    string // the configuration
	hits    string // the file of OUTFLOW_FAILPOINTS_HITS
	rnd     *rand.Rand
	dsns    []string // of the external databases, in the order of the configuration
	version int
	extra   any // of the ordeal
}

// own are the points where a panic is the fault of a single destination, and the process goes on.
var own = []failpoint.Point{failpoint.LookedUp, failpoint.BeforeConnect, failpoint.Connected, failpoint.BeforeInstall, failpoint.Installed,
	failpoint.BeforeBegin, failpoint.StepQueued, failpoint.BeforeAdvance, failpoint.BeforeCommit, failpoint.CommitSent, failpoint.Committed,
	failpoint.RoundApplied, failpoint.Flushed, failpoint.BeforeQuarantine, failpoint.Quarantined, failpoint.BackfillBegun, failpoint.ChunkRead, failpoint.BeforeMerge, failpoint.ChunkMerged, failpoint.PutOff,
	failpoint.ParkNoted, failpoint.NextPass, failpoint.SweepPageRead, failpoint.SweepMissingFound, failpoint.SweepRemoved, failpoint.BackfillFinished}

// A point without an ordeal would be a point without a test.
func TestEveryFailpointHasAnOrdeal(t *testing.T) {
	times := map[failpoint.Point]int{}
	for _, s := range ordeals {
		for _, p := range s.points {
			times[p]++
		}
	}
	for _, i := range failpoint.All() {
		if times[i.Point] != 1 {
			t.Errorf("%s is in %d ordeals of failpoint_ordeals_test.go; expected 1", i.Name, times[i.Point])
		}
	}
}

// home is where go finds its caches. Tests of the configuration unset the variable: see config.Scrub.
var home = os.Getenv("HOME")

// make test plays a sample of the points, chosen by the seed; make failpoints plays all.
func TestFailpoints(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	program := filepath.Join(t.TempDir(), "outflow")
	build := osexec.Command("go", "build", "-tags", "failpoint", "-o", program, "outflow/cmd/outflow")
	build.Env = append(os.Environ(), "HOME="+home)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n, chosen := seed(t), size(t, "FAILPOINTS", 1)
	rnd := rand.New(rand.NewPCG(n, 7))
	for i := range ordeals {
		s, one := &ordeals[i], rand.New(rand.NewPCG(n, rnd.Uint64()))
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f := &failing{world: newFailingWorld(t), t: t, s: s, program: program, rnd: one, hits: filepath.Join(t.TempDir(), "hits")}
			s.begin(f)
			f.file = f.configFile()
			for _, action := range []string{"kill", "error", "panic"} {
				if s.anew != nil {
					s.anew(f)
				}
				f.play(action, f.choose(action, chosen))
			}
		})
	}
}

// choose takes some of the ordeal's points, at a random hit each.
func (f *failing) choose(action string, n int) []string {
	points := slices.Clone(f.s.points)
	f.rnd.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	var chosen []string
	for _, p := range points {
		if (action == "error" && !p.Info().Fails) || len(chosen) == n {
			continue
		}
		entry := p.String() + "=" + action
		if f.s.stir != nil && !slices.Contains(oncePerProcess, p) {
			entry += fmt.Sprintf("@%d", 1+f.rnd.IntN(2))
		} else {
			entry += "@1"
		}
		chosen = append(chosen, entry)
	}
	return chosen
}

// play runs the ordeal until all entries have done their action.
func (f *failing) play(action string, left []string) {
	f.t.Helper()
	f.t.Logf("%s: %s", action, strings.Join(left, ","))
	deadline := time.Now().Add(5 * time.Minute)
	for n := 0; len(left) > 0; {
		must(f.t, os.WriteFile(f.hits, nil, 0o600))
		p := launchProgram(f.t, f.program, []string{"OUTFLOW_FAILPOINTS=" + strings.Join(left, ","), "OUTFLOW_FAILPOINTS_HITS=" + f.hits},
			append([]string{"run", "--config", f.file}, f.s.args...)...)
		ended := make(chan error, 1)
		go func() { ended <- p.cmd.Wait() }()
		alive, launched := true, len(left)
		for ; alive && len(left) > 0; n++ {
			if f.s.stir != nil {
				f.s.stir(f, n)
			}
			select {
			case <-ended:
				alive = false
			case <-time.After(50 * time.Millisecond):
			}
			before := len(left)
			left = slices.DeleteFunc(left, f.acted)
			if alive && action == "kill" && len(left) < before {
				<-ended // the signal is on its way
				alive = false
			}
			if !alive {
				f.judge(p, action, launched-len(left))
			}
			if time.Now().After(deadline) {
				f.t.Fatalf("%s: not reached: %s; outflow says\n%.4000s", action, left, p.out)
			}
		}
		if alive {
			f.stops(p, ended, action, launched-len(left))
		}
	}
	f.heals(action)
}

// acted reports whether an entry has done its action.
func (f *failing) acted(entry string) bool {
	text, err := os.ReadFile(f.hits)
	must(f.t, err)
	return slices.Contains(strings.Split(string(text), "\n"), entry)
}

// judge looks at the end of a process before any SIGTERM.
func (f *failing) judge(p *process, action string, acted int) {
	f.t.Helper()
	state, out := p.cmd.ProcessState, p.out.String()
	switch status := state.Sys().(syscall.WaitStatus); {
	case strings.Contains(out, "is in use"): // the session of the killed process holds the slot for a moment
	case action == "kill":
		if status.Signal() != syscall.SIGKILL || acted != 1 {
			f.t.Errorf("the process has ended with %s after %d kills:\n%.4000s", state, acted, out)
		}
	case action == "error":
		if code := state.ExitCode(); code != 1 || !strings.Contains(out, "outflow: ") {
			f.t.Errorf("an error has ended the process with %s:\n%.4000s", state, out)
		}
	case acted == 0:
		f.t.Errorf("the process has ended by itself with %s:\n%.4000s", state, out)
	default:
		for _, point := range own {
			if strings.Contains(out, "panic: failpoint "+point.String()) {
				f.t.Errorf("a panic at %s has ended the process", point)
			}
		}
	}
}

// stops ends a process with SIGTERM. The last action may end the process first.
func (f *failing) stops(p *process, ended chan error, action string, acted int) {
	f.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		f.t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		f.t.Fatalf("SIGTERM does not end the process:\n%.8000s", p.out)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 && len(f.s.args) == 0 {
		f.judge(p, action, acted)
	}
}

// heals runs the ordeal to its end without failpoints.
func (f *failing) heals(action string) {
	f.t.Helper()
	if f.s.heal != nil {
		f.s.heal(f)
	}
	var p *process
	waitFor(f.t, action+": the process to stream", func() error {
		if p == nil || p.cmd.ProcessState != nil {
			p = launchProgram(f.t, f.program, nil, append([]string{"run", "--config", f.file}, f.s.args...)...)
		}
		switch out := p.out.String(); {
		case strings.Contains(out, `"streaming"`):
			return nil
		case strings.Contains(out, "is in use"):
			p.kill()
			return errors.New("the slot is in use")
		default:
			return fmt.Errorf("it says %.2000s", out)
		}
	})
	for _, d := range f.cfg.Destinations.Static {
		f.waitState(d.Tenant, d.Name, "streaming")
	}
	f.synced()
	f.s.settled(f)
	if f.t.Failed() {
		f.t.Fatalf("%s: outflow says\n%.8000s", action, p.out)
	}
	if code := p.terminate(); code != 0 {
		f.t.Errorf("SIGTERM has ended the process with %d", code)
	}
}
