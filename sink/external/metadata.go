package external

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"outflow/internal/pgerror"
	"outflow/mapping"
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

// lockMetadata keeps two destinations from becoming the owner at the same time, and two processes from filling mappings at the same time.
const lockMetadata = `LOCK TABLE "_stack_sync_metadata" IN SHARE ROW EXCLUSIVE MODE`

// ownDatabase puts the destination's name on the metadata.
const ownDatabase = `UPDATE "_stack_sync_metadata" SET "destination" = $1 WHERE "source" = $2 AND "tenant" = $3 AND "destination" IS DISTINCT FROM $1`

// Metadata is the external database's metadata by mapping; nil means that the table does not exist, or lacks Outflow's columns.
type Metadata map[string]MappingMetadata

// MappingMetadata is the metadata's row about a mapping.
type MappingMetadata struct {
	SequenceID     int64     // last_synced_sequence_id
	Fingerprint    string    // of the mapping that filled the tables; "" where no mapping did
	Tenant, Source string    // the owner; "" where the row is not Outflow's
	Destination    string    // the owner's name; "" where the row has none
	Epoch          int64     // 0 where the row has none
	Backfill       string    // cursor of a copy in progress, "" where there is none
	CursorTooLarge bool      // the cursor was not read
	Written        time.Time // when the row was last written, on the external server's clock; zero where the time cannot be read
	CheckpointID   string    // the primary's newest checkpoint when the row was last written
}

// Owned reports whether a destination's name is on every row of Outflow's, and there is such a row.
func (known Metadata) Owned(destination string) (owned bool) {
	for _, m := range known {
		if m.Source == "" {
			continue
		}
		if owned = m.Destination == destination; !owned {
			return false
		}
	}
	return owned
}

// Lowest is the id up to which each of the mappings is synced; -1 where there is no mapping.
func (known Metadata) Lowest(mappings []*mapping.Mapping) int64 {
	if len(mappings) == 0 {
		return -1
	}
	lowest := known[mappings[0].Name].SequenceID
	for _, m := range mappings[1:] {
		lowest = min(lowest, known[m.Name].SequenceID)
	}
	return lowest
}

// Metadata reads the metadata. A database with rows of another source or tenant is refused.
func (s *Session) Metadata(ctx context.Context) (Metadata, error) {
	rows, err := s.Ask(ctx, 10, readMetadata, s.names(), s.db.SourceID, s.db.Tenant)
	if state := SQLState(err); state == pgerror.UndefinedTable || state == pgerror.UndefinedColumn {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading _stack_sync_metadata: %w", err)
	}
	known := Metadata{}
	for _, r := range rows {
		m, err := parseMetadata(r)
		if err != nil {
			return nil, &Error{Verdict: NeedsHuman, Err: fmt.Errorf("reading _stack_sync_metadata: %w", err),
				Remedy: "make last_synced_sequence_id and epoch bigint again, or drop _stack_sync_metadata and resync the destination"}
		}
		if err := s.refuseOwner(m); err != nil {
			return nil, err
		}
		known[string(r[0])] = m
	}
	return known, nil
}

// parseMetadata reads a row of readMetadata.
func parseMetadata(r [][]byte) (m MappingMetadata, err error) {
	m = MappingMetadata{Fingerprint: string(r[2]), Tenant: string(r[3]), Source: string(r[4]), Backfill: string(r[6]), CheckpointID: string(r[7]),
		Destination: string(r[9])}
	m.CursorTooLarge = m.Backfill == `"`+largeCursor+`"`
	if seconds, wrong := strconv.ParseFloat(string(r[8]), 64); wrong == nil { // for people only
		m.Written = time.UnixMicro(int64(seconds * 1e6))
	}
	if m.SequenceID, err = strconv.ParseInt(string(r[1]), 10, 64); err == nil && r[5] != nil {
		m.Epoch, err = strconv.ParseInt(string(r[5]), 10, 64)
	}
	return m, err
}

// emptyDatabase is how a database is made ready for another owner.
const emptyDatabase = "empty this database: drop the mappings' tables and _stack_sync_metadata"

// refuseOwner refuses a database whose rows belong to another source or another tenant.
func (s *Session) refuseOwner(m MappingMetadata) error {
	if m.Source == "" || m.Source == s.db.SourceID && m.Tenant == s.db.Tenant {
		return nil
	}
	return &Error{Verdict: NeedsHuman, Err: fmt.Errorf("the database holds the rows of tenant %q of source %s; the rows of two tenants would mix", m.Tenant, m.Source),
		Remedy: "give this destination a database of its own, or " + emptyDatabase}
}

// RefuseDestination is the error of a database that belongs to another destination of the same tenant.
func RefuseDestination(other string) *Error {
	return &Error{Verdict: NeedsHuman, Err: fmt.Errorf("the database is that of destination %q of the same tenant; the two destinations would overwrite each other", other),
		Remedy: fmt.Sprintf("give this destination a database of its own, or remove one of the two from the configuration; if %q has moved to another database, %s", other, emptyDatabase)}
}

// RefuseCursor is the error of a copy whose cursor is too large to be read.
func RefuseCursor(name string) *Error {
	return &Error{Mapping: name, Verdict: NeedsHuman, Err: errors.New("the backfill cursor in _stack_sync_metadata is " + largeCursor),
		Remedy: "outflow resync, which begins the copy again"}
}

