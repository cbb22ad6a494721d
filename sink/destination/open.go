package destination

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/sink/backfill"
	"outflow/sink/external"
)

// An external database belongs to a single destination: every row of Outflow's in the metadata has the destination's name. Two destinations
// with the same database, under whatever spellings of the address, would undo each other's copies and ids: the first keeps the database, and
// the other is halted. A destination no longer in the configuration loses the database to the next destination to connect, as after a rename.

// open reads the metadata and makes ready all missing parts: the metadata table, each mapping's row and tables.
func (s *session) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.shared.Options.StatementTimeout)
	defer cancel()
	if err := failpoint.Fail(failpoint.Connected); err != nil {
		return err
	}
	metadata, err := s.metadata(ctx)
	if err != nil {
		return err
	}
	if err := s.takeOver(ctx, metadata); err != nil {
		return err
	}
	if err := s.checkContinuity(ctx, metadata); err != nil {
		return err
	}
	if err := s.d.announce(ctx); err != nil {
		return err
	}
	s.followed = s.d.followed()
	if owned := metadata.Owned(s.d.Name); !owned || !s.ready(metadata) || (s.d.shared.Options.Quarantines() && !s.HasQuarantine(ctx)) {
		if err := s.install(ctx, !owned); err != nil {
			return err
		}
		for _, m := range s.d.db.Mappings {
			s.followed[m.Name] = true
		}
		if metadata, err = s.metadata(ctx); err != nil {
			return err
		}
	}
	s.Know(metadata)
	if err := s.checkGiven(); err != nil {
		return err
	}
	if err := s.PrepareSteps(ctx); err != nil {
		return err
	}
	s.backfill, err = backfill.New(s.d.shared.Copying, copyOwner{s.d}, s.Session, s.d.db, s.d.slot, &s.d.pace, metadata)
	return err
}

// checkContinuity compares the external database's ids with the ids noted on the primary. Lower ids mean that the external
// database was restored from a backup, emptied or swapped: the stream cannot fill the gap, so a new epoch has the database copied
// again.
func (s *session) checkContinuity(ctx context.Context, metadata external.Metadata) error {
	d := s.d
	if err := s.checkAhead(ctx, metadata); err != nil {
		return err
	}
	s.remember()
	if s.least < 0 {
		return nil // the primary knows nothing of the database: the database is new
	}
	gap := metadata == nil
	for _, m := range d.db.Mappings {
		if row, ok := metadata[m.Name]; ok && row.Epoch == s.Epoch && row.SequenceID < s.least {
			gap = true
		}
	}
	if !gap {
		return nil
	}
	d.log.Warn("the external database has less than it had, and is copied again", zap.Int64("sequence_id", s.least))
	if err := d.raiseEpoch(ctx, "the external database was restored, emptied or swapped"); err != nil {
		return err
	}
	s.remember()
	return nil
}

// wantedEpoch is the epoch that the external database's metadata must have; with any other, the database is copied again.
func (d *Destination) wantedEpoch() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.noted.epoch
}

// remember notes the destination's epoch and least id for the whole session: another goroutine may raise the epoch meanwhile, and
// the session then ends.
func (s *session) remember() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.Epoch, s.least = s.d.noted.epoch, max(s.d.noted.recordedID, s.d.queue.Released())
}

