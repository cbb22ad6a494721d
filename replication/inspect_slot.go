package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// InspectPublication finds whether the publication publishes what is named. It changes nothing.
func (s Setup) InspectPublication(ctx context.Context, conn *pgx.Conn) (found Findings) {
	check := fmt.Sprintf("publication %q", s.Publication)
	st, err := s.publication(ctx, conn)
	if err != nil {
		found.Fault(check, err)
		return found
	}
	var exists, all, complete, filtered bool
	err = conn.QueryRow(ctx, `SELECT true, puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot,
			EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND to_jsonb(r) -> 'prqual' <> 'null')
		FROM pg_publication p WHERE pubname = $1`, s.Publication).Scan(&exists, &all, &complete, &filtered)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		found.Fault(check, fmt.Errorf("reading publication %q: %w", s.Publication, err))
		return found
	}
	if missing, err := s.unpublished(ctx, conn); err == nil && len(missing) > 0 { // an error: nothing ever ran
		found.Warn(check, "nothing, but know who did it", "it has lost %s: at its next start outflow copies every destination anew",
			strings.Join(missing, ", "))
	}
	name := quoteIdentifier(s.Publication)
	switch {
	case all:
		found.Fail(check, "name another one in source.publication", "it is FOR ALL TABLES: it would send every column of every table")
		return found
	case exists && !complete:
		found.Fail(check, "ALTER PUBLICATION "+name+" SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
			"it does not publish all kinds of changes")
	case exists && filtered:
		found.Fail(check, "as the tables' owner run: "+st.SQL, "it filters rows: changes would be missing without a word")
		return found
	}
	if st.Done {
		found.Pass(check, "publishes the tables and the columns that are named")
		return found
	}
	what := "it does not exist"
	if exists {
		what = "it does not publish exactly the tables and the columns that are named"
	}
	may, err := s.mayPublish(ctx, conn, exists)
	switch {
	case err != nil:
		found.Fault(check, err)
	case may:
		found.Pass(check, "%s; outflow run sees to it", what)
	default:
		found.Fail(check, "as the tables' owner run: "+st.SQL, "%s, and this role may not do it", what)
	}
	return found
}

// mayPublish reports whether the role could make or change the publication.
func (s Setup) mayPublish(ctx context.Context, conn *pgx.Conn, exists bool) (may bool, err error) {
	oids := make([]uint32, len(s.Tables))
	for i, t := range s.Tables {
		oids[i] = t.Relation.OID
	}
	err = conn.QueryRow(ctx, `SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR
			(CASE WHEN $1 THEN (SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $2)
				ELSE has_database_privilege(current_database(), 'CREATE') END)
			AND NOT EXISTS (SELECT FROM pg_class WHERE oid = ANY ($3::oid[]) AND NOT pg_has_role(relowner, 'USAGE'))`,
		exists, s.Publication, oids).Scan(&may)
	if err != nil {
		return false, fmt.Errorf("reading the rights on publication %q: %w", s.Publication, err)
	}
	return may, nil
}

// InspectSlot finds what of the slot and of outflow.source would keep a reader from going on. It changes nothing. The schema
// outflow need not exist.
func (s Setup) InspectSlot(ctx context.Context, conn *pgx.Conn) (found Findings) {
	check := fmt.Sprintf("slot %q", s.Slot)
	confirmed, exists, err := s.findSlot(ctx, conn)
	if err != nil {
		found.Fault(check, err)
		return found
	}
	source, known, err := s.loadSource(ctx, conn)
	if err != nil && sqlstate(err) != undefinedTable && sqlstate(err) != insufficientRights {
		found.Fault("outflow.source", err)
	}
	switch {
	case known && source.resetting:
		found.Fail(check, "finish it: "+resetCommand, "a reset of it was begun and not finished")
	case !exists && known:
		found.Fault(check, slotGone(s.Slot))
	case !exists:
		s.inspectCreation(ctx, conn, &found)
	default:
		s.inspectHealth(ctx, conn, confirmed, &found)
	}
	if known {
		s.inspectSource(ctx, source, confirmed, exists, &found)
	}
	return found
}

// inspectCreation looks at what the creation of the slot needs.
func (s Setup) inspectCreation(ctx context.Context, conn *pgx.Conn, found *Findings) {
	check := fmt.Sprintf("slot %q", s.Slot)
	var used, room, running int
	var oldest string
	err := conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int`).Scan(&used, &room)
	if err == nil {
		running, oldest, err = oldTransactions(ctx, conn, 0, time.Minute)
	}
	switch {
	case err != nil:
		found.Fault(check, fmt.Errorf("looking at the replication slots: %w", err))
		return
	case used >= room:
		found.Fail("max_replication_slots", "raise max_replication_slots and restart the primary, or drop an unused slot", "all %d are in use", room)
		return
	}
	found.Pass("max_replication_slots", "%d of %d in use", used, room)
	if running > 0 {
		found.Warn(check, "end what was forgotten", "it does not exist, and its creation will wait for %d transactions that are older than a minute, the oldest of them %s", running, oldest)
		return
	}
	found.Pass(check, "it does not exist; outflow run creates it")
}

func (s Setup) inspectHealth(ctx context.Context, conn *pgx.Conn, confirmed LSN, found *Findings) {
	check := fmt.Sprintf("slot %q", s.Slot)
	var status string
	var active bool
	var retained int64
	var safe, limit *int64
	err := conn.QueryRow(ctx, `SELECT coalesce(wal_status, ''), active,
			CASE WHEN pg_is_in_recovery() THEN 0 ELSE coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint END, safe_wal_size,
			(SELECT nullif(setting::bigint, -1) * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
		FROM pg_replication_slots WHERE slot_name = $1`, s.Slot).Scan(&status, &active, &retained, &safe, &limit)
	if err != nil {
		found.Fault(check, fmt.Errorf("looking at replication slot %q: %w", s.Slot, err))
		return
	}
	use := "nobody reads it"
	if active {
		use = "a process reads it"
	}
	switch {
	case status == "unreserved":
		found.Fail(check, "raise max_slot_wal_keep_size now, and start outflow", "the primary may remove WAL that it needs at any moment (wal_status unreserved)")
	case safe != nil && limit != nil && *safe < *limit/4:
		found.Warn(check, "raise max_slot_wal_keep_size, or see which destination holds it back", "it keeps %d MB of WAL, and is lost after %d MB more", retained>>20, *safe>>20)
	default:
		found.Pass(check, "confirmed up to %s, wal_status %s, keeps %d MB of WAL; %s", confirmed, status, retained>>20, use)
	}
}

// inspectSource compares what was noted of the slot with what it is now.
func (s Setup) inspectSource(ctx context.Context, source Source, confirmed LSN, exists bool, found *Findings) {
	now, err := identify(ctx, s.Primary)
	if err == nil {
		err = source.check(pglogrepl.IdentifySystemResult{SystemID: now.SystemID, Timeline: now.Timeline})
	}
	switch {
	case err != nil:
		found.Fault("history", err)
	case exists && source.noted != 0 && confirmed > source.noted:
		found.Warn("history", "nothing, but know who did it", "somebody moved the slot: at its next start outflow copies every destination anew")
	default:
		found.Pass("history", "system identifier and timeline are those that ids were given from")
	}
}
