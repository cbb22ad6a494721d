package monitor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink"
	"outflow/sink/destination"
	"outflow/sink/ledger"
	"outflow/sink/status"
)

// reader is the part of [replication.Reader] that the server asks.
type reader interface {
	State() replication.State
	Position() wal.LSN
	Latency() (time.Duration, time.Time)
	Behind(now time.Time) time.Duration
}

// Pipeline is the machinery between the slot and the external databases.
type Pipeline struct {
	Reader reader
	Router *sink.Router
	Acks   *replication.AckTracker
	// SlotStatus is the primary's last report on the slot; nil before the first report.
	SlotStatus func() *primary.SlotStatus
	// Configuration is the fault of the configuration that should have taken effect while the older configuration goes on,
	// nil without a fault. The function may be nil.
	Configuration func() error
}

// States are all states of a destination, the worst first.
var States = []ledger.State{ledger.Halted, ledger.Parked, ledger.Retrying, ledger.Paused, ledger.Backfilling, ledger.Streaming}

// rank orders states with the worst first, as lists show them.
func rank(s ledger.State) int {
	if i := slices.Index(States, s); i >= 0 {
		return i
	}
	return len(States)
}

// Row is a destination with its collected status.
type Row struct {
	*destination.Destination
	status.Status

	Stream time.Duration // the whole stream is at least as far behind
}

// collect reads the status of every destination. Each destination is locked for an instant, one after the other.
func (p *Pipeline) collect(into []Row) []Row {
	into = into[:0]
	stream := p.Reader.Behind(time.Now())
	for _, d := range p.Router.Destinations() {
		into = append(into, Row{d, d.Status(), stream})
	}
	return into
}

// worstFirst orders by state, then by distance behind the primary, then by name.
func worstFirst(a, b Row) int {
	if c := cmp.Compare(rank(a.State), rank(b.State)); c != 0 {
		return c
	}
	if c := compareOldest(a.Oldest, b.Oldest); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(b.QueueBytes, a.QueueBytes), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
}

