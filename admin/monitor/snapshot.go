package monitor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"outflow/replication"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// Snapshot is the whole process at one moment. A snapshot never changes.
type Snapshot struct {
	Status
	Pipeline     *Pipeline
	Rows         []Row
	FromNotebook []Destination // instead of rows, where Noted is not nil; the worst first
	Incidents    []Incident    // instead of the sampler's, there
	Points       []Point
}

// Process is what a server knows of its own process.
type Process struct {
	Version string // of the program
	Slot    string
	Started time.Time
}

// NewSnapshot is the state of now. p may be nil, and problem says why then. notebook gives the notes on the primary, for a process that does not read the slot.
func NewSnapshot(now time.Time, me Process, p *Pipeline, problem error, seen *Sampler, notebook func() Notebook) *Snapshot {
	snap := &Snapshot{Pipeline: p, Status: Status{Version: me.Version, StartedAt: me.Started.UTC(), At: now.UTC(),
		Role: Role(replication.Connecting.String()), Reasons: []Reason{}, Slot: Slot{Name: me.Slot}, Destinations: map[string]int{}, Switches: []Switch{}}}
	for _, st := range States {
		snap.Destinations[string(st)] = 0
	}
	snap.Throughput, snap.Points = seen.current()
	if p == nil {
		snap.judge(problem)
		return snap
	}
	snap.Role = Role(p.Reader.State().String())
	snap.Ready = p.Reader.State() != replication.Connecting
	snap.Slot = p.slot(me.Slot)
	snap.Switches = describeSwitches(p.Router.Switches())
	if p.Own() {
		snap.Rows = p.collect(make([]Row, 0, 64))
		snap.fromRows(now)
	} else {
		snap.fromNotes(notebook())
		snap.Throughput, snap.Slot.Outstanding, snap.Slot.FlushLSN, snap.Slot.ReadLSN = Throughput{}, nil, nil, nil
	}
	snap.Lag = p.lag(now, snap.Rows)
	limit := int64(p.Router.Options().MemoryBytes)
	snap.Queue.LimitBytes = &limit
	snap.judge(problem)
	return snap
}

// Own reports whether this process knows the destinations itself: the process reads the slot, or has only lost the primary.
// Else another process may be reading, and the notes on the primary are nearer to the truth.
func (p *Pipeline) Own() bool {
	state := p.Reader.State()
	return state == replication.Streaming || state == replication.Connecting && p.Router.Begun()
}

// inSyncWithin is the largest lag of a destination that counts as in sync.
const inSyncWithin = 10 * time.Second

