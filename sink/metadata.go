package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/tableread"
)

// The metadata table is a contract: other programs read the first three columns, the rest is Outflow's own.
const (
	createMetadata = `CREATE TABLE IF NOT EXISTS "_stack_sync_metadata" (
		"mapping_name" text PRIMARY KEY,
		"last_synced_sequence_id" bigint NOT NULL DEFAULT -1,
		"updated_at" timestamp NOT NULL DEFAULT now())`
	extendMetadata = `ALTER TABLE "_stack_sync_metadata"
		ADD COLUMN IF NOT EXISTS "fingerprint" text,
		ADD COLUMN IF NOT EXISTS "tenant" text,
		ADD COLUMN IF NOT EXISTS "source" text,
		ADD COLUMN IF NOT EXISTS "epoch" bigint,
		ADD COLUMN IF NOT EXISTS "backfill" jsonb,
		ADD COLUMN IF NOT EXISTS "mark" text,
		ADD COLUMN IF NOT EXISTS "destination" text`
	// The tenant may write anything into the table, and as many rows as the tenant likes. So the rows of the mappings $1 are read, and one of
	// the others: a row of another owner than source $2 and tenant $3 where there is one, else the row with the highest id.
	readMetadata = `SELECT left("mapping_name"::text, 1024), "last_synced_sequence_id", left("fingerprint"::text, 1024), left("tenant"::text, 1024),
			left("source"::text, 1024), "epoch", CASE WHEN octet_length("backfill"::text) > 262144 THEN '"` + largeCursor + `"' ELSE "backfill"::text END,
			left("mark"::text, 1024), coalesce(extract(epoch FROM "updated_at"), 0)::float8::text, left(to_jsonb(m) ->> 'destination', 1024)
		FROM (SELECT * FROM (SELECT * FROM public."_stack_sync_metadata" WHERE "mapping_name" = ANY ($1::text[]) LIMIT 1000) AS named
			UNION ALL SELECT * FROM (SELECT * FROM public."_stack_sync_metadata" WHERE "mapping_name" <> ALL ($1::text[])
				ORDER BY coalesce("source" <> $2 OR "tenant" <> $3, false) DESC, "last_synced_sequence_id" DESC LIMIT 1) AS other) AS m`
	largeCursor = "larger than 262144 bytes"
	// A table without an owner is an older system's: its ids are not Outflow's.
	adoptMetadata = `UPDATE "_stack_sync_metadata"
		SET "tenant" = $1, "source" = $2, "last_synced_sequence_id" = -1, "fingerprint" = NULL WHERE "source" IS NULL AND "mapping_name" = ANY ($3::text[])`
	// A mapping to be filled from the start takes live changes from the rest of the stream; all earlier rows are copied. An id above $9, the
	// highest that was given, is not an id of this installation: with that id the mapping would skip the stream.
	fillMapping = `INSERT INTO "_stack_sync_metadata" AS m
			("mapping_name", "tenant", "source", "fingerprint", "epoch", "backfill", "last_synced_sequence_id", "mark")
		VALUES ($1, $2, $3, $4, $5::bigint, $6::jsonb, $7::bigint, $8)
		ON CONFLICT ("mapping_name") DO UPDATE SET "fingerprint" = excluded."fingerprint", "epoch" = excluded."epoch",
			"backfill" = excluded."backfill", "mark" = excluded."mark", "updated_at" = now(),
			"last_synced_sequence_id" = CASE WHEN m."last_synced_sequence_id" > $9::bigint THEN excluded."last_synced_sequence_id"
				ELSE greatest(m."last_synced_sequence_id", excluded."last_synced_sequence_id") END`
	// Other mappings being filled begin again along with the mapping, so that all are at one place.
	refillMappings = `UPDATE "_stack_sync_metadata" SET "backfill" = $1::jsonb WHERE "backfill" IS NOT NULL AND "mapping_name" = ANY ($2::text[])`
)

// metadata is the external database's row about a mapping.
type metadata struct {
	id                          int64
	fingerprint, tenant, source string
	destination                 string    // the owner's name; "" where the row has none
	epoch                       int64     // 0 where the row has none
	backfill                    string    // cursor of a backfill in progress, "" where there is none
	written                     time.Time // when the row was last written, on the external server's clock
	checkpointID                string    // the primary's newest checkpoint when the row was last written
}

