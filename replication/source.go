package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// Source is the row of outflow.source on the primary about a slot: the history of the slot's LSNs.
type Source struct {
	ID           string // uuid of the installation; external databases carry the uuid in their metadata as the owner
	SystemID     string // system identifier of the cluster
	Timeline     int32
	SequenceBase int64 // added to every commit LSN; 0 on a new installation

	Covered wal.LSN // every destination is copied from the tables after this place: see [Gap]

	noted     wal.LSN // outflow.source.flush_lsn: noted just before the confirmation
	resetting bool    // a reset of the slot was begun and not finished

	relied facts // found or made by Ensure
}

// SequenceID is the id of the transaction committed at the LSN.
func (s Source) SequenceID(commit wal.LSN) int64 { return s.SequenceBase + int64(min(commit, maxLSN)) }

// baseFits reports whether every id is an int64: see maxBase.
func (s Source) baseFits() bool { return s.SequenceBase >= -maxBase && s.SequenceBase <= maxBase }

// check refuses a server whose WAL is not the WAL of the given sequence ids.
func (s Source) check(id pglogrepl.IdentifySystemResult) error {
	if id.SystemID == s.SystemID && id.Timeline == s.Timeline {
		return nil
	}
	return &Problem{
		What: fmt.Sprintf("the primary is not the one that outflow.source describes: system identifier %s, timeline %d; expected %s, %d",
			id.SystemID, id.Timeline, s.SystemID, s.Timeline),
		Remedy: "a standby was promoted, or another cluster answers at this address: what happened between them cannot be proved " +
			"continuous. Point source.dsn at the original primary, or run: " + resetCommand,
	}
}

// identify asks the server for the history of the WAL. Only a replication connection tells the current timeline.
func identify(ctx context.Context, p *Primary) (Source, error) {
	conn, _, err := p.connectReplication(ctx)
	if err != nil {
		return Source{}, ExplainConnect(p, err)
	}
	defer conn.Close(ctx)
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	return Source{SystemID: id.SystemID, Timeline: id.Timeline}, err
}

// Setup is the Reader's needs on the primary: the publication and the slot. The schema outflow exists already.
type Setup struct {
	Primary     *Primary
	Slot        string
	Publication string
	Tables      []PublishedTable
	Gap         string // why every destination is to be copied again; "" is no reason beyond the primary's own
	// Waiting is called about once a second while the server waits for older transactions to end before creating the
	// slot, with their number, at least 1, and a description of the oldest transaction; nil is allowed.
	Waiting func(transactions int, oldest string)
}

// PublishedTable is a table with the columns to publish.
type PublishedTable struct {
	*wal.Table
	Rule    TableRule
	Columns []string // with the replica identity's columns
	Relied  []string // columns read by mappings, and the key; may have names missing in the table
	Apart   []string // mappings which do not read the table, as "name:fingerprint"; every other mapping may
}

