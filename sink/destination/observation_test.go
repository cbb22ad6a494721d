package destination

import (
	"errors"
	"testing"
	"time"

	"outflow/internal/pgerror"
	"outflow/replication"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/judge"
	"outflow/sink/lifecycle"
	"outflow/sink/queue"
)

// The judge sees what a destination holds, and whether the destination or another party is at fault.
func TestObservation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Destination)
		want   func(judge.Observation) bool
	}{
		"at work": {func(*Destination) {}, func(o judge.Observation) bool {
			return o.Oldest == 10 && !o.Open && o.Bytes > 0 && !o.Over && !o.Paused && !o.Unable && !o.Waits && !o.Queued && !o.Starved && !o.Leaving && o.Replays == 0
		}},
		"over its bound": {func(d *Destination) { d.receiveMuch(t) }, func(o judge.Observation) bool { return o.Over }},
		"paused":         {func(d *Destination) { d.life.Paused = true }, func(o judge.Observation) bool { return o.Paused && o.Unable }},
		"in doubt, without a connection": {func(d *Destination) { d.reach.doubts, d.session = 1, nil },
			func(o judge.Observation) bool { return o.Unable && !o.Waits }},
		"in doubt, connected": {func(d *Destination) { d.reach.doubts = 1 }, func(o judge.Observation) bool { return !o.Unable }},
		"failing":             {func(d *Destination) { d.failures.since = time.Now() }, func(o judge.Observation) bool { return o.Unable }},
		"failing, and the server answers": {func(d *Destination) {
			d.failures.since = time.Now()
			d.db.Answered.Set(time.Now())
		}, func(o judge.Observation) bool { return !o.Unable }},
		"failing, and the server answered before": {func(d *Destination) {
			d.failures.since = time.Now()
			d.db.Answered.Set(time.Now().Add(-2 * judge.ParkGrace))
		}, func(o judge.Observation) bool { return o.Unable }},
		"waits for a connection": {func(d *Destination) { d.awaits(place) },
			func(o judge.Observation) bool { return o.Queued && o.Waits && !o.Starved }},
		"waits for a connection, in doubt": {func(d *Destination) { d.awaits(place); d.reach.doubts = 1 },
			func(o judge.Observation) bool { return !o.Queued && !o.Waits }},
		"waits for changes": {func(d *Destination) { d.awaits(changesToCome) },
			func(o judge.Observation) bool { return o.Starved && !o.Queued && !o.Waits }},
		"waits for the primary": {func(d *Destination) { d.watched.lookups.Add(1) }, func(o judge.Observation) bool { return o.Waits && !o.Queued }},
		"waits for a commit to be visible": {func(d *Destination) {
			d.life.Work, d.status.Err = lifecycle.Waiting, &external.Error{Err: tableread.ErrNotVisible}
		}, func(o judge.Observation) bool { return o.Waits }},
		"waits to try again": {func(d *Destination) {
			d.life.Work, d.status.Err = lifecycle.Waiting, errors.New("no route")
		}, func(o judge.Observation) bool { return !o.Waits }},
		"is being parked": {func(d *Destination) { d.life.Noting = true }, func(o judge.Observation) bool { return o.Leaving }},
		"is parked":       {func(d *Destination) { d.life.Stream = lifecycle.Detached }, func(o judge.Observation) bool { return o.Leaving }},
		"has committed": {func(d *Destination) {
			b := d.take(nil)
			b.async = true
			d.counts(b)
		}, func(o judge.Observation) bool { return o.Oldest == 10 && o.Reached.ID == 10 }},
	} {
		d := connected(t, -1)
		d.receive(t, 10)
		test.change(d)
		if o := d.observation(false, time.Now()); !test.want(o) {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// receiveMuch has the stream bring more than the queue is to hold.
func (d *Destination) receiveMuch(t *testing.T) {
	t.Helper()
	d.shared.Options.QueueBytes = 1 << 10
	d.queue = queue.New(d.shared.Gate, d.shared.Options.queueBytes(), d.shared.Options.BatchRows)
	for id := int64(20); !d.queue.Over() && id < 100; id++ {
		d.receive(t, id)
	}
}

// The time without progress is kept from look to look.
func TestLook(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	d.receive(t, 10)
	d.Look(false, time.Now(), time.Second)
	_, before := d.Look(false, time.Now(), time.Second)
	if _, after := d.Look(false, time.Now(), time.Second); after == before || after != before.After(d.observation(false, time.Now()), time.Second) {
		t.Errorf("%+v becomes %+v", before, after)
	}
}

// A destination without work is visited where its database was not reached for long; nothing else is about to reach the database.
func TestVisits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Destination)
		want   bool
	}{
		"never reached":               {func(*Destination) {}, true},
		"never reached, to be copied": {func(d *Destination) { d.life.Current = false }, true},
		"tried lately":                {func(d *Destination) { d.reach.visited = time.Now().Add(-d.shared.Options.RetryMax / 2) }, false},
		"tried before":                {func(d *Destination) { d.reach.visited = time.Now().Add(-d.shared.Options.RetryMax - time.Second) }, true},
		"reached lately":              {func(d *Destination) { d.life.Met, d.reach.visited = true, time.Now().Add(-time.Hour/2) }, false},
		"reached before":              {func(d *Destination) { d.life.Met, d.reach.visited = true, time.Now().Add(-2*time.Hour) }, true},
		"reached, to be copied":       {func(d *Destination) { d.life.Met, d.life.Current = true, false }, false},
		"a visit goes on":             {func(d *Destination) { d.life.Visiting = true }, false},
		"at work":                     {func(d *Destination) { d.life.Work = lifecycle.Working }, false},
		"waits to try again":          {func(d *Destination) { d.life.Work = lifecycle.Waiting }, false},
		"removed":                     {func(d *Destination) { d.life.Stream = lifecycle.Removed }, false},
		"not begun":                   {func(d *Destination) { d.life.Stream = lifecycle.Unread }, false},
		"parked":                      {func(d *Destination) { d.life.Stream = lifecycle.Detached }, true},
		"unusable":                    {func(d *Destination) { d.life.Unusable = true }, false},
		"paused":                      {func(d *Destination) { d.life.Paused = true }, false},
		"with work":                   {func(d *Destination) { d.life.Paused = true; d.receive(t, 10); d.life.Paused = false }, false},
	} {
		d := connected(t, -1)
		d.shared.Options.VisitEvery = time.Hour
		d.life.Met, d.life.Visiting, d.life.Work, d.reach.visited = false, false, lifecycle.Resting, time.Time{}
		test.change(d)
		if _, _, due := d.Visits(); due != test.want {
			t.Errorf("%s: a visit is due: %v", name, due)
		}
		if test.want {
			continue
		}
		before := d.reach.visited
		if d.Visit(); !d.reach.visited.Equal(before) {
			t.Errorf("%s: the visit began", name)
		}
	}
}

