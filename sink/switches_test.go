package sink

import (
	"slices"
	"testing"

	"outflow/sink/ledger"
)

func TestSwitches(t *testing.T) {
	var s switches
	if s.pausing("a", "x") != nil || s.notReading() != nil || len(s.list()) != 0 {
		t.Error("the zero value has a switch that is off")
	}
	own := ledger.Switch{Kind: ledger.SwitchDestination, Tenant: "a", Name: "x", Off: true, By: "Ada"}
	read := []ledger.Switch{own, {Kind: ledger.SwitchApplying, Off: true, By: "Grace"}, {Kind: ledger.SwitchReading}, {Kind: ledger.SwitchDestination, Tenant: "a", Name: "z"}}
	if before := s.replace(read); len(before) != 0 {
		t.Errorf("there were %v before", before)
	}
	if sw := s.pausing("a", "x"); sw == nil || *sw != own {
		t.Errorf("a/x is paused by %v", sw)
	}
	for _, name := range []string{"y", "z"} {
		if sw := s.pausing("a", name); sw == nil || sw.By != "Grace" {
			t.Errorf("a/%s is paused by %v", name, sw)
		}
	}
	if s.notReading() != nil {
		t.Error("the slot is not read")
	}
	read[0].By = "changed by the caller"
	if got := s.list(); len(got) != 4 || got[0] != own {
		t.Errorf("the switches are %v", got)
	}
	if before := s.replace([]ledger.Switch{{Kind: ledger.SwitchReading, Off: true, By: "Joan"}}); len(before) != 4 {
		t.Errorf("there were %v before", before)
	}
	if sw := s.notReading(); sw == nil || sw.By != "Joan" || s.pausing("a", "x") != nil {
		t.Errorf("reading is switched off by %v, a/x by %v", sw, s.pausing("a", "x"))
	}
	if !isOff(s.list(), ledger.SwitchReading) || isOff(s.list(), ledger.SwitchBackfills) {
		t.Error("isOff finds another switch")
	}
}

func TestFlips(t *testing.T) {
	a, b := ledger.Switch{Kind: ledger.SwitchDestination, Tenant: "a", Name: "x", Off: true}, ledger.Switch{Kind: ledger.SwitchBackfills, Off: true}
	on := func(sw ledger.Switch) ledger.Switch { sw.Off = false; return sw }
	byAda := a
	byAda.By = "Ada"
	deleted := b
	deleted.By, deleted.Reason = "unknown", "its row in outflow.switch was deleted"
	for _, c := range []struct {
		name                 string
		before, now, off, on []ledger.Switch
	}{
		{"a starting process names the switches that are off", nil, []ledger.Switch{a, on(b)}, []ledger.Switch{a}, nil},
		{"nothing new", []ledger.Switch{a, on(b)}, []ledger.Switch{a, on(b)}, nil, nil},
		{"switched on", []ledger.Switch{a}, []ledger.Switch{on(a)}, nil, []ledger.Switch{on(a)}},
		{"off again, by another person", []ledger.Switch{a}, []ledger.Switch{byAda}, []ledger.Switch{byAda}, nil},
		{"deleted", []ledger.Switch{on(a), b}, nil, nil, []ledger.Switch{deleted}},
	} {
		off, on := flips(c.before, c.now)
		if !slices.Equal(off, c.off) || !slices.Equal(on, c.on) {
			t.Errorf("%s: off %v, on %v", c.name, off, on)
		}
	}
}
