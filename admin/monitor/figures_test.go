package monitor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink"
	"outflow/sink/destination"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/status"
)

// reading is a reader that has read everything.
type reading struct{}

func (reading) State() replication.State            { return replication.Streaming }
func (reading) Position() wal.LSN                   { return 1 }
func (reading) Latency() (time.Duration, time.Time) { return 0, time.Time{} }
func (reading) Behind(time.Time) time.Duration      { return 0 }

// figures gives a process destinations in these states: n of each, those that stream with that lag.
func figures(p *Pipeline, lags []time.Duration, others map[ledger.State]int) *Snapshot {
	now := time.Now()
	snap := &Snapshot{Status: Status{Role: "streaming", Destinations: map[string]int{}}}
	add := func(name string, st status.Status) {
		snap.Rows = append(snap.Rows, Row{&destination.Destination{Owner: &external.Owner{Tenant: "t", Name: name}}, st, 0})
	}
	for i, lag := range lags {
		st := status.Status{State: ledger.Streaming}
		if lag > 0 {
			st.Oldest = now.Add(-lag)
		}
		add(fmt.Sprint("streams-", i), st)
	}
	for state, n := range others {
		for i := range n {
			add(fmt.Sprint(state, "-", i), status.Status{State: state, QueueStatus: status.QueueStatus{Oldest: now.Add(-time.Hour)}})
		}
	}
	snap.fromRows(now)
	snap.Lag = p.lag(now, snap.Rows)
	snap.judge(nil)
	return snap
}

// The headline counts who is in sync; lag is that of those that stream.
func TestHeadline(t *testing.T) {
	p := &Pipeline{Reader: reading{}, Router: sink.NewRouter(sink.Config{Options: sink.DefaultOptions(), Log: zap.NewNop()}), Acks: replication.NewAckTracker(1),
		SlotStatus: func() *primary.SlotStatus { return nil }}
	dead := figures(p, make([]time.Duration, 30), map[ledger.State]int{ledger.Retrying: 1900, ledger.Parked: 70})
	if *dead.InSync != 30 || dead.Total != 2000 || dead.State != Failing || !strings.Contains(dead.Reasons[0].Message, "of 2\u202f000 destinations fail at once") {
		t.Errorf("%+v", dead.Status)
	}
	if got := InSyncWords(dead.Status); got != "30 of 2000 in sync" {
		t.Error(got)
	}
	lags := make([]time.Duration, 200)
	for i := range lags {
		lags[i] = time.Duration(i+1) * 100 * time.Millisecond // up to 20 s
	}
	some := figures(p, lags, map[ledger.State]int{ledger.Halted: 1})
	about := func(got *float64, want float64) bool { return got != nil && *got > want-0.01 && *got < want+0.5 }
	if *some.InSync < 98 || *some.InSync > 100 || some.State != Degraded || !about(some.Lag.P50Seconds, 10) || !about(some.Lag.P99Seconds, 19.8) || !about(some.Lag.Seconds, 20) ||
		some.Lag.Worst.Name != "streams-199" {
		t.Errorf("%+v %+v", some.Status, some.Lag.Worst)
	}
	if none := figures(p, nil, map[ledger.State]int{ledger.Retrying: 2}); none.Lag.Seconds != nil || none.Lag.P50Seconds != nil || *none.InSync != 0 {
		t.Errorf("a lag of nobody: %+v", none.Lag)
	}
}

// Notes say who reads the slot as far as that is known, and what they do not hold is not shown as a figure.
func TestNotes(t *testing.T) {
	for want, r := range map[string]*ledger.Reader{
		"No process reads the slot":                                 nil,
		"box (process 7) reads the slot":                            {Host: "box", Process: 7, Application: "outflow", Address: "10.1.2.3"},
		"A program at 10.1.2.3, \"pg_recvlogical\", reads the slot": {Walsender: 1, Application: "pg_recvlogical", Address: "10.1.2.3"},
		"A program, \"psql\", reads the slot":                       {Walsender: 1, Application: "psql"},
		"A program that this role may not see reads the slot":       {Walsender: 1},
	} {
		if got := describeReader(r).Words(); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
	book := Notebook{At: time.Now(), Destinations: []ledger.Destination{{Tenant: "a", State: ledger.Streaming, SequenceID: -1}, {Tenant: "b", State: ledger.Streaming, SequenceID: 5},
		{Tenant: "c", State: ledger.Halted, Detached: true, Reason: "why", SequenceID: -1}, {Tenant: "d", State: ledger.Streaming, SequenceID: -1}},
		Switches: []ledger.Switch{{Kind: ledger.SwitchDestination, Tenant: "b", Off: true, By: "Grace"}}}
	st := Noted("test", "outflow", primary.SlotStatus{}, book)
	if st.InSync != nil { // they fall behind
		t.Errorf("%d in sync while nobody reads the slot", *st.InSync)
	}
	book.Reader = &ledger.Reader{Host: "box", Process: 7}
	st = Noted("test", "outflow", primary.SlotStatus{}, book)
	if *st.InSync != 2 || st.Total != 4 || st.Detached != 1 || st.Destinations["paused"] != 1 || st.Destinations["halted"] != 1 || st.Lag.Seconds != nil || st.State != Unknown {
		t.Errorf("%+v", st)
	}
	all := NotedDestinations(book)
	if all[0].Tenant != "c" || !all[0].Detached || all[1].Tenant != "b" || all[1].LastSequenceID == nil || all[2].LagSeconds != nil || all[2].LastSequenceID != nil {
		t.Errorf("%+v", all)
	}
	if words := Words(all[0]); words[6] != "why; the stream goes on without it" || words[2] != NoValue {
		t.Errorf("%q", words)
	}
	book.Switches = append(book.Switches, ledger.Switch{Kind: ledger.SwitchApplying, Off: true})
	if st := Noted("test", "outflow", primary.SlotStatus{}, book); *st.InSync != 0 || st.Destinations["paused"] != 3 {
		t.Errorf("with applying off: %+v", st)
	}
}

// Where reading has ended because something that is relied on does not hold, a person is needed: nothing goes on by itself.
func TestNotesOfAnEnd(t *testing.T) {
	book := Notebook{At: time.Now(), Destinations: []ledger.Destination{{Tenant: "a", State: ledger.Backfilling, Reason: primary.Ended + "table public.x has no key"}}}
	st := Noted("test", "outflow", primary.SlotStatus{}, book)
	if st.Reasons[0].Severity != Critical || !strings.Contains(st.Reasons[0].Message, "an operator must act: reading has ended: table public.x has no key") || st.Destinations["halted"] != 1 {
		t.Errorf("%+v", st)
	}
	d := NotedDestinations(book)[0]
	if words := Words(d); words[1] != "halted" || words[6] != primary.Ended+"table public.x has no key" {
		t.Errorf("%q", words)
	}
	book.Reader = &ledger.Reader{Host: "box", Process: 7} // the cause is corrected, and the copies begin
	if st := Noted("test", "outflow", primary.SlotStatus{}, book); st.Destinations["backfilling"] != 1 || st.Reasons[0].Severity == Critical {
		t.Errorf("%+v", st)
	}
}
