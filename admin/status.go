package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"outflow/replication"
	"outflow/sink/ledger"
)

// snapshot is the whole process at one moment. A snapshot never changes.
type snapshot struct {
	Status
	pipeline *Pipeline
	rows     []row
	noted    []Destination // instead of rows, where Noted is not nil; the worst first
	failures []Incident    // instead of the sampler's, there
	points   []point
}

// process is what a server knows of its own process.
type process struct {
	Version string // of the program
	Slot    string
	Started time.Time
}

// newSnapshot is the state of now. p may be nil, and problem says why then. notebook gives the notes on the primary, for a process that does not read the slot.
func newSnapshot(now time.Time, me process, p *Pipeline, problem error, seen *sampler, notebook func() Notebook) *snapshot {
	snap := &snapshot{pipeline: p, Status: Status{Version: me.Version, StartedAt: me.Started.UTC(), At: now.UTC(),
		Role: Role(replication.Connecting.String()), Reasons: []Reason{}, Slot: Slot{Name: me.Slot}, Destinations: map[string]int{}, Switches: []Switch{}}}
	for _, st := range states {
		snap.Destinations[string(st)] = 0
	}
	snap.Throughput, snap.points = seen.current()
	if p == nil {
		snap.judge(problem)
		return snap
	}
	snap.Role = Role(p.Reader.State().String())
	snap.Ready = p.Reader.State() != replication.Connecting
	snap.Slot = p.slot(me.Slot)
	snap.Switches = describeSwitches(p.Router.Switches())
	if p.own() {
		snap.rows = p.collect(make([]row, 0, 64))
		snap.fromRows(now)
	} else {
		snap.fromNotes(notebook())
		snap.Throughput, snap.Slot.Outstanding, snap.Slot.FlushLSN, snap.Slot.ReadLSN = Throughput{}, nil, nil, nil
	}
	snap.Lag = p.lag(now, snap.rows)
	limit := int64(p.Router.Options.MemoryBytes)
	snap.Queue.LimitBytes = &limit
	snap.judge(problem)
	return snap
}

// own reports whether this process knows the destinations itself: the process reads the slot, or has only lost the primary.
// Else another process may be reading, and the notes on the primary are nearer to the truth.
func (p *Pipeline) own() bool {
	state := p.Reader.State()
	return state == replication.Streaming || state == replication.Connecting && p.Router.Begun()
}

// inSyncWithin is the largest lag of a destination that counts as in sync.
const inSyncWithin = 10 * time.Second

// fromRows sums up the destinations of this process.
func (s *snapshot) fromRows(now time.Time) {
	s.Total = len(s.rows)
	inSync := 0
	for i := range s.rows {
		r := &s.rows[i]
		s.Destinations[string(r.State)]++
		if behind, ok := r.lag(now); ok && r.State == ledger.Streaming && behind <= inSyncWithin.Seconds() {
			inSync++
		}
		if r.Detached {
			s.Detached++
		}
		s.Queue.Transactions += r.Queued
		s.Queue.Changes += r.QueuedChanges
		s.Queue.Bytes += r.QueueBytes
		s.Totals.Rows += r.Rows
		s.Totals.Transactions += r.Transactions
		s.Totals.Batches += r.Batches
		s.Totals.Failures += r.Failures
	}
	if s.Role == Role(replication.Streaming.String()) {
		s.InSync = &inSync
	}
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

// fill takes over the primary's answers.
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

// judge finds the reasons, the worst first, and the health from their sum.
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
		add(notice, "This process is a standby: it takes over when the one that reads the slot ends.")
	}
	s.judgeNotes(add)
	if p := s.pipeline; p != nil && p.Configuration != nil {
		if err := p.Configuration(); err != nil {
			add(warning, "%s", clean(err.Error()))
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

// judgeNotes names the source of the figures.
func (s *snapshot) judgeNotes(add func(severity, format string, args ...any)) {
	n := s.Noted
	switch {
	case n == nil:
	case n.Error != nil:
		add(warning, "What the primary has noted of the destinations cannot be read: %s", *n.Error)
	case n.At == nil:
		add(warning, "What the primary has noted of the destinations is not read yet.")
	case n.Reader == nil && s.ended() != "":
		add(critical, "Nobody reads the slot, and a person is needed: %s", s.ended())
	case n.Reader == nil:
		add(warning, "Nobody reads the slot. The destinations are shown as they were noted last.")
	default:
		add(notice, "%s. The destinations are shown as that process has noted them on the primary.", n.Reader.Words())
	}
}

// ended is the noted reason for the end of reading; "" without a note.
func (s *snapshot) ended() string {
	for _, d := range s.noted {
		if d.Reason != nil && strings.HasPrefix(*d.Reason, replication.Ended) {
			return *d.Reason
		}
	}
	return ""
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
		if !sw.Off || sw.Name == ledger.SwitchDestination {
			continue
		}
		why := ""
		if sw.Reason != nil {
			why = ": " + *sw.Reason
		}
		add(warning, "%s is switched off%s", switchTitle(sw.Name), why)
	}
}

// manyFail is the number of destinations, and the share of all, that must fail at once to count as one large fault.
const (
	manyFail      = 3
	manyFailShare = 0.2
)

// judgeDestinations counts the destinations in trouble. A few do not make the process fail: the process goes on for all others.
func (s *snapshot) judgeDestinations(add func(severity, format string, args ...any)) {
	n := s.Destinations[string(ledger.Halted)] + s.Destinations[string(ledger.Parked)] + s.Destinations[string(ledger.Retrying)]
	if n > manyFail && float64(n) > manyFailShare*float64(s.Total) {
		add(critical, "%s of %s destinations fail at once. Look for one cause: the network, DNS, certificates, or a mapping that all have.",
			numberText(int64(n)), numberText(int64(s.Total)))
	}
	for _, st := range []struct{ state, severity, one, many string }{
		{string(ledger.Halted), warning, "destination is halted: it needs a person", "destinations are halted: they need a person"},
		{string(ledger.Parked), warning, "destination is parked: it is copied anew when it answers", "destinations are parked: they are copied anew when they answer"},
		{string(ledger.Retrying), warning, "destination fails and is tried again", "destinations fail and are tried again"},
		{string(ledger.Paused), notice, "destination is paused", "destinations are paused"},
		{string(ledger.Backfilling), notice, "destination is being copied", "destinations are being copied"},
	} {
		if n := s.Destinations[st.state]; n > 0 {
			add(st.severity, "%s.", plural(n, st.one, st.many))
		}
	}
}