// open reads the metadata and makes ready all missing parts: the metadata table, each mapping's row and tables.
func (s *session) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.router.Options.StatementTimeout)
	defer cancel()
	if err := failpoint.Fail(failpoint.Connected); err != nil {
		return err
	}
	known, err := s.metadata(ctx)
	if err != nil {
		return err
	}
	if err := s.takeOver(ctx, known); err != nil {
		return err
	}
	if err := s.checkContinuity(ctx, known); err != nil {
		return err
	}
	if err := s.d.announce(ctx); err != nil {
		return err
	}
	s.followed = s.d.followed()
	if owned := s.owned(known); !owned || !s.ready(known) || (s.d.router.Options.quarantines() && !s.hasQuarantine(ctx)) {
		if err := s.install(ctx, !owned); err != nil {
			return err
		}
		for _, m := range s.d.mappings {
			s.followed[m.Name] = true
		}
		if known, err = s.metadata(ctx); err != nil {
			return err
		}
	}
	s.held, s.written = s.held[:0], s.written[:0]
	for _, m := range s.d.mappings {
		s.held, s.written = append(s.held, known[m.Name].id), append(s.written, known[m.Name].written)
	}
	s.expected = append(s.expected[:0], s.held...)
	if err := s.checkGiven(); err != nil {
		return err
	}
	if err := s.check(ctx); err != nil {
		return err
	}
	s.backfill, err = newBackfill(s, known)
	return err
}

// checkContinuity compares the external database's ids with the ids noted on the primary. Lower ids mean that the external
// database was restored from a backup, emptied or swapped: the stream cannot fill the gap, so a new epoch has the database copied
// again.
func (s *session) checkContinuity(ctx context.Context, known map[string]metadata) error {
	d := s.d
	if err := s.checkAhead(ctx, known); err != nil {
		return err
	}
	s.remember()
	if s.least < 0 {
		return nil // the primary knows nothing of the database: the database is new
	}
	gap := known == nil
	for _, m := range d.mappings {
		if row, ok := known[m.Name]; ok && row.epoch == s.epoch && row.id < s.least {
			gap = true
		}
	}
	if !gap {
		return nil
	}
	d.log.Warn("the external database has less than it had: it is copied anew", zap.Int64("sequence_id", s.least))
	if err := d.raiseEpoch(ctx, "the external database went back: restored, emptied or swapped"); err != nil {
		return err
	}
	s.remember()
	return nil
}

// wantedEpoch is the epoch that the external database's metadata must have; with any other, the database is copied again.
func (d *Destination) wantedEpoch() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.epoch
}

// remember notes the destination's epoch and least id for the whole session: another goroutine may raise the epoch meanwhile, and
// the session then ends.
func (s *session) remember() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.epoch, s.least = s.d.epoch, max(s.d.recordedID, s.d.queue.released)
}

// checkAhead refuses an external database with ids that the primary has not given yet: the primary went back, or the tenant changed a number.
// Changes with lower ids would be taken for old changes and skipped. A mapping of an earlier epoch is filled again, whatever its id.
func (s *session) checkAhead(ctx context.Context, known map[string]metadata) error {
	r := s.d.router
	highest, wanted := int64(-1), s.d.wantedEpoch()
	for _, m := range known {
		if m.epoch >= wanted {
			highest = max(highest, m.id)
		}
		if m.epoch != wanted {
			continue // the database is copied again, with ids above all given ids
		}
		if remembers, err := r.Ledger.HasCheckpoint(ctx, m.checkpointID); err != nil {
			return err
		} else if !remembers {
			return &Error{verdict: needsHuman, Err: fmt.Errorf("the external database was written after checkpoint %s, which the primary "+
				"does not know: the primary was restored from a backup", m.checkpointID), Remedy: resetRemedy}
		}
	}
	if s.given = r.SequenceID(r.Reader.Position()); highest > s.given || s.replaces(known, wanted) {
		now, err := (&tableread.Copier{Tables: r.Primary}).Once(ctx) // the stream may only be behind
		if err != nil {
			return err
		}
		s.given = r.SequenceID(now.Horizon)
	}
	if highest <= s.given {
		return nil
	}
	return &Error{verdict: needsHuman, Err: fmt.Errorf("the external database has sequence id %d, and the primary has come to %d: "+
		"the primary was restored from a backup, or somebody changed _stack_sync_metadata", highest, s.given),
		Remedy: resetRemedy + "; where only this destination is concerned and the primary was not restored, outflow resync of this destination does"}
}

