package destination

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
	all := make([]ledger.MappingProgress, len(d.db.Mappings))
	for i, m := range d.db.Mappings {
		all[i] = ledger.MappingProgress{Name: m.Name, SequenceID: -1}
		if at := slices.IndexFunc(d.noted.synced, func(s ledger.MappingProgress) bool { return s.Name == m.Name }); at >= 0 {
			all[i] = d.noted.synced[at]
		}
		waiting := d.queue.BacklogOf(m.Tables(), all[i].SequenceID)
		all[i].Changes, all[i].Transactions = waiting.Changes, waiting.Transactions
	}
	return all
}

// syncedNowLocked takes over the progress of the session's mappings: a mapping that has moved was written now. The worker calls syncedNowLocked.
func (d *Destination) syncedNowLocked(s *session) {
	at := make([]time.Time, len(s.Held))
	for i, id := range s.Held {
		at[i] = time.Now()
		if i < len(d.noted.synced) && d.noted.synced[i].Name == d.db.Mappings[i].Name && d.noted.synced[i].SequenceID == id {
			at[i] = d.noted.synced[i].At
		}
	}
	d.syncedLocked(s, at)
}

// syncedLocked takes over the progress of the session's mappings, and when each progress was written.
func (d *Destination) syncedLocked(s *session, at []time.Time) {
	progress := make([]ledger.MappingProgress, len(s.Held))
	for i, id := range s.Held {
		progress[i] = ledger.MappingProgress{Name: d.db.Mappings[i].Name, SequenceID: id, At: at[i]}
	}
	d.noted.synced, d.noted.syncedText = progress, ""
}

// forgetRemovedLocked forgets the progress of mappings that the destination no longer has: the stream goes on without such mappings, so a mapping is
// filled again should the mapping return.
func (d *Destination) forgetRemovedLocked() {
	if d.fault != nil {
		return // the mappings are not known, and the stream does not go on without the mappings
	}
	rest := slices.DeleteFunc(slices.Clone(d.noted.synced), func(s ledger.MappingProgress) bool {
		return !slices.ContainsFunc(d.db.Mappings, func(m *mapping.Mapping) bool { return m.Name == s.Name })
	})
	if len(rest) < len(d.noted.synced) {
		d.noted.synced, d.noted.syncedText = rest, ""
	}
}

// followed are the mappings that the destination has had without interruption, as the primary knows.
func (d *Destination) followed() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := map[string]bool{}
	for _, s := range d.noted.synced {
		names[s.Name] = true
	}
	return names
}

// progressLocked is the progress of the mappings, for outflow.destination_state.
func (d *Destination) progressLocked() string {
	if d.noted.syncedText == "" {
		d.noted.syncedText = ledger.FormatProgress(d.noted.synced)
	}
	return d.noted.syncedText
}
