package monitor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"outflow/replication/primary"
	"outflow/sink/external"
	"outflow/sink/ledger"
)

// Unknown is the role and state of a process that cannot be asked.
const Unknown = "unknown"

// Notebook holds the primary's notes on a slot and its destinations.
type Notebook struct {
	At           time.Time // of the reading; zero: not yet
	Destinations []ledger.Destination
	Switches     []ledger.Switch
	Reader       *ledger.Reader // nil: no process reads the slot
	Err          error          // why the rest is not known
}

// ReadNotebook reads the primary's notes, less destinations removed from the configuration.
func ReadNotebook(ctx context.Context, store *ledger.Store) (b Notebook) {
	noted, err := store.Destinations(ctx, "", "")
	if err == nil {
		b.Switches, err = store.Switches(ctx)
	}
	if err == nil {
		b.Reader, err = store.Reader(ctx)
	}
	b.At, b.Err = time.Now(), err
	b.Destinations = slices.DeleteFunc(noted, func(n ledger.Destination) bool { return !n.Configured() })
	return b
}

// Noted makes a status of the primary's notes, where no process can be asked. Fields known only to a process are nil.
func Noted(version, slot string, st primary.SlotStatus, book Notebook) Status {
	s := Snapshot{Status: Status{Version: version, At: time.Now().UTC(), Role: Unknown, Reasons: []Reason{}, Slot: Slot{Name: slot},
		Destinations: map[string]int{}, Switches: describeSwitches(book.Switches)}}
	s.Slot.fill(st)
	s.fromNotes(book)
	s.judge(nil)
	s.State = Unknown
	return s.Status
}

// fromNotes shows the noted destinations.
func (s *Snapshot) fromNotes(book Notebook) {
	s.Noted = &Notes{At: knownTime(book.At), Reader: describeReader(book.Reader)}
	for _, d := range States {
		s.Destinations[string(d)] = 0
	}
	switch {
	case book.Err != nil:
		s.Noted.Error = known(Clean(book.Err.Error()))
		return
	case book.At.IsZero():
		return
	}
	s.FromNotebook = NotedDestinations(book)
	s.Total, s.Incidents = len(s.FromNotebook), notedIncidents(book)
	for _, d := range s.FromNotebook {
		s.Destinations[d.State]++
		if d.Detached {
			s.Detached++
		}
	}
	if book.Reader != nil { // else they have fallen behind since
		inSync := s.Destinations[string(ledger.Streaming)]
		s.InSync = &inSync
	}
}

func describeReader(r *ledger.Reader) *SlotReader {
	if r == nil {
		return nil
	}
	return &SlotReader{Host: known(Clean(r.Host)), Process: known(r.Process), Walsender: r.Walsender, Application: known(Clean(r.Application)),
		Address: known(r.Address), Since: knownTime(r.Since)}
}

// NotedDestinations are the destinations known to the primary, the worst first.
func NotedDestinations(book Notebook) []Destination {
	paused := map[[2]string]bool{}
	applying := false
	for _, sw := range book.Switches {
		switch {
		case sw.Off && sw.Kind == ledger.SwitchDestination:
			paused[[2]string{sw.Tenant, sw.Name}] = true
		case sw.Off && sw.Kind == ledger.SwitchApplying:
			applying = true
		}
	}
	all := make([]Destination, len(book.Destinations))
	for i, n := range book.Destinations {
		d := Destination{Tenant: n.Tenant, Name: n.Name, State: string(n.State), Reason: known(Clean(n.Reason)), Since: knownTime(n.Since),
			Detached: n.Detached, CopiedRows: known(n.Copied), Mappings: []Mapping{}}
		d.Error = notedFailure(n)
		if n.SequenceID >= 0 {
			d.LastSequenceID = &n.SequenceID
		}
		for _, m := range n.Mappings {
			d.Mappings = append(d.Mappings, describeMapping(m))
		}
		if n.State == ledger.Backfilling {
			d.Backfill = &Backfill{Rows: n.Copied}
			if n.CopyTotal > 0 {
				d.Backfill.Estimated = known(max(n.CopyTotal, n.Copied))
			}
		}
		if book.Reader == nil && strings.HasPrefix(n.Reason, primary.Ended) {
			d.State, d.Backfill = string(ledger.Halted), nil // nothing goes on until a person has corrected the cause of the end of reading
		}
		if d.State != string(ledger.Halted) && (applying || paused[[2]string{n.Tenant, n.Name}]) {
			d.State = string(ledger.Paused)
		}
		all[i] = d
	}
	slices.SortStableFunc(all, func(a, b Destination) int {
		return cmp.Compare(rank(ledger.State(a.State)), rank(ledger.State(b.State)))
	})
	return all
}

// notedFailure is the noted last failure of a destination, nil where the destination has succeeded since.
func notedFailure(n ledger.Destination) *Failure {
	if n.Class == "" || n.State == ledger.Streaming {
		return nil
	}
	f := &Failure{Message: Clean(n.Reason), Class: n.Class}
	if external.IsSQLState(n.Class) {
		f.Class, f.SQLState = classOfState(n.Class), &n.Class
	}
	return f
}