// A destination has all changes up to an id when the stream was read up to there and the queue holds no older change.
func TestHasAll(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Destination)
		id     int64
		want   bool
	}{
		"read up to there":    {func(*Destination) {}, 100, true},
		"not read yet":        {func(*Destination) {}, 101, false},
		"queued":              {func(d *Destination) { d.receive(t, 100) }, 100, false},
		"queued, behind it":   {func(d *Destination) { d.receive(t, 100) }, 99, true},
		"parked":              {func(d *Destination) { d.life.Stream = lifecycle.Detached }, 50, false},
		"removed":             {func(d *Destination) { d.life.Stream = lifecycle.Removed }, 50, false},
		"is to be read again": {func(d *Destination) { d.receive(t, 60); d.take(nil).transactions[0].Dropped = true; d.queue.Rewind() }, 50, false},
	} {
		d := connected(t, -1)
		d.shared.Reader, d.shared.SequenceID = readTo(100), func(l wal.LSN) int64 { return int64(l) }
		test.change(d)
		if got := d.HasAll(test.id); got != test.want {
			t.Errorf("%s: up to %d: %v", name, test.id, got)
		}
	}
}

// A pause after a failure about a missing column of a table ends when the table changes, and by no other table.
func TestTryForTable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		e     *external.Error
		tries bool
	}{
		"about a column":                  {&external.Error{SQLState: pgerror.UndefinedColumn, Table: "item", Err: errors.New("v")}, true},
		"about a column of another table": {&external.Error{SQLState: pgerror.UndefinedColumn, Table: "other", Err: errors.New("v")}, false},
		"about a row of the table":        {&external.Error{SQLState: pgerror.UniqueViolation, Table: "item", Err: errors.New("v")}, false},
	} {
		d := connected(t, -1)
		d.session = nil
		d.receive(t, 10)
		d.life.Work = lifecycle.Working
		d.settleUp(d.giveUp(test.e))
		if d.life.Work != lifecycle.Waiting || d.retryAt == nil {
			t.Fatalf("%s: nothing waits: %+v", name, d.life)
		}
		d.TryForTable("item")
		if tries := d.retryAt == nil; tries != test.tries {
			t.Errorf("%s: the pause ended: %v", name, tries)
		}
		d.Stop()
	}
}

// A large transaction waits for its rest unless the stream has brought nothing for long; a reader that waits for room will bring more.
func TestStalled(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long, short := now.Add(-2*openPatience), now.Add(-openPatience/2)
	for name, test := range map[string]struct {
		since, last time.Time
		reader      Reader
		closed      bool
		want        bool
	}{
		"for long":                            {long, long, readTo(0), false, true},
		"a part came lately":                  {long, short, readTo(0), false, false},
		"waited for short":                    {short, long, readTo(0), false, false},
		"the reader waits for room":           {long, long, readTo(0), true, false},
		"the reader waited, and is gone":      {long, long, goneReader{}, true, true},
		"the reader is gone, a part was late": {long, short, goneReader{}, false, false},
	} {
		d := queueOf(t)
		d.shared.Reader = test.reader
		d.shared.LastPart.Set(test.last)
		if test.closed {
			d.shared.Gate.Add(0, 1)
			d.shared.Gate.Full()
		}
		if got := d.shared.stalled(test.since); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// goneReader is a reader that has lost the slot.
type goneReader struct{ readTo }

func (goneReader) State() replication.State { return replication.Standby }
