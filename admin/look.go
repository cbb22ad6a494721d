package admin

import (
	"time"

	"outflow/admin/monitor"
)

// snapshotFor is the time of reuse of a snapshot: many clients asking at the same time share one snapshot.
const snapshotFor = 200 * time.Millisecond

// look returns the state of now, or of a moment ago.
func (s *Server) look() *monitor.Snapshot {
	s.lookMu.Lock()
	defer s.lookMu.Unlock()
	p, problem := s.current()
	now := time.Now()
	if last := s.looked; last != nil && last.Pipeline == p && now.Sub(last.At) < snapshotFor {
		return last
	}
	s.looked = s.take(now, p, problem)
	return s.looked
}

// take makes a snapshot. It locks each destination for a moment, so look shares a snapshot among requests.
func (s *Server) take(now time.Time, p *monitor.Pipeline, problem error) *monitor.Snapshot {
	return monitor.NewSnapshot(now, monitor.Process{Version: s.Version, Slot: s.Slot, Started: s.started}, p, problem, &s.sampler, s.notebook)
}