// NotedHistory is the last change of state: earlier changes are not noted.
func (d *Destination) NotedHistory() []Event {
	if d.Since == nil {
		return []Event{}
	}
	return []Event{{*d.Since, d.State, *cmp.Or(d.Reason, new(string))}}
}

// notedIncidents are the last failures of the failing destinations, the newest first. The number of repetitions is not known.
func notedIncidents(book Notebook) []Incident {
	all := []Incident{}
	for _, n := range book.Destinations {
		if f := notedFailure(n); f != nil {
			all = append(all, Incident{Tenant: n.Tenant, Name: n.Name, First: n.Since.UTC(), Last: n.At.UTC(), State: string(n.State), Failure: *f})
		}
	}
	slices.SortStableFunc(all, func(a, b Incident) int { return b.Last.Compare(a.Last) })
	return all[:min(len(all), recentKept)]
}

// Words say who reads the slot.
func (r *SlotReader) Words() string {
	if r == nil {
		return "No process reads the slot"
	}
	who := "A program that this role may not see"
	switch {
	case r.Host != nil && r.Process != nil:
		who = fmt.Sprintf("%s (process %d)", *r.Host, *r.Process)
	case r.Address != nil:
		who = "A program at " + *r.Address
	case r.Application != nil:
		who = "A program"
	}
	if r.Application != nil && (r.Host == nil || r.Process == nil) {
		who += fmt.Sprintf(", %q,", *r.Application)
	}
	return who + " reads the slot"
}

// SlotWords are a slot for a terminal.
func SlotWords(s Slot) []string {
	if s.CheckedAt == nil {
		return []string{"not known yet"}
	}
	words := []string{"no reader"}
	if s.Active != nil && *s.Active {
		words[0] = "active"
	}
	if s.WALStatus != nil {
		words = append(words, *s.WALStatus)
	}
	if s.RetainedBytes != nil {
		words = append(words, BytesText(*s.RetainedBytes)+" retained")
	}
	if s.SafeBytes != nil {
		return append(words, BytesText(*s.SafeBytes)+" more are safe")
	}
	return append(words, "no limit")
}

// LagWords are the lag for a terminal.
func LagWords(l Lag) string {
	text := "no destination streams"
	if l.P50Seconds != nil && l.P99Seconds != nil && l.Worst != nil {
		text = fmt.Sprintf("streaming destinations p50 %s, p99 %s, worst %s (%s)", DurationText(*l.P50Seconds), DurationText(*l.P99Seconds),
			DurationText(l.Worst.Seconds), Clean(l.Worst.Tenant+"/"+l.Worst.Name))
	}
	if l.Bytes != nil {
		text += "; not acknowledged " + BytesText(*l.Bytes)
	}
	if l.EndToEndSeconds != nil {
		text += "; heartbeat " + DurationText(*l.EndToEndSeconds)
	}
	return text
}

// InSyncWords are the headline for a terminal.
func InSyncWords(s Status) string {
	if s.InSync == nil {
		return fmt.Sprintf("%d destinations, number in sync unknown", s.Total)
	}
	return fmt.Sprintf("%d of %d in sync", *s.InSync, s.Total)
}

// Words are a mapping for a line of a terminal, in the columns of its destination.
func (m Mapping) Words() []string {
	words := []string{"  " + Clean(m.Name), "", "", "", "", NoValue, ""}
	if m.SequenceID != nil {
		words[5] = fmt.Sprint(*m.SequenceID)
	}
	if m.SyncedAt != nil {
		words[6] = "synced at " + m.SyncedAt.Format(time.RFC3339) + "; "
	}
	if m.PendingChanges != nil && m.PendingTransactions != nil {
		words[6] += fmt.Sprintf("%s pending in %s", plural(int(*m.PendingChanges), "change", "changes"), plural(*m.PendingTransactions, "transaction", "transactions"))
	}
	words[6] = strings.TrimSuffix(words[6], "; ")
	return words
}

// Words are a destination for a line of a terminal: destination, state, lag, backlog, rows a second, last sequence id, why.
func Words(d Destination) []string {
	words := []string{Clean(d.Tenant + "/" + d.Name), d.State, NoValue, NoValue, NoValue, NoValue, ""}
	if d.LagSeconds != nil {
		words[2] = DurationText(*d.LagSeconds)
	}
	if d.Backlog != nil {
		words[3] = BytesText(d.Backlog.Bytes)
	}
	if d.RowsPerSecond != nil {
		words[4] = fmt.Sprintf("%.0f", *d.RowsPerSecond)
	}
	if d.LastSequenceID != nil {
		words[5] = fmt.Sprint(*d.LastSequenceID)
	}
	switch {
	case d.Backfill != nil && d.Backfill.Estimated != nil:
		words[6] = fmt.Sprintf("%d of about %d rows copied", d.Backfill.Rows, *d.Backfill.Estimated)
	case d.Backfill != nil:
		words[6] = fmt.Sprintf("%d rows copied", d.Backfill.Rows)
	case d.Reason != nil:
		words[6] = *d.Reason
	}
	if d.Detached && d.State != string(ledger.Parked) {
		words[6] = strings.TrimPrefix(words[6]+"; the stream goes on without it", "; ")
	}
	return words
}
