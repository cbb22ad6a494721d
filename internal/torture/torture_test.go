package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// pollEvery is the interval of looks at states without an announcement.
const pollEvery = 20 * time.Millisecond

// TestTorture plays OUTFLOW_TORTURE_RUNS schedules, from the seed OUTFLOW_TORTURE_SEED on, each for OUTFLOW_TORTURE_DURATION.
func TestTorture(t *testing.T) {
	t.Parallel()
	first, duration := setting(t, "SEED", 1, parseSeed), setting(t, "DURATION", 20*time.Second, time.ParseDuration)
	runs := setting(t, "RUNS", 1, strconv.Atoi)
	binary := build(t)
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { torture(t, binary, seed, duration) })
	}
}

func parseSeed(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }

// setting is the environment variable OUTFLOW_TORTURE_<name>.
func setting[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	text := os.Getenv("OUTFLOW_TORTURE_" + name)
	if text == "" {
		return otherwise
	}
	v, err := parse(text)
	if err != nil {
		t.Fatalf("OUTFLOW_TORTURE_%s: %v", name, err)
	}
	return v
}

// build makes the outflow binary, with the race detector where the test has the race detector.
func build(t *testing.T) string {
	binary := filepath.Join(t.TempDir(), "outflow")
	args := []string{"build", "-tags", "failpoint", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "outflow/cmd/outflow")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return binary
}

// torture is a run.
func torture(t *testing.T, binary string, seed uint64, duration time.Duration) {
	dir, err := os.MkdirTemp(os.Getenv("OUTFLOW_TORTURE_DIR"), fmt.Sprintf("outflow-torture-%d-", seed))
	must(t, err)
	steps := newSchedule(seed, duration, allLanes())
	t.Logf("seed %d, %s:\n%s", seed, duration, printed(steps))
	w := newWorld(t, seed, dir)
	w.fleet = newFleet(w, binary)
	defer w.fleet.end() // also where the test ends early
	began := time.Now()
	w.run(steps, duration)
	w.fleet.end()
	w.report(time.Since(began), duration)
}

// run is the run between the start of the servers and the end of the processes.
func (w *world) run(steps []step, duration time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.start = time.Now()
	w.fleet.seats[0].want()
	if err := w.ready(ctx); err != nil {
		w.fail("outflow does not come up: %v", err)
		return
	}
	w.start = time.Now()
	var looking, writing sync.WaitGroup
	writingCtx, stopWriting := context.WithCancel(ctx)
	for _, d := range w.destinations {
		looking.Go(func() { (&watch{w: w, d: d}).run(ctx) })
	}
	for id := range writers {
		writing.Go(func() { newWriter(w, id+1).run(writingCtx) })
	}
	playing, stopPlaying := context.WithCancel(ctx)
	go func() {
		select {
		case <-w.failed:
		case <-playing.Done():
		}
		stopPlaying()
	}()
	w.playAll(playing, steps)
	pause(playing, duration-w.since())
	stopPlaying()
	stopWriting()
	writing.Wait()
	w.say("all faults are healed, and the writers have stopped")
	if !w.hasFailed() {
		w.judge(ctx)
	}
	cancel()
	looking.Wait()
}

// ready waits until outflow reads the slot.
func (w *world) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for w.fleet.reader(ctx) == nil {
		if p := w.fleet.seats[0].current(); !pause(ctx, pollEvery) || p != nil && p.gone() {
			words := "no process has started"
			if p != nil {
				words = p.lastWords()
			}
			return fmt.Errorf("nobody reads the slot: %s", words)
		}
	}
	return w.addQueried(ctx)
}

// tally counts the events of a run.
type tally struct {
	mu           sync.Mutex
	transactions int64
	rows         int64
	faults       map[string]int
	refused      map[string]int
	counts       map[string]int
}

func (t *tally) count(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]int{}
	}
	t.counts[what]++
}

func (t *tally) fault(name string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.faults == nil {
		t.faults, t.refused = map[string]int{}, map[string]int{}
	}
	if err != nil {
		t.refused[name]++
	} else {
		t.faults[name]++
	}
}

func (t *tally) transaction(rows int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.transactions++
	t.rows += rows
}

// reached are the failpoints reached by processes.
func (f *fleet) reached() []string {
	out, _ := os.ReadFile(f.hits())
	all := strings.Fields(string(out))
	slices.Sort(all)
	return slices.Compact(all)
}

// summary is the line of a run for machines.
type summary struct {
	Seed         uint64         `json:"seed"`
	Result       string         `json:"result"` // passed, or the first failure
	Duration     string         `json:"duration"`
	Took         string         `json:"took"`
	Settled      string         `json:"settled"` // from the last heal until all were equal
	Transactions int64          `json:"transactions"`
	Rows         int64          `json:"rows"`
	Faults       map[string]int `json:"faults"`
	Refused      map[string]int `json:"refused"`
	Failpoints   []string       `json:"failpoints"` // reached; POINT=ACTION is one that has acted
}

// report prints the summary, and after a failure the history.
func (w *world) report(took, duration time.Duration) {
	result := "passed"
	if w.failure != "" {
		result = "FAILED: " + strings.ReplaceAll(fmt.Sprintf("%.300s", w.failure), "\n", " ")
	}
	w.tally.mu.Lock()
	defer w.tally.mu.Unlock()
	line, err := json.Marshal(summary{Seed: w.seed, Result: result, Duration: duration.String(), Took: took.Round(time.Millisecond).String(), Settled: w.settled.Round(time.Millisecond).String(),
		Transactions: w.tally.transactions, Rows: w.tally.rows, Faults: w.tally.faults, Refused: w.tally.refused, Failpoints: w.fleet.reached()})
	must(w.t, err)
	w.t.Logf("torture: %s", line)
	for _, what := range slices.Sorted(maps.Keys(w.tally.counts)) {
		w.t.Logf("%7d %s", w.tally.counts[what], what)
	}
	if file := os.Getenv("OUTFLOW_TORTURE_RESULTS"); file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		must(w.t, err)
		defer f.Close()
		fmt.Fprintf(f, "%s\n", line)
	}
	must(w.t, os.WriteFile(filepath.Join(w.dir, "history.txt"), []byte(w.history()), 0o644))
	if w.failure == "" {
		must(w.t, os.RemoveAll(w.dir))
		return
	}
	w.t.Errorf("%s\n\nmake torture SEED=%d DURATION=%s plays this schedule again; logs are in %s. What has happened:\n%s", w.failure, w.seed, duration, w.dir, w.history())
}
