package destination

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"outflow/internal/pgerror"
	"outflow/replication/tableread"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
	"outflow/sink/limits"
)

// The pause after a failure depends on the verdict.
func TestPauseAfterAFailure(t *testing.T) {
	t.Parallel()
	const second, minute = time.Second, time.Minute // RetryMin and RetryMax
	hidden := fmt.Errorf("looking up: %w", tableread.ErrNotVisible)
	for name, test := range map[string]struct {
		verdict     external.Verdict
		err         error
		before      int // failures
		parked      int // times, lately
		least, most time.Duration
	}{
		"the first":                    {external.Retry, nil, 0, 0, 0, second},
		"the third":                    {external.Retry, nil, 2, 0, 0, 4 * second},
		"the tenth":                    {external.Retry, nil, 9, 0, 0, minute},
		"a full disk":                  {external.RetryLong, nil, 0, 0, 10 * second, 20 * second},
		"a person is needed":           {external.NeedsHuman, nil, 0, 0, minute / 2, minute},
		"a row":                        {external.RowFault, nil, 0, 0, minute / 2, minute},
		"a person, after many":         {external.NeedsHuman, nil, 20, 0, minute / 2, minute},
		"a commit not visible yet":     {external.Retry, hidden, 20, 0, 0, visibleAgain},
		"a destination parked once":    {external.Retry, nil, 0, 1, second / 2, second},
		"a destination parked 4 times": {external.Retry, nil, 0, 4, 4 * second, 8 * second},
		"parked 7 times":               {external.Retry, nil, 0, 7, minute / 2, minute},
		"parked 1000 times":            {external.Retry, nil, 0, 1000, minute / 2, minute},
	} {
		d := queueOf(t)
		e := &external.Error{Verdict: test.verdict, Err: test.err}
		if e.Err == nil {
			e.Err = errors.New("no route")
		}
		if d.parkings.lately = test.parked; test.parked > 0 {
			d.life.Stream = lifecycle.Detached
		}
		least, most := time.Hour, time.Duration(0)
		for range 200 {
			d.failures.backoff = limits.Pauses{Least: second, Most: minute}
			for range test.before {
				d.failures.backoff.Next()
			}
			pause := d.recordLocked(e)
			least, most = min(least, pause), max(most, pause)
		}
		middle := (test.least + test.most) / 2
		if least < test.least || most > test.most || least > middle || most < middle {
			t.Errorf("%s: pauses from %s to %s; expected from %s to %s", name, least, most, test.least, test.most)
		}
	}
}

// After a conflict the metadata is read again at once, but not again and again.
func TestPauseAfterAConflict(t *testing.T) {
	t.Parallel()
	d := queueOf(t)
	e := &external.Error{Verdict: external.Conflict, Err: errors.New("another process")}
	if pause := d.recordLocked(e); pause != 0 {
		t.Errorf("the first pause is %s", pause)
	}
	if pause := d.recordLocked(e); pause < conflictPause/2 {
		t.Errorf("the second pause is %s", pause)
	}
	d.failures.conflictAt = time.Now().Add(-2 * conflictPause)
	if pause := d.recordLocked(e); pause != 0 {
		t.Errorf("a while later the pause is %s", pause)
	}
}

// A failure is counted, and kept for people; statements that took too long make the batches smaller.
func TestRecordAFailure(t *testing.T) {
	t.Parallel()
	d := queueOf(t)
	limit := d.queue.Limit()
	record := func(e *external.Error, want int) {
		t.Helper()
		if d.recordLocked(e); d.queue.Limit() != want {
			t.Errorf("after %v batches have %d changes, expected %d", e, d.queue.Limit(), want)
		}
	}
	first := &external.Error{Err: errors.New("no route")}
	record(first, limit)
	record(&external.Error{SQLState: pgerror.QueryCanceled, Err: errors.New("timeout")}, limit/2)
	record(&external.Error{Err: turnEndedError{}}, limit/4)
	if d.status.Attempts != 3 || d.status.Failures != 3 || d.reach.doubts != 3 {
		t.Errorf("%d attempts, %d failures, %d doubts", d.status.Attempts, d.status.Failures, d.reach.doubts)
	}
	d.status.Err = first
	canceled := &external.Error{Err: context.Canceled}
	d.life.Stream = lifecycle.Detached
	if d.recordLocked(canceled); !errors.Is(d.status.Err, first) {
		t.Error("the end of a parked destination's work hides the reason of the parking")
	}
	d.life.Stream = lifecycle.Attached
	if d.recordLocked(canceled); !errors.Is(d.status.Err, canceled) {
		t.Error("a failure is not shown")
	}
}

