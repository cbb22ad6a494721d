package admin

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"outflow/replication"
	"outflow/sink"
)

// Unknown is the role and state of a process that cannot be asked.
const Unknown = "unknown"

// Noted makes a status of what the primary has noted, where no process can be asked. What only a process knows is nil.
func Noted(version, slot string, st replication.SlotStatus, noted []sink.Noted, switches []sink.Switch) Status {
	s := Status{Version: version, At: time.Now().UTC(), Role: Unknown, State: Unknown, Reasons: []Reason{}, Slot: Slot{Name: slot},
		Destinations: map[string]int{}, Switches: describeSwitches(switches)}
	s.Slot.fill(st)
	for _, d := range states {
		s.Destinations[string(d)] = 0
	}
	for _, d := range NotedDestinations(noted, switches) {
		s.Destinations[d.State]++
	}
	return s
}

// NotedDestinations are the destinations of which the primary knows, the worst first.
func NotedDestinations(noted []sink.Noted, switches []sink.Switch) []Destination {
	all := make([]Destination, len(noted))
	for i, n := range noted {
		all[i] = Destination{Tenant: n.Tenant, Name: n.Name, State: string(n.State), Reason: known(clean(n.Reason)), Since: knownTime(n.At)}
		if n.SequenceID >= 0 {
			all[i].LastSequenceID = &noted[i].SequenceID
		}
		for _, sw := range switches {
			if sw.Kind == sink.SwitchDestination && sw.Off && sw.Tenant == n.Tenant && sw.Name == n.Name {
				all[i].State = string(sink.Paused)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Destination) int { return cmp.Compare(rank(sink.State(a.State)), rank(sink.State(b.State))) })
	return all
}

// SlotWords are a slot for a terminal.
func SlotWords(s Slot) []string {
	if s.CheckedAt == nil {
		return []string{"not asked yet"}
	}
	words := []string{"nobody reads it"}
	if s.Active != nil && *s.Active {
		words[0] = "active"
	}
	if s.WALStatus != nil {
		words = append(words, *s.WALStatus)
	}
	if s.RetainedBytes != nil {
		words = append(words, bytesText(*s.RetainedBytes)+" retained")
	}
	if s.SafeBytes != nil {
		return append(words, bytesText(*s.SafeBytes)+" more are safe")
	}
	return append(words, "no limit")
}

// LagWords are the lag for a terminal.
func LagWords(l Lag) string {
	text := unknown
	if l.Seconds != nil {
		text = durationText(*l.Seconds)
	}
	if l.Bytes != nil {
		text += ", " + bytesText(*l.Bytes)
	}
	if l.EndToEndSeconds != nil {
		text += ", heartbeat " + durationText(*l.EndToEndSeconds)
	}
	return text
}

// Words are a destination for a line of a terminal: destination, state, lag, backlog, rows a second, last sequence id, why.
func Words(d Destination) []string {
	words := []string{clean(d.Tenant + "/" + d.Name), d.State, unknown, unknown, unknown, unknown, ""}
	if d.LagSeconds != nil {
		words[2] = durationText(*d.LagSeconds)
	}
	if d.Backlog != nil {
		words[3] = bytesText(d.Backlog.Bytes)
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
	return words
}