// fromRows sums up the destinations of this process.
func (s *Snapshot) fromRows(now time.Time) {
	s.Total = len(s.Rows)
	inSync := 0
	for i := range s.Rows {
		r := &s.Rows[i]
		s.Destinations[string(r.State)]++
		if behind, ok := r.Lag(now); ok && r.State == ledger.Streaming && behind <= inSyncWithin.Seconds() {
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

// slot describes the slot as the watch last read it. Values that were never read stay nil.
func (p *Pipeline) slot(name string) Slot {
	s := Slot{Name: name, FlushLSN: newPosition(p.Acks.Flush()), ReadLSN: newPosition(p.Reader.Position())}
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
func (s *Slot) fill(st primary.SlotStatus) {
	s.CheckedAt, s.Active, s.WALStatus, s.Invalidation = knownTime(st.At), &st.Active, known(st.WALStatus), known(st.InvalidationReason)
	s.ConfirmedLSN, s.RestartLSN, s.WALEnd = newPosition(st.ConfirmedFlush), newPosition(st.Restart), newPosition(st.WALEnd)
	s.RetainedBytes, s.SafeBytes = &st.RetainedBytes, st.SafeBytes
}

// Severities of a reason.
const (
	Notice   = "notice"
	Warning  = "warning"
	Critical = "critical"
)

// judge finds the reasons, the worst first, and the health from their sum.
func (s *Snapshot) judge(problem error) {
	add := func(severity, format string, args ...any) {
		s.Reasons = append(s.Reasons, Reason{severity, fmt.Sprintf(format, args...)})
	}
	switch {
	case s.Role == Role(replication.Connecting.String()) && problem != nil:
		add(Critical, "There is no connection to the primary: %s", Clean(problem.Error()))
	case s.Role == Role(replication.Connecting.String()):
		add(Critical, "There is no connection to the primary yet.")
	case s.Role == Role(replication.Standby.String()):
		add(Notice, "This process is a standby: it takes over when the process that reads the slot ends.")
	}
	s.judgeNotes(add)
	if p := s.Pipeline; p != nil && p.Configuration != nil {
		if err := p.Configuration(); err != nil {
			add(Warning, "%s", Clean(err.Error()))
		}
	}
	s.judgeSlot(add)
	s.judgeSwitches(add)
	s.judgeDestinations(add)
	order := []string{Critical, Warning, Notice}
	slices.SortStableFunc(s.Reasons, func(a, b Reason) int { return slices.Index(order, a.Severity) - slices.Index(order, b.Severity) })
	s.State = Healthy
	if len(s.Reasons) > 0 {
		switch s.Reasons[0].Severity {
		case Critical:
			s.State = Failing
		case Warning:
			s.State = Degraded
		}
	}
}

// judgeNotes names the source of the figures.
func (s *Snapshot) judgeNotes(add func(severity, format string, args ...any)) {
	n := s.Noted
	switch {
	case n == nil:
	case n.Error != nil:
		add(Warning, "The notes on the primary about the destinations cannot be read: %s", *n.Error)
	case n.At == nil:
		add(Warning, "The notes on the primary about the destinations have not been read yet.")
	case n.Reader == nil && s.ended() != "":
		add(Critical, "No process reads the slot, and an operator must act: %s", s.ended())
	case n.Reader == nil:
		add(Warning, "No process reads the slot. The destinations are shown as last noted.")
	default:
		add(Notice, "%s. The destinations are shown as that process noted them on the primary.", n.Reader.Words())
	}
}

// ended is the noted reason for the end of reading; "" without a note.
func (s *Snapshot) ended() string {
	for _, d := range s.FromNotebook {
		if d.Reason != nil && strings.HasPrefix(*d.Reason, primary.Ended) {
			return *d.Reason
		}
	}
	return ""
}

// judgeSlot adds reasons about the slot. The texts name the parameter to raise, because minutes may count.
func (s *Snapshot) judgeSlot(add func(severity, format string, args ...any)) {
	slot := &s.Slot
	if slot.WALStatus == nil {
		return
	}
	switch status := *slot.WALStatus; {
	case status == "lost":
		add(Critical, "The slot is lost: the primary removed WAL that the slot needs. Run: outflow run --slot-reset")
	case status == "unreserved":
		add(Critical, "At its next checkpoint, the primary may remove WAL that the slot needs. Raise max_slot_wal_keep_size now.")
	case slot.SafeBytes != nil && slot.RetainedBytes != nil && *slot.SafeBytes < *slot.RetainedBytes:
		add(Warning, "The slot uses more than half of the WAL that the primary may retain: %s are retained, %s more are safe.",
			BytesText(*slot.RetainedBytes), BytesText(*slot.SafeBytes))
	}
}

// judgeSwitches adds a warning for each switch that is off: a forgotten switch looks like a healthy process without work.
func (s *Snapshot) judgeSwitches(add func(severity, format string, args ...any)) {
	for _, sw := range s.Switches {
		if !sw.Off || sw.Name == ledger.SwitchDestination {
			continue
		}
		why := ""
		if sw.Reason != nil {
			why = ": " + *sw.Reason
		}
		add(Warning, "%s is switched off%s", SwitchTitle(sw.Name), why)
	}
}

// manyFail is the number of destinations, and the share of all, that must fail at once to count as one large fault.
const (
	manyFail      = 3
	manyFailShare = 0.2
)

// judgeDestinations counts the destinations in trouble. A few do not make the process fail: the process goes on for all others.
func (s *Snapshot) judgeDestinations(add func(severity, format string, args ...any)) {
	n := s.Destinations[string(ledger.Halted)] + s.Destinations[string(ledger.Parked)] + s.Destinations[string(ledger.Retrying)]
	if n > manyFail && float64(n) > manyFailShare*float64(s.Total) {
		add(Critical, "%s of %s destinations fail at once. Look for a common cause: the network, DNS, certificates, or a shared mapping.",
			NumberText(int64(n)), NumberText(int64(s.Total)))
	}
	for _, st := range []struct{ state, severity, one, many string }{
		{string(ledger.Halted), Warning, "destination is halted and needs an operator", "destinations are halted and need an operator"},
		{string(ledger.Parked), Warning, "destination is parked, and is copied again when it answers", "destinations are parked, and are copied again when they answer"},
		{string(ledger.Retrying), Warning, "destination failed and is being retried", "destinations failed and are being retried"},
		{string(ledger.Paused), Notice, "destination is paused", "destinations are paused"},
		{string(ledger.Backfilling), Notice, "destination is being copied", "destinations are being copied"},
	} {
		if n := s.Destinations[st.state]; n > 0 {
			add(st.severity, "%s.", plural(n, st.one, st.many))
		}
	}
}
