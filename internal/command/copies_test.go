package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/sink/ledger"
)

// What is left to wait for, by what is noted.
func TestWatchOfCopies(t *testing.T) {
	at := time.Unix(0, 0)
	for _, c := range []struct {
		name     string
		first    []ledger.State // at the first look
		then     []ledger.State // after the patience
		attended bool
		over     bool
		err      string
	}{
		{"filled", []ledger.State{ledger.Backfilling}, []ledger.State{ledger.Streaming}, true, true, ""},
		{"goes on", []ledger.State{ledger.Backfilling}, []ledger.State{ledger.Backfilling}, true, false, ""},
		{"tries again", []ledger.State{ledger.Retrying}, []ledger.State{ledger.Retrying}, true, false, ""},
		{"was halted before", []ledger.State{ledger.Halted}, []ledger.State{ledger.Backfilling}, true, false, ""},
		{"was halted, and is again", []ledger.State{ledger.Retrying}, []ledger.State{ledger.Halted}, true, false, ""},
		{"stays parked", []ledger.State{ledger.Parked, ledger.Streaming}, []ledger.State{ledger.Parked, ledger.Streaming}, true, true, "t/0 is parked: why"},
		{"one halted, one goes on", []ledger.State{ledger.Halted, ledger.Backfilling}, []ledger.State{ledger.Halted, ledger.Backfilling}, true, false, ""},
		{"nobody runs", []ledger.State{ledger.Backfilling}, []ledger.State{ledger.Backfilling}, false, true, `no process reads slot "s"`},
	} {
		w := &copyWatch{slot: "s", patience: time.Minute, handOver: time.Minute, stuck: map[[2]string]time.Time{}}
		noted := func(states []ledger.State) (all []ledger.Destination) {
			for i, s := range states {
				all = append(all, ledger.Destination{Tenant: "t", Name: fmt.Sprint(i), State: s, Reason: "why"})
			}
			return all
		}
		if over, err := w.judge(noted(c.first), c.attended, at); over && c.then != nil && !c.over {
			t.Errorf("%s: over at the first look: %v", c.name, err)
		}
		over, err := w.judge(noted(c.then), c.attended, at.Add(time.Minute))
		if over != c.over || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: over %v, %v", c.name, over, err)
		}
	}
}

// The watching of copies ends where the primary does not tell how far the copies are.
func TestWatchOfCopiesOfASilentPrimary(t *testing.T) {
	t.Parallel()
	answers := 3
	watch := &copyWatch{patience: time.Minute, silence: 700 * time.Millisecond, look: func(context.Context) ([]ledger.Destination, bool, error) {
		if answers--; answers > 0 {
			return []ledger.Destination{{State: ledger.Backfilling}}, true, nil
		}
		return nil, false, errors.New("the primary at db:5432 has not answered")
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := watch.run(ctx, func([]ledger.Destination) {}); err == nil || !strings.Contains(err.Error(), "db:5432 has not answered") || answers > 0 {
		t.Errorf("the watching ends with %v", err)
	}
}

func TestProgressOfCopies(t *testing.T) {
	p := newCopyProgress(&strings.Builder{})
	p.began = time.Now().Add(-10 * time.Second)
	p.show([]ledger.Destination{{Name: "a", State: ledger.Backfilling, Copied: 600, CopyTotal: 1000}, {Name: "b", State: ledger.Backfilling, Copied: 400, CopyTotal: 100}})
	if got := p.sum().text(); got != "0 of 2 databases, 1000 of about 1400 rows" { // the estimate of b was too small
		t.Error(got)
	}
	if got := p.sum().left(); got != "100 rows/s, about 4s left" {
		t.Error(got)
	}
	p.show([]ledger.Destination{{Name: "a", State: ledger.Halted, Copied: 600, CopyTotal: 1000}, {Name: "b", State: ledger.Halted, Copied: 400, CopyTotal: 100}})
	if got := p.sum().left(); got != "100 rows/s" {
		t.Errorf("a time left of what stands still: %s", got)
	}
	p.show([]ledger.Destination{{Name: "a", State: ledger.Streaming, CopyTotal: -1}, {Name: "b", State: ledger.Backfilling, Copied: 400, CopyTotal: -1}})
	if got := p.sum().text(); got != "1 of 2 databases, 1000 rows" {
		t.Error(got)
	}
	p.end()
	for _, want := range []string{"/a: streaming", "1 of 2 databases, 1000 rows, 100 rows/s\n"} {
		if out := p.out.(*strings.Builder).String(); !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
}
