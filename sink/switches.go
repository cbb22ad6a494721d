package sink

import (
	"cmp"
	"slices"
	"sync"

	"outflow/sink/ledger"
)

// switches are the switches in effect in this process, as last read from the primary. The zero value has no switch. Safe for concurrent use.
type switches struct {
	mu       sync.Mutex
	all      []ledger.Switch
	applying *ledger.Switch               // the switch that pauses every destination; nil: on
	unread   *ledger.Switch               // the switch that keeps the slot from being read; nil: on
	one      map[[2]string]*ledger.Switch // the switch of a destination, by tenant and name, where it is off
}

// replace puts other switches into effect and returns the switches before.
func (s *switches) replace(all []ledger.Switch) (before []ledger.Switch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.all = s.all, slices.Clone(all)
	s.applying, s.unread, s.one = nil, nil, map[[2]string]*ledger.Switch{}
	for i := range s.all {
		switch sw := &s.all[i]; {
		case !sw.Off:
		case sw.Kind == ledger.SwitchDestination:
			s.one[[2]string{sw.Tenant, sw.Name}] = sw
		case sw.Kind == ledger.SwitchApplying:
			s.applying = sw
		case sw.Kind == ledger.SwitchReading:
			s.unread = sw
		}
	}
	return before
}

// list is a copy of all switches, on and off.
func (s *switches) list() []ledger.Switch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// pausing is the switch that pauses a destination: its own, or the switch of all destinations; nil is none.
func (s *switches) pausing(tenant, name string) *ledger.Switch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.one[[2]string{tenant, name}], s.applying)
}

// notReading is the switch that keeps the slot from being read; nil is none.
func (s *switches) notReading() *ledger.Switch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unread
}

// isOff reports whether a kind of switch is among all, and off.
func isOff(all []ledger.Switch, kind string) bool {
	return slices.ContainsFunc(all, func(sw ledger.Switch) bool { return sw.Kind == kind && sw.Off })
}

// flips are the switches switched off and on between two lists, in the order of now. A switch deleted while off counts as switched on by a person
// unknown.
func flips(before, now []ledger.Switch) (off, on []ledger.Switch) {
	old := map[[3]string]ledger.Switch{}
	for _, sw := range before {
		old[switched(sw)] = sw
	}
	for _, sw := range now {
		switch was := old[switched(sw)]; {
		case sw.Off && was != sw:
			off = append(off, sw)
		case !sw.Off && was.Off:
			on = append(on, sw)
		}
		delete(old, switched(sw))
	}
	for _, sw := range before {
		if _, deleted := old[switched(sw)]; deleted && sw.Off {
			sw.By, sw.Reason = "unknown", "its row in outflow.switch was deleted"
			on = append(on, sw)
		}
	}
	return off, on
}

// switched is the identity of the thing that a switch switches.
func switched(sw ledger.Switch) [3]string { return [3]string{sw.Kind, sw.Tenant, sw.Name} }