// checkAhead refuses an external database with ids that the primary has not given yet: the primary went back, or the tenant changed a number.
// Changes with lower ids would be taken for old changes and skipped. A mapping of an earlier epoch is filled again, whatever its id.
func (s *session) checkAhead(ctx context.Context, metadata external.Metadata) error {
	r := s.d.shared
	highest, wanted := int64(-1), s.d.wantedEpoch()
	for _, m := range metadata {
		if m.Epoch >= wanted {
			highest = max(highest, m.SequenceID)
		}
		if m.Epoch != wanted {
			continue // the database is copied again, with ids above all given ids
		}
		if remembers, err := r.Ledger.HasCheckpoint(ctx, m.CheckpointID); err != nil {
			return err
		} else if !remembers {
			return &external.Error{Verdict: external.NeedsHuman, Err: fmt.Errorf("the external database was written after checkpoint %s, which the primary "+
				"does not know: the primary was restored from a backup", m.CheckpointID), Remedy: ResetRemedy}
		}
	}
	if s.given = r.SequenceID(r.Reader.Position()); highest > s.given || s.replaces(metadata, wanted) {
		now, err := (&tableread.Copier{Tables: r.Copying.Tables}).Once(ctx) // the stream may only be behind
		if err != nil {
			return err
		}
		s.given = r.SequenceID(now.Horizon)
	}
	if highest <= s.given {
		return nil
	}
	return &external.Error{Verdict: external.NeedsHuman, Err: fmt.Errorf("the external database has sequence id %d, but the primary is at %d: "+
		"the primary was restored from a backup, or another program changed _stack_sync_metadata", highest, s.given),
		Remedy: ResetRemedy + "; if only this destination is concerned and the primary was not restored, run outflow resync for this destination"}
}

// replaces reports whether a row of an earlier epoch has an id beyond the stream's place.
func (s *session) replaces(metadata external.Metadata, wanted int64) bool {
	for _, m := range metadata {
		if m.Epoch < wanted && m.SequenceID > s.given {
			return true
		}
	}
	return false
}

// checkGiven refuses ids above all given ids in what was read last: the tenant may have written since checkAhead.
func (s *session) checkGiven() error {
	if given := max(s.given, s.d.shared.SequenceID(s.d.shared.Reader.Position())); len(s.Held) > 0 && slices.Max(s.Held) > given {
		return &external.Error{Verdict: external.Conflict, Err: fmt.Errorf("another program changed _stack_sync_metadata: Outflow has not given sequence id %d yet", slices.Max(s.Held))}
	}
	return nil
}

// metadata reads the metadata, and refuses a database of another destination of the configuration.
func (s *session) metadata(ctx context.Context) (external.Metadata, error) {
	metadata, err := s.Session.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	wanted := s.d.wantedEpoch()
	for name, m := range metadata {
		if m.Source != "" && m.Destination != "" && m.Destination != s.d.Name && s.d.shared.Router.Configured(s.d.Tenant, m.Destination) {
			return nil, external.RefuseDestination(m.Destination)
		}
		if m.CursorTooLarge && m.Epoch == wanted {
			return nil, external.RefuseCursor(name)
		}
	}
	return metadata, nil
}

// announce makes sure that the primary has noted the destination and its mappings before rows are copied for the mappings: where
// the stream turns out to have gaps, all noted destinations are copied again.
func (d *Destination) announce(ctx context.Context) error {
	d.mu.Lock()
	noted := d.noted.last.Epoch != 0 && d.noted.last.Fingerprint == d.fingerprintLocked()
	d.mu.Unlock()
	if noted {
		return nil
	}
	if err := d.shared.Router.Checkpoint(ctx); err != nil {
		return err
	}
	return d.refusedNote()
}

// ready reports whether every mapping has its row, its tables and the stream's continuity.
func (s *session) ready(metadata external.Metadata) bool {
	for _, m := range s.d.db.Mappings {
		if !s.readyFor(m, metadata) {
			return false
		}
	}
	return true
}

func (s *session) readyFor(m *mapping.Mapping, metadata external.Metadata) bool {
	row, ok := metadata[m.Name]
	return ok && row.Source != "" && row.Fingerprint == m.Fingerprint() && row.Epoch == s.Epoch && s.followed[m.Name]
}