// replaces reports whether a row of an earlier epoch has an id beyond the stream's place.
func (s *session) replaces(known map[string]metadata, wanted int64) bool {
	for _, m := range known {
		if m.epoch < wanted && m.id > s.given {
			return true
		}
	}
	return false
}

// checkGiven refuses ids above all given ids in what was read last: the tenant may have written since checkAhead.
func (s *session) checkGiven() error {
	if given := max(s.given, s.d.router.SequenceID(s.d.router.Reader.Position())); len(s.held) > 0 && slices.Max(s.held) > given {
		return &Error{verdict: conflict, Err: fmt.Errorf("somebody changed _stack_sync_metadata: sequence id %d was not given yet", slices.Max(s.held))}
	}
	return nil
}

// metadata reads the table; nil means that the table does not exist, or lacks Outflow's columns.
func (s *session) metadata(ctx context.Context) (map[string]metadata, error) {
	rows, err := s.ask(ctx, 10, readMetadata, s.names(), s.d.router.SourceID, s.d.Tenant)
	if state := sqlstate(err); state == undefinedTable || state == undefinedColumn {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading _stack_sync_metadata: %w", err)
	}
	known := map[string]metadata{}
	for _, r := range rows {
		m := metadata{fingerprint: string(r[2]), tenant: string(r[3]), source: string(r[4]), backfill: string(r[6]), checkpointID: string(r[7]),
			destination: string(r[9])}
		if m.id, err = strconv.ParseInt(string(r[1]), 10, 64); err == nil && r[5] != nil {
			m.epoch, err = strconv.ParseInt(string(r[5]), 10, 64)
		}
		if seconds, wrong := strconv.ParseFloat(string(r[8]), 64); wrong == nil { // for people only
			m.written = time.UnixMicro(int64(seconds * 1e6))
		}
		if err != nil {
			return nil, &Error{verdict: needsHuman, Err: fmt.Errorf("reading _stack_sync_metadata: %w", err),
				Remedy: "let last_synced_sequence_id and epoch be bigint again, or drop _stack_sync_metadata and resync the destination"}
		}
		if m.backfill == `"`+largeCursor+`"` && m.epoch == s.d.wantedEpoch() {
			return nil, &Error{Mapping: string(r[0]), verdict: needsHuman, Err: errors.New("the backfill cursor in _stack_sync_metadata is " + largeCursor),
				Remedy: "outflow resync, which begins the copy again"}
		}
		known[string(r[0])] = m
		if err := s.refuseOwner(m); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// names are the names of the destination's mappings, as an array literal.
func (s *session) names() string { return textArray(mappingNames(s.d.mappings)) }

func (s *session) hasQuarantine(ctx context.Context) bool {
	row, err := s.askRow(ctx, 1, `SELECT to_regclass('public."_stack_sync_quarantine"') IS NOT NULL`)
	return err == nil && string(row[0]) == "t"
}

// announce makes sure that the primary has noted the destination and its mappings before rows are copied for the mappings: where
// the stream turns out to have gaps, all noted destinations are copied again.
func (d *Destination) announce(ctx context.Context) error {
	d.mu.Lock()
	noted := d.lastNote.Epoch != 0 && d.lastNote.Fingerprint == d.fingerprintLocked()
	d.mu.Unlock()
	if noted {
		return nil
	}
	if err := d.router.checkpoint(ctx); err != nil {
		return err
	}
	return d.refusedNote()
}

// ready reports whether every mapping has its row, its tables and the stream's continuity.
func (s *session) ready(known map[string]metadata) bool {
	for _, m := range s.d.mappings {
		if !s.readyFor(m, known) {
			return false
		}
	}
	return true
}

func (s *session) readyFor(m *mapping.Mapping, known map[string]metadata) bool {
	row, ok := known[m.Name]
	return ok && row.source != "" && row.fingerprint == m.Fingerprint() && row.epoch == s.epoch && s.followed[m.Name]
}

// install creates the missing parts in one transaction. A mapping that is new, has changed, is of an earlier epoch, or was not
// the destination's for a time has its schema run and is filled from the start.
func (s *session) install(ctx context.Context, fresh bool) error {
	if err := failpoint.Fail(failpoint.BeforeInstall); err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	err := s.installAll(ctx, fresh)
	if err == nil {
		err = s.exec(ctx, "COMMIT")
	}
	if err == nil {
		err = failpoint.Fail(failpoint.Installed)
	}
	if err != nil {
		s.rollback()
	}
	return err
}

func (s *session) installAll(ctx context.Context, fresh bool) error {
	tenant, source := s.d.Tenant, s.d.router.SourceID
	if fresh {
		for _, ddl := range []string{createMetadata, extendMetadata} {
			if err := s.exec(ctx, ddl); err != nil {
				return explainDDL(fmt.Errorf("creating _stack_sync_metadata: %w", err), s.d.config.User)
			}
		}
	}
	if err := s.exec(ctx, lockMetadata); err != nil {
		return fmt.Errorf("locking _stack_sync_metadata: %w", err)
	}
	// Behind the lock: the process that reads the slot by now finds what is written here, or this process finds the reading of that process.
	if err := s.d.router.Ledger.CheckReading(ctx); err != nil {
		return err
	}
	if s.d.router.Options.quarantines() {
		if err := s.exec(ctx, createQuarantine); err != nil {
			return explainDDL(fmt.Errorf("creating _stack_sync_quarantine: %w", err), s.d.config.User)
		}
	}
	if err := s.exec(ctx, adoptMetadata, tenant, source, s.names()); err != nil {
		return fmt.Errorf("adopting _stack_sync_metadata: %w", err)
	}
	known, err := s.metadata(ctx)
	if err != nil {
		return err
	}
	anew := map[string]bool{}
	for _, m := range s.d.mappings { // each after the mappings whose tables it reads
		reads := slices.ContainsFunc(m.After, func(name string) bool { return anew[name] })
		if s.readyFor(m, known) && !reads {
			continue
		}
		if epoch := known[m.Name].epoch; epoch > s.epoch {
			// Epochs are noted on the primary before they are written anywhere else. A number without such a note is nobody's: the tenant's, or from
			// a time when the primary's clock was ahead.
			noted, err := s.d.router.readAgain(ctx, s.d)
			if err != nil {
				return err
			}
			if noted >= epoch {
				return &Error{verdict: conflict, Err: fmt.Errorf("another process has begun epoch %d", epoch)}
			}
			s.d.log.Warn("the primary knows nothing of the external database's epoch: it is copied anew", zap.Int64("epoch", epoch), zap.Int64("noted", noted))
		}
		anew[m.Name] = true
		for _, f := range m.DDL() {
			if err := s.exec(ctx, f.SQL); err != nil {
				return explainDDL(faultOf(m.Name, f.FaultAt, err), s.d.config.User)
			}
		}
		if s.conn.TxStatus() != 'T' {
			return &Error{Mapping: m.Name, verdict: needsHuman, Err: fmt.Errorf("its schema ended the transaction that it ran in")}
		}
		if row, ok := known[m.Name]; !ok || row.epoch != s.epoch || !s.followed[m.Name] { // else only the mapping has changed, and no change was lost
			if err := s.sweepable(ctx, m); err != nil {
				return err
			}
		}
		least := strconv.FormatInt(s.least, 10)
		err := s.exec(ctx, fillMapping, m.Name, tenant, source, m.Fingerprint(), strconv.FormatInt(s.epoch, 10), firstCursor.String(), least, s.d.router.checkpointer.checkpointID(),
			strconv.FormatInt(s.given, 10))
		if err == nil {
			err = s.exec(ctx, refillMappings, firstCursor.String(), s.names())
		}
		if err != nil {
			return fmt.Errorf("writing _stack_sync_metadata: %w", err)
		}
		s.d.log.Info("the mapping is filled from the primary", zap.String("mapping", m.Name), zap.String("fingerprint", m.Fingerprint()))
	}
	if err := s.exec(ctx, ownDatabase, s.d.Name, source, tenant); err != nil {
		return fmt.Errorf("writing _stack_sync_metadata: %w", err)
	}
	return nil
}

func explainDDL(err error, user string) error {
	e := newError(err)
	if e.SQLState == insufficientPrivilege {
		e.Remedy = fmt.Sprintf(`as the database's owner: GRANT USAGE, CREATE ON SCHEMA public TO %q (tables that exist already must belong to it)`, user)
	}
	switch pgErr := asPgError(err); {
	case pgErr != nil && strings.HasPrefix(pgErr.ConstraintName, "pg_"):
		e.verdict = retry // two sessions make the same table: IF NOT EXISTS looks too early
	case e.verdict == rowFault:
		e.verdict = needsHuman // DDL has no rows
	}
	return e
}