// What an error means for the lifecycle depends on the verdict, on the queue, and on the end of the process.
func TestEventOfAFailure(t *testing.T) {
	t.Parallel()
	canceled := &external.Error{Err: fmt.Errorf("working: %w", context.Canceled)}
	lost := &external.Error{Err: errors.New("no route")}
	for name, test := range map[string]struct {
		e        *external.Error
		queued   bool
		stopping bool
		want     lifecycle.Event
	}{
		"lost":                         {lost, true, false, lifecycle.Failed},
		"lost, with nothing to do":     {lost, false, false, lifecycle.FailedIdle},
		"lost at the end":              {lost, true, true, lifecycle.Failed},
		"stopped at the end":           {canceled, true, true, lifecycle.Interrupted},
		"cancelled":                    {canceled, true, false, lifecycle.Failed},
		"postponed":                    {&external.Error{Err: errPostponed}, true, false, lifecycle.Postponed},
		"a row":                        {&external.Error{Verdict: external.RowFault, Err: errors.New("23505")}, true, false, lifecycle.FailedForGood},
		"a mapping, with nothing else": {&external.Error{Verdict: external.NeedsHuman, Err: errors.New("42703")}, false, false, lifecycle.FailedForGood},
		"a full disk":                  {&external.Error{Verdict: external.RetryLong, Err: errors.New("53100")}, true, false, lifecycle.Failed},
	} {
		d := queueOf(t)
		d.life.Stream, d.life.Paused = lifecycle.Attached, true // no worker
		if test.stopping {
			d.shared.Workers.Drain(time.Second)
		}
		if test.queued {
			d.receive(t, 10)
		}
		if got := d.failureLocked(test.e); got != test.want {
			t.Errorf("%s: event %d, expected %d", name, got, test.want)
		}
	}
}

// A destination whose turn was ended has not answered in time; a failure that another try does not end is shown as it is.
func TestFailureOfAnEndedTurn(t *testing.T) {
	t.Parallel()
	for _, verdict := range []external.Verdict{external.Retry, external.NeedsHuman} {
		d := connected(t, -1)
		d.session = nil
		d.receive(t, 10)
		d.life.Work, d.turnEnded = lifecycle.Working, true
		d.giveUp(&external.Error{Verdict: verdict, Err: errors.New("the connection is closed")})
		shown := external.AsError(d.Status().Err)
		if ended := errors.Is(shown, turnEndedError{}); ended != (verdict == external.Retry) || d.turnEnded {
			t.Errorf("verdict %d: %v is shown", verdict, shown)
		}
	}
}

// A replay for the sake of the primary is not held against the destination.
func TestReplaysThatCount(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want int
	}{
		"lost":        {errors.New("no route"), 1},
		"postponed":   {errPostponed, 0},
		"not visible": {fmt.Errorf("looking up: %w", tableread.ErrNotVisible), 0},
	} {
		d := connected(t, -1)
		d.session = nil
		d.receive(t, 10)
		ticketHeld := d.shared.Acks.Flush()
		d.life.Work = lifecycle.Working
		d.queue.Take([]int64{-1}, d.reads, nil).Transactions[0].Dropped = true
		after := d.giveUp(&external.Error{Err: test.err})
		if !after.replay || d.queue.Replays() != test.want || !d.queue.AwaitsReplay() || d.shared.Acks.Flush() != ticketHeld {
			t.Errorf("%s: read again: %v, counted: %d", name, after.replay, d.queue.Replays())
		}
	}
}

