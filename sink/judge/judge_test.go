package judge

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/sink/queue"
)

// lookEvery is the time between two looks.
const lookEvery = 100 * time.Millisecond

var judged = Limits{ParkAfter: time.Minute, SlowAfter: 10 * time.Second, RetainedWAL: 1000}

// lookFor shows a destination to the judge for a time, and returns the reason of the sentence and the time until then; "" is none.
func lookFor(d time.Duration, at func(time.Duration) (Observation, Situation)) (string, time.Duration) {
	h, trend := Hold{}, Retention{}
	for t := time.Duration(0); t <= d; t += lookEvery {
		o, s := at(t)
		h = h.After(o, lookEvery)
		trend = trend.After(s.Written-o.Oldest, int64(judged.RetainedWAL), lookEvery)
		s.Still = trend.Still
		if found := Judge([]Suspect{{Observation: o, Hold: h}}, s, judged); len(found) > 0 {
			return found[0].Reason, t
		}
	}
	return "", d
}

func TestWhoIsParked(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	alone := Observation{Oldest: 100, Others: hour, Bytes: 1}
	at := func(change func(*Observation)) Observation {
		o := alone
		change(&o)
		return o
	}
	moves := func(o Observation, every time.Duration) func(time.Duration) (Observation, Situation) {
		return func(t time.Duration) (Observation, Situation) {
			o := o
			o.Oldest += int64(t / every)
			return o, Situation{Read: o.Oldest + 10, Written: o.Oldest + 10}
		}
	}
	stands := func(o Observation, s Situation) func(time.Duration) (Observation, Situation) {
		return func(time.Duration) (Observation, Situation) { return o, s }
	}
	grows := func(o Observation) func(time.Duration) (Observation, Situation) { // 500 bytes of WAL a second
		return func(t time.Duration) (Observation, Situation) {
			n := o.Oldest + t.Milliseconds()/2
			return o, Situation{Read: n, Written: n}
		}
	}
	quiet := Situation{Read: 110, Written: 110}
	for name, c := range map[string]struct {
		at   func(time.Duration) (Observation, Situation)
		why  string // "" is never
		from time.Duration
		to   time.Duration
	}{
		"holds nothing":               {stands(Observation{Oldest: -1, Unable: true}, quiet), "", 0, 0},
		"fails":                       {stands(at(func(o *Observation) { o.Unable = true }), quiet), "the destination has failed for 1m", time.Minute, 61 * time.Second},
		"is paused":                   {stands(at(func(o *Observation) { o.Paused, o.Unable = true, true }), quiet), "paused for 1m", time.Minute, 61 * time.Second},
		"hangs":                       {stands(alone, quiet), "held the slot back for 1m", time.Minute, 61 * time.Second},
		"is busy":                     {moves(alone, 30*time.Second), "", 0, 0},
		"is busy for too long":        {moves(alone, 70*time.Second), "held the slot back", time.Minute, 61 * time.Second},
		"waits for a place":           {stands(at(func(o *Observation) { o.Waits = true }), quiet), "", 0, 0},
		"waits for the rest":          {stands(at(func(o *Observation) { o.Open, o.Unable = true, true }), quiet), "", 0, 0},
		"fails with a full queue":     {stands(at(func(o *Observation) { o.Over, o.Unable = true, true }), quiet), "fails and its queue is full", 2 * time.Second, 3 * time.Second},
		"is paused with a full queue": {stands(at(func(o *Observation) { o.Over, o.Paused, o.Unable = true, true, true }), quiet), "paused and its queue is full", 0, 0},
		"is slow and alone":           {moves(at(func(o *Observation) { o.Over = true }), time.Second), "", 0, 0},
		"is slow, and others wait": {moves(at(func(o *Observation) { o.Over, o.Others = true, time.Second }), time.Second),
			"kept all others waiting", 10 * time.Second, 11 * time.Second},
		"is dead while others write": {grows(at(func(o *Observation) { o.Unable = true })), "sink.retained_wal", 2 * time.Second, 3 * time.Second},
		"hangs while others write":   {grows(alone), "sink.retained_wal", 10 * time.Second, 11 * time.Second},
		"waits while others write":   {grows(at(func(o *Observation) { o.Waits = true })), "sink.retained_wal", time.Minute, 61 * time.Second},
		"is slow, and the WAL grows": {func(t time.Duration) (Observation, Situation) {
			o := at(func(o *Observation) { o.Over, o.Oldest = true, 100+int64(t/time.Second) })
			return o, Situation{Read: o.Oldest + 10, Written: o.Oldest + 5000 + int64(t/time.Millisecond)}
		}, "sink.retained_wal", 10 * time.Second, 11 * time.Second},
		"catches up with a backlog": {func(t time.Duration) (Observation, Situation) {
			o := at(func(o *Observation) { o.Over, o.Oldest = true, 100+int64(t/time.Millisecond) })
			return o, Situation{Read: o.Oldest + 10, Written: 1_000_000_000}
		}, "", 0, 0},
		"hangs while memory is short": {stands(alone, Situation{Read: 110, Written: 110, Excess: 5}), "made no progress for 10s, and the memory", 10 * time.Second, 11 * time.Second},
		"fails while memory is short": {stands(at(func(o *Observation) { o.Unable = true }), Situation{Read: 110, Written: 110, Excess: 5}),
			"fails and the memory", 2 * time.Second, 3 * time.Second},
		"is busy while memory is short": {func(t time.Duration) (Observation, Situation) {
			o := at(func(o *Observation) { o.Oldest = 100 + int64(t/time.Second) })
			return o, Situation{Read: o.Oldest + 10, Written: o.Oldest + 10, Excess: 5}
		}, "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			why, took := lookFor(10*time.Minute, c.at)
			switch {
			case c.why == "" && why != "":
				t.Errorf("parked after %s: %s", took, why)
			case c.why != "" && (!strings.Contains(why, c.why) || took < c.from || took > c.to):
				t.Errorf("parked after %s: %q; expected %q between %s and %s", took, why, c.why, c.from, c.to)
			}
		})
	}
}