// compareOldest orders by age; the zero time, nothing waits, comes last.
func compareOldest(a, b time.Time) int {
	switch {
	case a.Equal(b):
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}

// Filter selects destinations for a list, and a part of the list.
type Filter struct {
	States        []string
	Tenant        string // exactly
	Search        string // in tenant or name
	Limit, Offset int
}

// matches reports whether a destination passes the filter. An empty filter passes all.
func (f *Filter) matches(tenant, name, state string) bool {
	return (len(f.States) == 0 || slices.Contains(f.States, state)) && (f.Tenant == "" || f.Tenant == tenant) &&
		(f.Search == "" || strings.Contains(strings.ToLower(tenant+"/"+name), strings.ToLower(f.Search)))
}

// List gives the requested part of the destinations, the worst first, and the number of matches.
func (f *Filter) List(all []Row) (part []Row, total int) {
	matching := make([]*Row, 0, len(all))
	for i := range all {
		if r := &all[i]; f.matches(r.Tenant, r.Name, string(r.State)) {
			matching = append(matching, r)
		}
	}
	slices.SortFunc(matching, func(a, b *Row) int { return worstFirst(*a, *b) })
	for _, r := range cutOut(matching, f) {
		part = append(part, *r)
	}
	return part, len(matching)
}

// ListNoted is list for destinations known from the notes only.
func (f *Filter) ListNoted(all []Destination) (part []Destination, total int) {
	var matching []Destination
	for _, d := range all {
		if f.matches(d.Tenant, d.Name, d.State) {
			matching = append(matching, d)
		}
	}
	return cutOut(matching, f), len(matching)
}

// cutOut is the part of a list requested by the filter.
func cutOut[T any](list []T, f *Filter) []T {
	from := min(f.Offset, len(list))
	return list[from:min(from+f.Limit, len(list))]
}

// Describe shows a destination in the form of the API.
func (r *Row) Describe(now time.Time, speed Rate) Destination {
	s := &r.Status
	d := Destination{Tenant: r.Tenant, Name: r.Name, Address: known(r.Address()), State: string(s.State), Reason: known(Clean(s.Reason)),
		Since: knownTime(s.Since), Detached: s.Detached, DetachedReason: known(Clean(s.DetachedWhy)), LastCommitAt: knownTime(s.CommitTime), Attempts: s.Attempts, NextRetryAt: knownTime(s.NextRetry),
		Backlog: &Queue{Transactions: s.Queued, Changes: s.QueuedChanges, Bytes: s.QueueBytes}, Rows: &s.Rows, Error: failureOf(s.Err)}
	if s.SequenceID >= 0 {
		d.LastSequenceID = &s.SequenceID
	}
	d.CopiedRows = known(s.Copied)
	d.Mappings = []Mapping{}
	for _, m := range r.MappingStatus() {
		next := describeMapping(m)
		if !s.Detached { // else the missing rows are not in the queue
			next.PendingChanges, next.PendingTransactions = &m.Changes, &m.Transactions
		}
		d.Mappings = append(d.Mappings, next)
	}
	if behind, ok := r.Lag(now); ok {
		d.LagSeconds = &behind
	}
	d.RowsPerSecond = speed.rows
	if s.Copying {
		d.Backfill = &Backfill{Table: known(s.CopyTable), Rows: s.Copied}
		if s.CopyTotal > 0 {
			total := max(s.CopyTotal, s.Copied) // CopyTotal is an estimate
			d.Backfill.Estimated = &total
			if speed.copied != nil && *speed.copied > 0 {
				left := float64(total-s.Copied) / *speed.copied
				d.Backfill.SecondsLeft = &left
			}
		}
	}
	return d
}

// describeMapping leaves out the changes waiting for the mapping.
func describeMapping(m ledger.MappingProgress) Mapping {
	d := Mapping{Name: Clean(m.Name), SyncedAt: knownTime(m.At)}
	if m.SequenceID >= 0 {
		d.SequenceID = &m.SequenceID
	}
	return d
}

// Lag is the age of the oldest waiting transaction, here or before the reader. A detached destination gets none. A destination that fails, is copied,
// or was paused before the first copy was complete lacks more than the waiting transactions: the distance behind the primary
// is not known.
func (r *Row) Lag(now time.Time) (seconds float64, ok bool) {
	if r.Detached {
		return 0, false
	}
	if r.Oldest.IsZero() {
		return r.Stream.Seconds(), r.State == ledger.Streaming
	}
	return max(r.Stream, now.Sub(r.Oldest)).Seconds(), true
}

// Detail is the destination of the row with its history.
func (r *Row) Detail(now time.Time, speed Rate) Detail {
	d := Detail{Destination: r.Describe(now, speed), History: []Event{}}
	events := r.History()
	for _, e := range slices.Backward(events) {
		d.History = append(d.History, Event{e.At.UTC(), string(e.State), Clean(e.Reason)})
	}
	return d
}

// Has reports whether the configuration of this process has the destination.
func (p *Pipeline) Has(tenant, name string) bool {
	return slices.ContainsFunc(p.Router.Destinations(), func(d *destination.Destination) bool { return d.Tenant == tenant && d.Name == name })
}

// Tables counts the changes read from the stream, by table.
func (p *Pipeline) Tables() []Table {
	all := []Table{}
	for _, t := range p.Router.TableStatus() {
		next := Table{Name: t.Table, Inserts: t.Inserts, Updates: t.Updates, Deletes: t.Deletes, Truncates: t.Truncates, Skipped: t.Skipped}
		if t.MaxSequenceID >= 0 {
			next.MinSequenceID, next.MaxSequenceID = &t.MinSequenceID, &t.MaxSequenceID
		}
		all = append(all, next)
	}
	return all
}

func describeSwitch(s ledger.Switch) Switch {
	return Switch{Name: s.Kind, Tenant: known(s.Tenant), Destination: known(s.Name), Off: s.Off,
		By: known(Clean(s.By)), Reason: known(Clean(s.Reason)), At: knownTime(s.At)}
}

// fuses are the global switches, in the order of the stream.
var fuses = []string{ledger.SwitchReading, ledger.SwitchApplying, ledger.SwitchBackfills}

// describeSwitches are the three fuses, including fuses never touched, and the paused destinations.
func describeSwitches(set []ledger.Switch) []Switch {
	all := make([]Switch, 0, len(fuses))
	for _, kind := range fuses {
		s := ledger.Switch{Kind: kind}
		if i := slices.IndexFunc(set, func(s ledger.Switch) bool { return s.Kind == kind }); i >= 0 {
			s = set[i]
		}
		all = append(all, describeSwitch(s))
	}
	for _, s := range set {
		if s.Kind == ledger.SwitchDestination && s.Off {
			all = append(all, describeSwitch(s))
		}
	}
	return all
}
