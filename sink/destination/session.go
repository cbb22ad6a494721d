package destination

import (
	"context"

	"outflow/sink/backfill"
	"outflow/sink/external"
)

// session is a destination's session at the external database, with the destination's knowledge of the session.
type session struct {
	*external.Session
	d        *Destination
	backfill *backfill.Backfill // nil: every mapping is complete
	given    int64              // at the opening: no higher id was given
	least    int64              // the id that the database had at the opening
	followed map[string]bool    // see [Destination.followed]
}

// opened makes a session ready. Without success the connection is closed, and its place is free, after a panic too.
func (s *session) opened(ctx context.Context) error {
	ready := false
	defer func() {
		if !ready {
			s.close()
		}
	}()
	err := s.open(ctx)
	ready = err == nil
	return err
}

// close gives up the copy's chunk in hand, ends the connection and gives the place of the connection back.
func (s *session) close() {
	if s.backfill != nil {
		s.backfill.End()
	}
	s.Session.Close()
}
