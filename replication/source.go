package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// Source is what outflow.source on the primary says of a slot: which history its LSNs belong to.
type Source struct {
	ID           string // uuid of the installation; external databases carry it in their metadata as the owner
	SystemID     string // system identifier of the cluster
	Timeline     int32
	SequenceBase int64 // added to every commit LSN; 0 on a new installation

	noted     LSN  // outflow.source.flush_lsn: what was about to be confirmed
	resetting bool // a reset of the slot was begun and not finished
}

// SequenceID is the id of the transaction that committed there.
func (s Source) SequenceID(commit LSN) int64 { return s.SequenceBase + int64(commit) }

// check refuses a server whose WAL is not the one that sequence ids were given from.
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

// identify asks the server which history its WAL belongs to. Only a replication connection tells the current timeline.
func identify(ctx context.Context, p *Primary) (Source, error) {
	conn, err := p.connectReplication(ctx, &stream{})
	if err != nil {
		return Source{}, ExplainConnect(p, err)
	}
	defer conn.Close(ctx)
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	return Source{SystemID: id.SystemID, Timeline: id.Timeline}, err
}

// Setup is what the primary must have for a Reader: the publication and the slot. The schema outflow exists already.
type Setup struct {
	Primary     *Primary
	Slot        string
	Publication string
	Tables      []PublishedTable
	// Waiting is called about once a second while the server waits for older transactions to end before it can
	// create the slot, with their number, at least 1, and what is known of the oldest one; nil is allowed.
	Waiting func(transactions int, oldest string)
}

// PublishedTable is a table with the columns that are to be published.
type PublishedTable struct {
	*Table
	Columns []string // the replica identity's columns among them
}

// Ensure creates what is missing and returns the source and the slot's confirmed flush LSN. It is safe to run again.
func (s Setup) Ensure(ctx context.Context, conn *pgx.Conn) (Source, LSN, error) {
	missing, err := s.unpublished(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	if err := s.ensurePublication(ctx, conn); err != nil {
		return Source{}, 0, err
	}
	source, confirmed, err := s.ensureSlot(ctx, conn)
	if err != nil {
		return source, confirmed, err
	}
	return source, confirmed, s.notePublished(ctx, conn, missing)
}

func (s Setup) ensureSlot(ctx context.Context, conn *pgx.Conn) (Source, LSN, error) {
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
	}
	source, err = s.saveSource(ctx, conn)
	return source, confirmed, err
}

func (s Setup) findSlot(ctx context.Context, conn *pgx.Conn) (confirmed LSN, found bool, err error) {
	var plugin, database, walStatus *string
	var flushed *string
	var invalidation string // a column from 17 on; to_jsonb reads the column where it exists
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
	confirmed, err = ParseLSN(*flushed)
	return confirmed, true, err
}

func (s Setup) createSlot(ctx context.Context, conn *pgx.Conn) (LSN, error) {
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait() // it may be telling the caller, who would not expect that afterwards
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
			Remedy: fmt.Sprintf("ALTER ROLE %s REPLICATION", quoteIdentifier(conn.Config().User)), Err: err}
	}
	if err != nil {
		return 0, fmt.Errorf("creating replication slot %q: %w", s.Slot, err)
	}
	return ParseLSN(at)
}

func (s Setup) loadSource(ctx context.Context, conn *pgx.Conn) (source Source, known bool, err error) {
	var noted string
	err = conn.QueryRow(ctx, `SELECT source_id::text, system_identifier, timeline, sequence_base, coalesce(flush_lsn::text, ''), resetting
		FROM outflow.source WHERE slot = $1`, s.Slot).
		Scan(&source.ID, &source.SystemID, &source.Timeline, &source.SequenceBase, &noted, &source.resetting)
	if errors.Is(err, pgx.ErrNoRows) {
		return Source{}, false, nil
	} else if err != nil {
		return Source{}, false, fmt.Errorf("reading outflow.source: %w", err)
	}
	if noted != "" {
		source.noted, err = ParseLSN(noted)
	}
	return source, true, err
}

func (s Setup) saveSource(ctx context.Context, conn *pgx.Conn) (Source, error) {
	source, err := identify(ctx, s.Primary)
	if err != nil {
		return source, err
	}
	err = conn.QueryRow(ctx, `INSERT INTO outflow.source (slot, system_identifier, timeline) VALUES ($1, $2, $3)
		RETURNING source_id::text, sequence_base`, s.Slot, source.SystemID, source.Timeline).
		Scan(&source.ID, &source.SequenceBase)
	if err != nil {
		return source, fmt.Errorf("writing outflow.source: %w", err)
	}
	return source, nil
}

func (s Setup) ensurePublication(ctx context.Context, conn *pgx.Conn) error {
	st, err := s.publication(ctx, conn)
	if err != nil || st.Done {
		return err
	}
	if _, err := conn.Exec(ctx, st.SQL); err != nil {
		if sqlstate(err) == insufficientRights {
			return &Problem{What: fmt.Sprintf("publication %q does not publish what the mappings name, and this role may not change it", s.Publication),
				Remedy: "as the tables' owner run: " + st.SQL, Err: err}
		}
		return fmt.Errorf("%s: %w", st.SQL, err)
	}
	return nil
}

// published is the table as it stands in the publication. REPLICA IDENTITY FULL forbids a column list: it would have to
// name every column, now and later, or the application's UPDATEs fail.
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

// publishes reports whether the publication is exactly what is wanted.
func (s Setup) publishes(ctx context.Context, conn *pgx.Conn, lists bool) (bool, error) {
	columns := `'{}'::text[]`
	if lists {
		columns = `coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
			WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])), '{}')`
	}
	rows, err := conn.Query(ctx, `SELECT n.nspname || '.' || c.relname, `+columns+`
		FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE p.pubname = $1`, s.Publication)
	if err != nil {
		return false, fmt.Errorf("reading publication %q: %w", s.Publication, err)
	}
	got := map[string]string{}
	var name string
	var cols []string
	if _, err := pgx.ForEachRow(rows, []any{&name, &cols}, func() error {
		got[name] = strings.Join(cols, "\x00")
		return nil
	}); err != nil {
		return false, fmt.Errorf("reading publication %q: %w", s.Publication, err)
	}
	for _, t := range s.Tables {
		want := ""
		if lists && t.Relation.Identity != 'f' {
			want = strings.Join(t.Columns, "\x00")
		}
		if have, ok := got[t.Relation.String()]; !ok || have != want {
			return false, nil
		}
	}
	return len(got) == len(s.Tables), nil
}