// names are the names of the database's mappings, as an array literal.
func (s *Session) names() string { return TextArray(mapping.Names(s.db.Mappings)) }

// HasQuarantine reports whether the quarantine's table exists, as far as the server says so.
func (s *Session) HasQuarantine(ctx context.Context) bool {
	row, err := s.AskRow(ctx, 1, `SELECT to_regclass('public."_stack_sync_quarantine"') IS NOT NULL`)
	return err == nil && string(row[0]) == "t"
}

// Know takes over the progress of the mappings.
func (s *Session) Know(known Metadata) {
	s.Held, s.Written = s.Held[:0], s.Written[:0]
	for _, m := range s.db.Mappings {
		s.Held, s.Written = append(s.Held, known[m.Name].SequenceID), append(s.Written, known[m.Name].Written)
	}
	s.expected = append(s.expected[:0], s.Held...)
}

// CreateMetadata makes the metadata table, or adds missing columns, in the open transaction.
func (s *Session) CreateMetadata(ctx context.Context) error {
	for _, ddl := range []string{createMetadata, extendMetadata} {
		if err := s.Exec(ctx, ddl); err != nil {
			return explainDDL(fmt.Errorf("creating _stack_sync_metadata: %w", err), s.db.Config.User)
		}
	}
	return nil
}

// LockMetadata keeps other processes and destinations from changing the metadata until the end of the open transaction.
func (s *Session) LockMetadata(ctx context.Context) error {
	if err := s.Exec(ctx, lockMetadata); err != nil {
		return fmt.Errorf("locking _stack_sync_metadata: %w", err)
	}
	return nil
}

// CreateQuarantine makes the quarantine's table, in the open transaction.
func (s *Session) CreateQuarantine(ctx context.Context) error {
	if err := s.Exec(ctx, createQuarantine); err != nil {
		return explainDDL(fmt.Errorf("creating _stack_sync_quarantine: %w", err), s.db.Config.User)
	}
	return nil
}

// Adopt makes rows of the mappings without an owner rows of this database's owner, in the open transaction.
func (s *Session) Adopt(ctx context.Context) error {
	if err := s.Exec(ctx, adoptMetadata, s.db.Tenant, s.db.SourceID, s.names()); err != nil {
		return fmt.Errorf("adopting _stack_sync_metadata: %w", err)
	}
	return nil
}

// Own puts the destination's name on the metadata, in the open transaction.
func (s *Session) Own(ctx context.Context) error {
	if err := s.Exec(ctx, ownDatabase, s.db.Name, s.db.SourceID, s.db.Tenant); err != nil {
		return fmt.Errorf("writing _stack_sync_metadata: %w", err)
	}
	return nil
}

// RunSchema runs a mapping's schema in the open transaction.
func (s *Session) RunSchema(ctx context.Context, m *mapping.Mapping) error {
	for _, f := range m.DDL() {
		if err := s.Exec(ctx, f.SQL); err != nil {
			return explainDDL(faultOf(m.Name, f.FaultAt, err), s.db.Config.User)
		}
	}
	if !s.InTransaction() {
		return &Error{Mapping: m.Name, Verdict: NeedsHuman, Err: fmt.Errorf("the schema ended the transaction that it ran in")}
	}
	return nil
}

// Fill is the beginning of a mapping's copy.
type Fill struct {
	Epoch        int64
	Cursor       string // of the copy's beginning
	Least        int64  // the mapping has everything up to there, at least; -1 is not known
	Given        int64  // no higher id was given: a higher id in the metadata is not an id of this installation
	CheckpointID string // of the primary's newest checkpoint
}

// Fill has a mapping filled from the start, and all mappings that are being filled with it, in the open transaction.
func (s *Session) Fill(ctx context.Context, m *mapping.Mapping, f Fill) error {
	err := s.Exec(ctx, fillMapping, m.Name, s.db.Tenant, s.db.SourceID, m.Fingerprint(), strconv.FormatInt(f.Epoch, 10), f.Cursor,
		strconv.FormatInt(f.Least, 10), f.CheckpointID, strconv.FormatInt(f.Given, 10))
	if err == nil {
		err = s.Exec(ctx, refillMappings, f.Cursor, s.names())
	}
	if err != nil {
		return fmt.Errorf("writing _stack_sync_metadata: %w", err)
	}
	return nil
}

// PutOffCursor moves the cursor of the running copy within the open transaction, from the value held by this process.
func (s *Session) PutOffCursor(ctx context.Context, from, to string) error {
	return s.Exec(ctx, `UPDATE "_stack_sync_metadata" SET "backfill" = $1::jsonb WHERE "backfill" = $2::jsonb`, to, from)
}

func explainDDL(err error, user string) error {
	e := AsError(err)
	if e.SQLState == pgerror.InsufficientRights {
		e.Remedy = fmt.Sprintf(`as the database's owner: GRANT USAGE, CREATE ON SCHEMA public TO %q (existing tables must belong to that role)`, user)
	}
	switch pgErr := serverError(err); {
	case pgErr != nil && strings.HasPrefix(pgErr.ConstraintName, "pg_"):
		e.Verdict = Retry // two sessions make the same table: IF NOT EXISTS looks too early
	case e.Verdict == RowFault:
		e.Verdict = NeedsHuman // DDL has no rows
	}
	return e
}
