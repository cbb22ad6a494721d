package admin

import (
	"fmt"
	"slices"
	"time"

	"outflow/replication"
	"outflow/sink"
)

// snapshot is the whole process at one moment. It is not changed once it is made.
type snapshot struct {
	Status
	pipeline *Pipeline
	rows     []row
	points   []point
}

// snapshotFor is how long a snapshot may be used again: many who ask at the same time share one.
const snapshotFor = 200 * time.Millisecond

// look returns the state of now, or of a moment ago.
func (s *Server) look() *snapshot {
	s.lookMu.Lock()
	defer s.lookMu.Unlock()
	p, problem := s.current()
	now := time.Now()
	if last := s.looked; last != nil && last.pipeline == p && now.Sub(last.At) < snapshotFor {
		return last
	}
	s.looked = s.take(now, p, problem)
	return s.looked
}

func (s *Server) take(now time.Time, p *Pipeline, problem error) *snapshot {
	snap := &snapshot{pipeline: p, Status: Status{Version: s.Version, StartedAt: s.started.UTC(), At: now.UTC(),
		Role: Role(replication.Connecting.String()), Reasons: []Reason{}, Slot: Slot{Name: s.Slot}, Destinations: map[string]int{}, Switches: []Switch{}}}
	for _, st := range states {
		snap.Destinations[string(st)] = 0
	}
	snap.Throughput, snap.points = s.sampler.current()
	if p == nil {
		snap.judge(problem)
		return snap
	}
	snap.Role = Role(p.Reader.State().String())
	snap.Ready = p.Reader.State() != replication.Connecting
	snap.Slot = p.slot(s.Slot)
	snap.Switches = describeSwitches(p.Router.Switches())
	snap.rows = p.collect(make([]row, 0, 64))
	snap.Lag = p.lag(now, snap.rows)
	limit := p.Router.Options.MemoryBytes
	snap.Queue.LimitBytes = &limit
	for i := range snap.rows {
		r := &snap.rows[i]
		snap.Destinations[string(r.State)]++
		snap.Queue.Transactions += r.Queued
		snap.Queue.Changes += r.QueuedChanges
		snap.Queue.Bytes += r.QueueBytes
		snap.Totals.Rows += r.Rows
		snap.Totals.Transactions += r.Transactions
		snap.Totals.Batches += r.Batches
		snap.Totals.Failures += r.Failures
	}
	snap.judge(problem)
	return snap
}

func (p *Pipeline) slot(name string) Slot {
	s := Slot{Name: name, FlushLSN: position(p.Acks.Flush()), ReadLSN: position(p.Reader.Position())}
	outstanding := p.Acks.Outstanding()
	s.Outstanding = &outstanding
	if st := p.SlotStatus(); st != nil {
		s.fill(*st)
		if p.Reader.State() == replication.Streaming { // perhaps only since the last look
			active := true
			s.Active = &active
		}
	}
	return s
}

// fill takes over what the primary said.
func (s *Slot) fill(st replication.SlotStatus) {
	s.CheckedAt, s.Active, s.WALStatus, s.Invalidation = knownTime(st.At), &st.Active, known(st.WALStatus), known(st.InvalidationReason)
	s.ConfirmedLSN, s.RestartLSN, s.WALEnd = position(st.ConfirmedFlush), position(st.Restart), position(st.WALEnd)
	s.RetainedBytes, s.SafeBytes = &st.RetainedBytes, st.SafeBytes
}

// Severities of a reason.
const (
	notice   = "notice"
	warning  = "warning"
	critical = "critical"
)

// judge finds the reasons, the worst first, and what they add up to.
func (s *snapshot) judge(problem error) {
	add := func(severity, format string, args ...any) {
		s.Reasons = append(s.Reasons, Reason{severity, fmt.Sprintf(format, args...)})
	}
	switch {
	case s.Role == Role(replication.Connecting.String()) && problem != nil:
		add(critical, "There is no connection to the primary: %s", clean(problem.Error()))
	case s.Role == Role(replication.Connecting.String()):
		add(critical, "There is no connection to the primary yet.")
	case s.Role == Role(replication.Standby.String()):
		add(notice, "Another process reads the slot. This one takes over when that one ends.")
	}
	if p := s.pipeline; p != nil && p.Configuration != nil {
		if err := p.Configuration(); err != nil {
			add(warning, "The configuration stays as it was: %s", clean(err.Error()))
		}
	}
	s.judgeSlot(add)
	s.judgeSwitches(add)
	s.judgeDestinations(add)
	order := []string{critical, warning, notice}
	slices.SortStableFunc(s.Reasons, func(a, b Reason) int { return slices.Index(order, a.Severity) - slices.Index(order, b.Severity) })
	s.State = Healthy
	if len(s.Reasons) > 0 {
		switch s.Reasons[0].Severity {
		case critical:
			s.State = Failing
		case warning:
			s.State = Degraded
		}
	}
}

func (s *snapshot) judgeSlot(add func(severity, format string, args ...any)) {
	slot := &s.Slot
	if slot.WALStatus == nil {
		return
	}
	switch status := *slot.WALStatus; {
	case status == "lost":
		add(critical, "The slot is lost: the primary has removed WAL that it needs. Run: outflow run --slot-reset")
	case status == "unreserved":
		add(critical, "The primary may remove WAL that the slot needs at its next checkpoint. Raise max_slot_wal_keep_size now.")
	case slot.SafeBytes != nil && slot.RetainedBytes != nil && *slot.SafeBytes < *slot.RetainedBytes:
		add(warning, "More than half of what the primary may keep for the slot is used: %s are retained, %s more are safe.",
			bytesText(*slot.RetainedBytes), bytesText(*slot.SafeBytes))
	}
}

func (s *snapshot) judgeSwitches(add func(severity, format string, args ...any)) {
	for _, sw := range s.Switches {
		if !sw.Off || sw.Name == sink.SwitchDestination {
			continue
		}
		why := ""
		if sw.Reason != nil {
			why = ": " + *sw.Reason
		}
		add(warning, "%s is switched off%s", switchTitle(sw.Name), why)
	}
}

// judgeDestinations says how many are in trouble. None of them makes the process fail: it goes on for all others.
func (s *snapshot) judgeDestinations(add func(severity, format string, args ...any)) {
	for _, st := range []struct{ state, severity, one, many string }{
		{string(sink.Halted), warning, "destination is halted: it needs a person", "destinations are halted: they need a person"},
		{string(sink.Parked), warning, "destination is parked: it is copied anew when it answers", "destinations are parked: they are copied anew when they answer"},
		{string(sink.Retrying), warning, "destination fails and is tried again", "destinations fail and are tried again"},
		{string(sink.Paused), notice, "destination is paused", "destinations are paused"},
		{string(sink.Backfilling), notice, "destination is being copied", "destinations are being copied"},
	} {
		if n := s.Destinations[st.state]; n > 0 {
			add(st.severity, "%s.", plural(n, st.one, st.many))
		}
	}
}
