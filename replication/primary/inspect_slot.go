package primary

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgerror"
	"outflow/replication/wal"
)

// InspectPublication finds whether the publication publishes the named tables. InspectPublication changes nothing.
func (s Setup) InspectPublication(ctx context.Context, conn *pgx.Conn) (found Findings) {
	check := fmt.Sprintf("publication %q", s.Publication.Name)
	version := ServerVersion(conn.PgConn())
	now, err := s.Publication.facts(ctx, conn, version)
	if err != nil {
		found.Fault(check, err)
		return found
	}
	if before, known, err := s.Slot.source().relied(ctx, conn); err == nil && known { // an error: nothing ever ran
		if since := s.Publication.since(before, now); len(since.reasons) > 0 {
			found.Warn("history", "none, but find out who did it", "at the next start, outflow copies every destination again: %s", &since)
		}
	}
	wrong, excess := judgePublication(s.Publication.Name, now.Publication, s.Publication.Tables, version >= 15)
	may, err := s.Publication.mayPublish(ctx, conn, now.Publication != nil)
	if err != nil {
		found.Fault(check, err)
		return found
	}
	statement := s.Publication.sql(now.Publication, version)
	for _, v := range wrong {
		if v.Remedy != "" { // changes are lost now, though outflow run would alter the publication
			found.Fault(check, &v.Problem)
		}
	}
	if found.Failed() {
		return found
	}
	switch {
	case len(wrong) == 0 && len(excess) > 0 && !may:
		found.Warn(check, "as the tables' owner run: "+statement, "the publication has more than is configured (%s): the primary sends it, and outflow skips it", describeExcess(excess))
	case len(wrong) == 0 && len(excess) == 0:
		found.Pass(check, "publishes exactly the configured tables and columns")
	case may && now.Publication == nil:
		found.Pass(check, "the publication does not exist; outflow run creates it")
	case may:
		found.Pass(check, "the publication does not have exactly the configured tables and columns; outflow run alters it")
	default:
		found.Fault(check, s.Publication.unpublishable(now.Publication, wrong, statement))
	}
	return found
}

// Inspect finds obstacles to a reader in the slot and in outflow.source. Inspect changes nothing. The schema outflow need not
// exist.
func (s Slot) Inspect(ctx context.Context, conn *pgx.Conn) (found Findings) {
	check := fmt.Sprintf("slot %q", s.Name)
	confirmed, exists, err := s.find(ctx, conn)
	if err != nil {
		found.Fault(check, err)
		return found
	}
	source, known, err := s.source().load(ctx, conn)
	if err != nil && pgerror.SQLState(err) != pgerror.UndefinedTable && pgerror.SQLState(err) != pgerror.InsufficientRights {
		found.Fault("outflow.source", err)
	}
	switch {
	case known && source.resetting:
		found.Fail(check, "finish the reset: "+ResetCommand, "a reset of the slot was begun and not finished")
	case !exists && known:
		found.Fault(check, s.Gone())
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

// inspectCreation checks the needs of the slot's creation.
func (s Slot) inspectCreation(ctx context.Context, conn *pgx.Conn, found *Findings) {
	check := fmt.Sprintf("slot %q", s.Name)
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
		found.Warn(check, "end forgotten transactions", "the slot does not exist, and its creation will wait for %d transactions that are older than a minute, the oldest of them %s", running, oldest)
		return
	}
	found.Pass(check, "the slot does not exist; outflow run creates it")
}

func (s Slot) inspectHealth(ctx context.Context, conn *pgx.Conn, confirmed wal.LSN, found *Findings) {
	check := fmt.Sprintf("slot %q", s.Name)
	var status string
	var active bool
	var retained int64
	var safe, limit *int64
	err := conn.QueryRow(ctx, `SELECT coalesce(wal_status, ''), active,
			CASE WHEN pg_is_in_recovery() THEN 0 ELSE coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint END, safe_wal_size,
			(SELECT nullif(setting::bigint, -1) * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
		FROM pg_replication_slots WHERE slot_name = $1`, s.Name).Scan(&status, &active, &retained, &safe, &limit)
	if err != nil {
		found.Fault(check, fmt.Errorf("looking at replication slot %q: %w", s.Name, err))
		return
	}
	use := "no reader"
	if active {
		use = "a process reads the slot"
	}
	switch {
	case status == "unreserved":
		found.Fail(check, "raise max_slot_wal_keep_size now, and start outflow", "the primary may at any moment remove WAL that the slot needs (wal_status unreserved)")
	case safe != nil && limit != nil && *safe < *limit/4:
		found.Warn(check, "raise max_slot_wal_keep_size, or find the destination that holds the slot back", "the slot retains %d MB of WAL, and is lost after %d MB more", retained>>20, *safe>>20)
	default:
		found.Pass(check, "confirmed up to %s, wal_status %s, retains %d MB of WAL; %s", confirmed, status, retained>>20, use)
	}
}

// inspectSource compares the notes on the slot with the slot's present state.
func (s Slot) inspectSource(ctx context.Context, source Source, confirmed wal.LSN, exists bool, found *Findings) {
	now, err := s.Server.identify(ctx)
	if err == nil {
		err = source.Check(now.SystemID, now.Timeline)
	}
	switch {
	case err != nil:
		found.Fault("history", err)
	case exists && source.noted != 0 && confirmed > source.noted:
		found.Warn("history", "none, but find out who did it", "the slot was moved, and not by outflow: at its next start outflow copies every destination again")
	default:
		found.Pass("history", "system identifier and timeline are those of the sequence ids")
	}
}