// One transaction goes first, and then the next where that was not enough.
func TestTheOldestGoesFirst(t *testing.T) {
	t.Parallel()
	dead := func(index int, oldest, bytes int64) Suspect {
		return Suspect{Observation{Oldest: oldest, Unable: true, Bytes: bytes}, Hold{held: 3 * time.Second, stood: 3 * time.Second, unable: 3 * time.Second}, index}
	}
	named := func(found []Sentence) (all []int) {
		for _, s := range found {
			all = append(all, s.Index)
		}
		return all
	}
	equal := func(what string, got []int, want ...int) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: %v, not %v", what, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: %v, not %v", what, got, want)
			}
		}
	}
	wal := Situation{Read: 5000, Written: 5000}
	equal("WAL", named(Judge([]Suspect{dead(0, 300, 1), dead(1, 200, 1), dead(2, 200, 1), dead(3, 4900, 1)}, wal, judged)), 1, 2)
	leaving := dead(1, 200, 1)
	leaving.Leaving = true
	equal("WAL, while the oldest leaves", named(Judge([]Suspect{dead(0, 300, 1), leaving}, wal, judged)))
	equal("WAL, when the oldest has left", named(Judge([]Suspect{dead(0, 300, 1), dead(3, 4900, 1)}, wal, judged)), 0)
	memory := Situation{Read: 400, Written: 400, Excess: 15}
	equal("memory", named(Judge([]Suspect{dead(0, 300, 10), dead(1, 200, 10), dead(2, 350, 10)}, memory, judged)), 1, 0)
}

