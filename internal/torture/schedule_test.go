package torture

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// fault is a kind of trouble. begin brings the trouble about and returns how to end it; a nil heal is a fault without an end. All
// choices of begin come from r.
type fault struct {
	name   string
	weight int
	lasts  span
	begin  func(ctx context.Context, w *world, r *rand.Rand) (heal, error)
}

// heal ends a fault. A failed heal is tried again: another lane may have the server down.
type heal func(ctx context.Context) error

// lane is a sequence of faults that exclude each other, such as the faults of a server.
type lane struct {
	name   string
	pause  span // between faults
	faults []fault
}

// span is a range of times.
type span struct{ from, to time.Duration }

func (s span) pick(r *rand.Rand) time.Duration {
	return s.from + time.Duration(r.Int64N(int64(s.to-s.from)+1)).Truncate(time.Millisecond)
}

// step is a fault of a schedule.
type step struct {
	at    time.Duration // since the start of the run
	lasts time.Duration
	lane  string
	fault fault
	draw  uint64 // seeds the choices of the fault
}

func (s step) String() string {
	return fmt.Sprintf("%7.3fs for %6.3fs %-8s %s", s.at.Seconds(), s.lasts.Seconds(), s.lane, s.fault.name)
}

// settle is the time before the first fault: copies begin.
const settle = 2 * time.Second

// newSchedule makes the steps of a run, ordered by time. The steps follow from the seed and the duration alone.
func newSchedule(seed uint64, duration time.Duration, lanes []lane) (steps []step) {
	for i, l := range lanes {
		r := rand.New(rand.NewPCG(seed, uint64(i)+100))
		for at := settle + l.pause.pick(r); ; {
			s := step{at: at, lane: l.name, fault: l.pick(r)}
			s.lasts, s.draw = s.fault.lasts.pick(r), r.Uint64()
			if at += s.lasts + l.pause.pick(r); s.at+s.lasts > duration {
				break
			}
			steps = append(steps, s)
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return steps
}

// pick chooses a fault by weight.
func (l lane) pick(r *rand.Rand) fault {
	total := 0
	for _, f := range l.faults {
		total += f.weight
	}
	n := r.IntN(total)
	for _, f := range l.faults {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("unreachable: the weights add up to total")
}

func printed(steps []step) string {
	lines := make([]string, len(steps))
	for i, s := range steps {
		lines[i] = s.String()
	}
	return strings.Join(lines, "\n")
}

func TestScheduleFollowsFromSeed(t *testing.T) {
	t.Parallel()
	met := map[string]bool{}
	var last string
	for seed := range uint64(200) {
		steps := newSchedule(seed, time.Minute, allLanes())
		text := printed(steps)
		if again := printed(newSchedule(seed, time.Minute, allLanes())); again != text {
			t.Fatalf("seed %d gives two schedules:\n%s\n\n%s", seed, text, again)
		}
		if text == last {
			t.Fatalf("seeds %d and %d give one schedule", seed-1, seed)
		}
		last = text
		ends := map[string]time.Duration{}
		for _, s := range steps {
			if s.at < ends[s.lane] {
				t.Fatalf("seed %d: two faults of lane %s overlap:\n%s", seed, s.lane, text)
			}
			ends[s.lane], met[s.lane+" "+s.fault.name] = s.at+s.lasts, true
		}
	}
	for _, l := range allLanes() {
		for _, f := range l.faults {
			if !met[l.name+" "+f.name] {
				t.Errorf("200 seeds never play %q in lane %s", f.name, l.name)
			}
		}
	}
}
