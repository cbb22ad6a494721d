package sink

import (
	"slices"
	"time"

	"outflow/mapping"
	"outflow/sink/ledger"
)

// MappingStatus returns the progress of each mapping, in the order in which the mappings run.
func (d *Destination) MappingStatus() []ledger.MappingProgress {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]ledger.MappingProgress, len(d.mappings))
	for i, m := range d.mappings {
		all[i] = ledger.MappingProgress{Name: m.Name, SequenceID: -1}
		if at := slices.IndexFunc(d.synced, func(s ledger.MappingProgress) bool { return s.Name == m.Name }); at >= 0 {
			all[i] = d.synced[at]
		}
		waiting := d.queue.BacklogOf(m.Tables(), all[i].SequenceID)
		all[i].Changes, all[i].Transactions = waiting.Changes, waiting.Transactions
	}
	return all
}

// setSyncedLocked takes over the progress of the session's mappings. at is when each progress was written, nil: a mapping that has moved was
// written now. The worker calls setSyncedLocked.
func (d *Destination) setSyncedLocked(s *session, at []time.Time) {
	known := make([]ledger.MappingProgress, len(s.Held))
	for i, id := range s.Held {
		known[i] = ledger.MappingProgress{Name: d.mappings[i].Name, SequenceID: id, At: time.Now()}
		switch {
		case at != nil:
			known[i].At = at[i]
		case i < len(d.synced) && d.synced[i].Name == known[i].Name && d.synced[i].SequenceID == id:
			known[i].At = d.synced[i].At
		}
	}
	d.synced, d.syncedNote = known, ""
}

// forgetRemovedLocked forgets the progress of mappings that the destination no longer has: the stream goes on without such mappings, so a mapping is
// filled again should the mapping return.
func (d *Destination) forgetRemovedLocked() {
	if d.fault != nil {
		return // the mappings are not known, and the stream does not go on without the mappings
	}
	rest := slices.DeleteFunc(slices.Clone(d.synced), func(s ledger.MappingProgress) bool {
		return !slices.ContainsFunc(d.mappings, func(m *mapping.Mapping) bool { return m.Name == s.Name })
	})
	if len(rest) < len(d.synced) {
		d.synced, d.syncedNote = rest, ""
	}
}

// followed are the mappings that the destination has had without interruption, as the primary knows.
func (d *Destination) followed() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := map[string]bool{}
	for _, s := range d.synced {
		names[s.Name] = true
	}
	return names
}

// progressLocked is the progress of the mappings, for outflow.destination_state.
func (d *Destination) progressLocked() string {
	if d.syncedNote == "" {
		d.syncedNote = ledger.FormatProgress(d.synced)
	}
	return d.syncedNote
}