// A halt ends when the destination has done the work that failed, in the same epoch, or is up to date.
func TestEndOfAHalt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		halt    *halt
		current bool
		refused bool
		done    work
		want    bool
	}{
		"no halt":                        {nil, false, false, applying, true},
		"the same work":                  {&halt{epoch: 5, work: copying}, false, false, copying, true},
		"other work":                     {&halt{epoch: 5, work: applying}, false, false, copying, false},
		"the same work in another epoch": {&halt{epoch: 4, work: copying}, false, false, copying, false},
		"noted by another process":       {&halt{epoch: -1, work: applying}, false, false, applying, false},
		"up to date":                     {&halt{epoch: 4, work: copying}, true, false, applying, true},
		"opened":                         {&halt{epoch: 4, work: opening}, false, false, copying, true},
		"the primary refuses the note":   {&halt{epoch: 5, work: opening}, true, true, applying, false},
	} {
		d := queueOf(t)
		d.noted.epoch, d.failures.halt, d.life.Current, d.life.Refused = 5, test.halt, test.current, test.refused
		if got := d.endsHaltLocked(test.done); got != test.want {
			t.Errorf("%s: the halt ends: %v", name, got)
		}
	}
}

// A noted halt is shown as before, with its class, until the stream has passed the end of the primary's WAL at the beginning.
func TestHaltOfAnotherProcess(t *testing.T) {
	t.Parallel()
	since := time.Unix(1e9, 0)
	for class, state := range map[string]string{"23505": "23505", external.ClassAuth: ""} {
		d := connected(t, -1)
		d.life = lifecycle.Life{}
		d.Begin(ledger.Note{Epoch: 5, State: ledger.Halted, Reason: "a row", Class: class, Since: since, Fingerprint: d.fingerprintLocked()})
		s := d.Status()
		if e := external.AsError(s.Err); s.State != ledger.Halted || s.Reason != "a row" || !s.Since.Equal(since) || e.Class() != class || e.SQLState != state {
			t.Errorf("class %s: %+v", class, s)
		}
		if note, _, _ := d.Note(); note.Class != class || note.State != ledger.Halted {
			t.Errorf("class %s is noted again as %+v", class, note)
		}
		d.life.Current = true
		d.failures.halt.until = 100
		d.shared.Reader = readTo(99)
		if d.settledLocked() || d.Status().State != ledger.Halted {
			t.Error("the halt ends before the stream has brought the failed change")
		}
		d.shared.Reader = readTo(100)
		if !d.settledLocked() || d.Status().State != ledger.Streaming {
			t.Errorf("the halt stays: %+v", d.Status())
		}
	}
}

// Parkings within ten minutes are counted: each makes the next return later.
func TestParkingsLately(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Streaming})
	park := func(epoch int64) int {
		t.Helper()
		if note, err := d.beginParking("it fails"); note == nil || err != nil {
			t.Fatalf("%v, %v", note, err)
		}
		d.settleUp(d.detach(epoch, "it fails"))
		if d.noted.epoch != epoch || d.life.Stream != lifecycle.Detached {
			t.Fatalf("the destination is not parked: %+v", d.life)
		}
		d.Begin(ledger.Note{Epoch: epoch})
		return d.parkings.lately
	}
	if n := park(6); n != 1 {
		t.Errorf("the first parking is counted as %d", n)
	}
	if n := park(7); n != 2 {
		t.Errorf("the second parking is counted as %d", n)
	}
	d.parkings.last = time.Now().Add(-parkMemory - time.Second)
	if n := park(8); n != 1 {
		t.Errorf("the first parking after a long time is counted as %d", n)
	}
	d.Stop()
}

// The note of a parking has the last failure, and a halt stays a halt.
func TestNoteOfAParking(t *testing.T) {
	t.Parallel()
	d := begunWithoutWorkers(t, ledger.Note{Epoch: 5, State: ledger.Streaming})
	d.status.Err = errors.New("no route")
	note, err := d.beginParking("its queue is full")
	if err != nil || note.State != ledger.Parked || !note.Detached || note.Reason != "its queue is full: no route" || note.Name != "main" || note.Tenant != "t" {
		t.Errorf("%+v, %v", note, err)
	}
	d.EndParking()
	d.receive(t, 10)
	d.life.Work = lifecycle.Working
	d.settleUp(d.giveUp(&external.Error{Verdict: external.RowFault, Err: errors.New("a row is refused")}))
	note, err = d.beginParking("its queue is full")
	if err != nil || note.State != ledger.Halted || !note.Detached || note.Reason != "a row is refused" {
		t.Errorf("of a halted destination: %+v, %v", note, err)
	}
	d.EndParking()
	d.Stop()
}