// install creates the missing parts in one transaction. A mapping that is new, has changed, is of an earlier epoch, or was not
// the destination's for a time has its schema run and is filled from the start.
func (s *session) install(ctx context.Context, fresh bool) error {
	if err := failpoint.Fail(failpoint.BeforeInstall); err != nil {
		return err
	}
	if err := s.Begin(ctx); err != nil {
		return err
	}
	err := s.installAll(ctx, fresh)
	if err == nil {
		err = s.Commit(ctx)
	}
	if err == nil {
		err = failpoint.Fail(failpoint.Installed)
	}
	if err != nil {
		s.Rollback()
	}
	return err
}

// installAll is install within the transaction. fresh says that the metadata table may be missing, or may lack columns.
func (s *session) installAll(ctx context.Context, fresh bool) error {
	if fresh {
		if err := s.CreateMetadata(ctx); err != nil {
			return err
		}
	}
	if err := s.LockMetadata(ctx); err != nil {
		return err
	}
	// Behind the lock: the process that reads the slot by now finds what is written here, or this process finds the reading of that process.
	if err := s.d.shared.Ledger.CheckReading(ctx); err != nil {
		return err
	}
	if s.d.shared.Options.Quarantines() {
		if err := s.CreateQuarantine(ctx); err != nil {
			return err
		}
	}
	if err := s.Adopt(ctx); err != nil {
		return err
	}
	metadata, err := s.metadata(ctx)
	if err != nil {
		return err
	}
	filled := map[string]bool{}
	for _, m := range s.d.db.Mappings { // each after the mappings whose tables it reads
		reads := slices.ContainsFunc(m.After, func(name string) bool { return filled[name] })
		if s.readyFor(m, metadata) && !reads {
			continue
		}
		filled[m.Name] = true
		if err := s.fillMapping(ctx, m, metadata); err != nil {
			return err
		}
	}
	return s.Own(ctx)
}

// fillMapping runs a mapping's schema and has the mapping filled from the start.
func (s *session) fillMapping(ctx context.Context, m *mapping.Mapping, metadata external.Metadata) error {
	row, ok := metadata[m.Name]
	if row.Epoch > s.Epoch {
		if err := s.unknownEpoch(ctx, row.Epoch); err != nil {
			return err
		}
	}
	if err := s.RunSchema(ctx, m); err != nil {
		return err
	}
	if !ok || row.Epoch != s.Epoch || !s.followed[m.Name] { // else only the mapping has changed, and no change was lost
		if err := s.Sweepable(ctx, m); err != nil {
			return err
		}
	}
	err := s.Fill(ctx, m, external.Fill{Epoch: s.Epoch, Cursor: backfill.First.String(), Least: s.least, Given: s.given, CheckpointID: s.d.shared.Router.CheckpointID()})
	if err != nil {
		return err
	}
	s.d.log.Info("the mapping is filled from the primary", zap.String("mapping", m.Name), zap.String("fingerprint", m.Fingerprint()))
	return nil
}

// unknownEpoch refuses to go below an epoch that the primary has noted: another process has begun the epoch. Epochs are noted on the primary
// before they are written anywhere else, so an epoch without a note is the tenant's number, or from a time when the primary's clock was ahead.
func (s *session) unknownEpoch(ctx context.Context, epoch int64) error {
	noted, err := s.d.ReadAgain(ctx)
	if err != nil {
		return err
	}
	if noted >= epoch {
		return &external.Error{Verdict: external.Conflict, Err: fmt.Errorf("another process has begun epoch %d", epoch)}
	}
	s.d.log.Warn("the primary does not know the external database's epoch: the database is copied again", zap.Int64("epoch", epoch), zap.Int64("noted", noted))
	return nil
}

// takeOver has a database copied that was another destination's: nothing is known of the changes since. The epoch must be later than the
// other destination's.
func (s *session) takeOver(ctx context.Context, metadata external.Metadata) error {
	for _, m := range metadata {
		if m.Source != "" && m.Destination != "" && m.Destination != s.d.Name && m.Epoch >= s.d.wantedEpoch() {
			return s.d.raiseEpoch(ctx, fmt.Sprintf("the database was that of destination %q", m.Destination))
		}
	}
	return nil
}