// Ensure creates missing objects and returns the source and the slot's confirmed flush LSN. Ensure is safe to run
// again.
func (s Setup) Ensure(ctx context.Context, conn *pgx.Conn) (Source, wal.LSN, error) {
	now, err := s.ensureRelied(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	source, confirmed, err := s.ensureSlot(ctx, conn, now)
	source.relied = now
	return source, confirmed, err
}

func (s Setup) ensureSlot(ctx context.Context, conn *pgx.Conn, now facts) (Source, wal.LSN, error) {
	confirmed, found, err := s.findSlot(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	source, known, err := s.loadSource(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	switch {
	case known && source.resetting:
		return Source{}, 0, &Problem{What: fmt.Sprintf("a reset of replication slot %q was begun and not finished", s.Slot),
			Remedy: "finish it: outflow run --slot-reset"}
	case known && !source.baseFits():
		return Source{}, 0, &Problem{What: fmt.Sprintf("the sequence base %d in outflow.source leaves no room for ids", source.SequenceBase), Remedy: "run: " + resetCommand}
	case found && known:
		if source.noted != 0 && confirmed > source.noted {
			return source, confirmed, s.closeGap(ctx, conn, confirmed)
		}
		return source, confirmed, nil
	case !found && known:
		return Source{}, 0, slotGone(s.Slot)
	}
	if !found {
		if confirmed, err = s.createSlot(ctx, conn); err != nil {
			return Source{}, 0, err
		}
		if err := failpoint.Fail(failpoint.SlotCreated); err != nil {
			return Source{}, 0, err
		}
	}
	source, err = s.saveSource(ctx, conn, now)
	return source, confirmed, err
}

func (s Setup) findSlot(ctx context.Context, conn *pgx.Conn) (confirmed wal.LSN, found bool, err error) {
	var plugin, database, walStatus *string
	var flushed *string
	var invalidation string // a column from 17 on; to_jsonb reads the column where the column exists
	err = conn.QueryRow(ctx, `SELECT plugin::text, database::text, wal_status, coalesce(to_jsonb(s) ->> 'invalidation_reason', ''), confirmed_flush_lsn::text
		FROM pg_replication_slots s WHERE slot_name = $1`, s.Slot).Scan(&plugin, &database, &walStatus, &invalidation, &flushed)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, fmt.Errorf("looking for replication slot %q: %w", s.Slot, err)
	}
	switch {
	case plugin == nil || *plugin != "pgoutput":
		return 0, false, &Problem{What: fmt.Sprintf("replication slot %q is not a pgoutput slot", s.Slot),
			Remedy: "name another slot in source.slot"}
	case database == nil || *database != conn.Config().Database:
		return 0, false, &Problem{What: fmt.Sprintf("replication slot %q belongs to another database of this cluster", s.Slot),
			Remedy: "name another slot in source.slot"}
	case walStatus != nil && *walStatus == "lost":
		return 0, false, slotLost(s.Slot, invalidation)
	case flushed == nil:
		return 0, false, fmt.Errorf("replication slot %q is still being created", s.Slot)
	}
	confirmed, err = wal.ParseLSN(*flushed)
	return confirmed, true, err
}

func (s Setup) createSlot(ctx context.Context, conn *pgx.Conn) (wal.LSN, error) {
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait() // the watcher may be calling Waiting, and the caller expects no call afterwards
	defer stop()
	watcher.Go(func() { s.watchCreation(watching, conn.PgConn().PID()) })
	var at string
	err := conn.QueryRow(ctx, s.slotSQL()).Scan(&at)
	switch sqlstate(err) {
	case configLimitExceeded:
		return 0, &Problem{What: "all replication slots of the primary are in use",
			Remedy: "raise max_replication_slots and restart the primary, or drop an unused slot", Err: err}
	case insufficientRights:
		return 0, &Problem{What: "the role may not create a replication slot",
			Remedy: replicateRemedy(conn.Config().User), Err: err}
	}
	if err != nil {
		return 0, fmt.Errorf("creating replication slot %q: %w", s.Slot, err)
	}
	return wal.ParseLSN(at)
}

func (s Setup) loadSource(ctx context.Context, conn *pgx.Conn) (source Source, known bool, err error) {
	var noted, covered string
	err = conn.QueryRow(ctx, `SELECT source_id::text, system_identifier, timeline, sequence_base, coalesce(flush_lsn::text, ''),
			coalesce(to_jsonb(s) ->> 'covered_lsn', '0/0'), resetting
		FROM outflow.source s WHERE slot = $1`, s.Slot).
		Scan(&source.ID, &source.SystemID, &source.Timeline, &source.SequenceBase, &noted, &covered, &source.resetting)
	if errors.Is(err, pgx.ErrNoRows) {
		return Source{}, false, nil
	} else if err != nil {
		return Source{}, false, fmt.Errorf("reading outflow.source: %w", err)
	}
	if source.Covered, err = wal.ParseLSN(covered); err == nil && noted != "" {
		source.noted, err = wal.ParseLSN(noted)
	}
	return source, true, err
}

// saveSource notes a new slot, and the facts from before the slot's creation: the next look finds changes made
// meanwhile.
func (s Setup) saveSource(ctx context.Context, conn *pgx.Conn, now facts) (Source, error) {
	source, err := identify(ctx, s.Primary)
	if err != nil {
		return source, err
	}
	text, err := json.Marshal(now)
	if err != nil {
		return source, err
	}
	err = conn.QueryRow(ctx, `INSERT INTO outflow.source (slot, system_identifier, timeline, relied) VALUES ($1, $2, $3, $4::text::jsonb)
		RETURNING source_id::text, sequence_base`, s.Slot, source.SystemID, source.Timeline, string(text)).
		Scan(&source.ID, &source.SequenceBase)
	if err != nil {
		return source, fmt.Errorf("writing outflow.source: %w", err)
	}
	return source, nil
}

// published is the table as written in the publication. REPLICA IDENTITY FULL forbids a column list: the list would
// have to name every column, now and later, or the application's UPDATEs fail.
func (t PublishedTable) published(lists bool) string {
	name := pgx.Identifier{t.Relation.Schema, t.Relation.Name}.Sanitize()
	if !lists || t.Relation.Identity == 'f' {
		return name
	}
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = quoteIdentifier(c)
	}
	return name + " (" + strings.Join(columns, ", ") + ")"
}