// Whatever a destination does, and however often it changes what it does, it holds the slot for no longer than park_after without progress,
// and never more WAL than retained_wal for long.
func TestNothingHoldsTheSlotForLong(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		rate, waits := rnd.Int64N(200), rnd.IntN(4) == 0
		end, o, stood, most := int64(200), Observation{Oldest: 100, Bytes: 1, Others: time.Hour}, time.Duration(0), time.Duration(0)
		why, took := lookFor(5*time.Minute, func(time.Duration) (Observation, Situation) {
			if rnd.IntN(20) == 0 { // another state
				o.Unable, o.Over = rnd.IntN(2) == 0, rnd.IntN(3) == 0
				o.Paused = o.Unable && rnd.IntN(3) == 0
				o.Waits = waits && !o.Unable && rnd.IntN(2) == 0
				o.Reached = queue.Position{ID: 100, Ordinal: rnd.Int64N(5)} // work that is done again
			}
			if end += rate; !o.Waits {
				stood += lookEvery
			}
			if end-o.Oldest > int64(judged.RetainedWAL) {
				most += lookEvery
			}
			return o, Situation{Read: end, Written: end, Excess: int64(rnd.IntN(2))}
		})
		// The ordinals give progress four times at most.
		if why == "" && stood > 5*judged.ParkAfter || most > 5*judged.ParkAfter+time.Second {
			t.Fatalf("seed %d: after %s, %s of them standing and %s over the limit: %q", seed, took, stood, most, why)
		}
		if why == "" && !waits {
			t.Fatalf("seed %d: never parked", seed)
		}
	}
}

// A replay is no progress; a stopped process and a clock that jumps count for a second.
func TestTimeOfAHold(t *testing.T) {
	t.Parallel()
	o := Observation{Oldest: 7, Reached: queue.Position{ID: 7, Ordinal: 10}}
	h := Hold{}.After(o, time.Second).After(o, time.Second)
	if h.stood != time.Second || h.held != time.Second {
		t.Errorf("%+v", h)
	}
	o.Reached.Ordinal = 3 // again
	if h = h.After(o, time.Second); h.stood != 2*time.Second {
		t.Errorf("a replay counts as progress: %+v", h)
	}
	o.Reached.Ordinal = 11
	if h = h.After(o, time.Second); h.stood != time.Second || h.held != 3*time.Second {
		t.Errorf("progress does not count: %+v", h)
	}
	if h = h.After(Observation{Oldest: -1}, time.Second); h.oldest != -1 || h.held != 0 {
		t.Errorf("it holds nothing: %+v", h)
	}
}

// In a jam, which does not end by itself, destinations without a connection make room, as few as are needed.
func TestWhoMakesRoomInAJam(t *testing.T) {
	t.Parallel()
	starved := Suspect{Observation: Observation{Oldest: 100, Open: true, Starved: true}}
	queued := Suspect{Observation: Observation{Oldest: 100, Open: true, Queued: true, Waits: true, Bytes: 50}}
	busy := Suspect{Observation: Observation{Oldest: 100, Open: true, Bytes: 50}}
	over := queued
	over.Observation.Over = true
	for name, c := range map[string]struct {
		all    []Suspect
		excess int64
		jammed bool
		parked int
	}{
		"a jam":                             {[]Suspect{starved, queued, queued, queued}, 80, true, 2},
		"a queue over its own bound":        {[]Suspect{starved, queued, over}, 0, true, 1},
		"somebody works":                    {[]Suspect{starved, queued, busy}, 80, false, 0},
		"nobody waits for the reader":       {[]Suspect{queued, queued}, 80, false, 0},
		"those with a connection stay":      {[]Suspect{starved, starved}, 80, true, 0},
		"nothing is gained by the smallest": {[]Suspect{starved, {Observation: Observation{Oldest: 100, Queued: true, Waits: true}}}, 80, true, 0},
	} {
		if got := Jammed(c.all); got != c.jammed {
			t.Errorf("%s: jammed is %v", name, got)
		}
		s := Situation{Read: 110, Written: 110, Excess: c.excess}
		if got := Judge(slices.Clone(c.all), s, judged); len(got) > 0 {
			t.Errorf("%s: at once %v", name, got)
		}
		if s.Jam = jamGrace + lookEvery; !c.jammed {
			s.Jam = 0
		}
		if got := Judge(slices.Clone(c.all), s, judged); len(got) != c.parked {
			t.Errorf("%s: %v; expected %d parked", name, got, c.parked)
		}
	}
}
