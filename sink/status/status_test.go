package status

import (
	"testing"

	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// The shown state follows from the life: the first line of the table in lifecycle/doc.go that holds, whichever later lines hold too.
func TestStateOf(t *testing.T) {
	t.Parallel()
	lines := []struct {
		change func(*lifecycle.Life)
		state  ledger.State
	}{
		{func(l *lifecycle.Life) { l.Unusable = true }, ledger.Halted},
		{func(l *lifecycle.Life) { l.Paused = true }, ledger.Paused},
		{func(l *lifecycle.Life) { l.Health = lifecycle.Halted }, ledger.Halted},
		{func(l *lifecycle.Life) { l.Stream = lifecycle.Detached }, ledger.Parked},
		{func(l *lifecycle.Life) { l.Health = lifecycle.Failing }, ledger.Retrying},
		{func(l *lifecycle.Life) { l.Current = false }, ledger.Backfilling},
	}
	for some := range 1 << len(lines) { // every set of lines
		l, want := lifecycle.Life{Stream: lifecycle.Attached, Current: true}, ledger.Streaming
		for i := len(lines) - 1; i >= 0; i-- { // the last change is of the first line
			if some&(1<<i) != 0 {
				want = lines[i].state
				lines[i].change(&l)
			}
		}
		if got := StateOf(l, false); got != want {
			t.Errorf("%+v is shown as %s; expected %s", l, got, want)
		}
		if want == ledger.Streaming {
			want = ledger.Paused
		}
		if got := StateOf(l, true); got != want {
			t.Errorf("%+v, not read, is shown as %s; expected %s", l, got, want)
		}
	}
}
