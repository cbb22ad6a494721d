package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// outflow.source notes the facts Outflow relies on. The transaction noting other facts also raises every destination's epoch, and a
// transaction in which Outflow alters the publication itself notes the outcome.

// facts reads the facts of the publication and of the configured tables, which are named by their OIDs: see [wal.Table].
func (s Setup) facts(ctx context.Context, db rowQuerier, version int) (facts, error) {
	tables := make([]wanted, len(s.Tables))
	for i, t := range s.Tables {
		tables[i] = wanted{t.Relation.OID, t.Relation.Schema, t.Relation.Name}
	}
	return loadFacts(ctx, db, version, s.Publication, tables)
}

// judge finds the broken conditions. excess: the publication has more than is wanted, which is no violation.
func (s Setup) judge(f facts, role string, version int) (found violations, excess bool) {
	for i, t := range s.Tables {
		columns := t.Columns
		if t.Rule.InsertsOnly {
			columns = nil
		}
		if f.Tables[i].OID != 0 && f.Tables[i].Kind != "" {
			found = append(found, judgeTable(t.Rule, &f.Tables[i], role, version, columns)...)
		} else {
			found.add("create it, or correct source.tables (names are case-sensitive)", "table %s is gone from the primary", t.Relation)
		}
		for j := range f.Tables {
			root := f.Tables[j].OID
			if j != i && root != 0 && slices.ContainsFunc(f.Tables[j].Storage, func(st storageFacts) bool { return st.OID == f.Tables[i].OID }) {
				found.add("name one of them in source.tables", "table %s is a partition of %s, and its changes come as those of that table", t.Relation, s.Tables[j].Relation)
			}
		}
	}
	about, excess := judgePublication(s.Publication, f.Publication, s.Tables, version >= 15)
	return append(found, about...), excess
}

// relied reads the noted facts; known says whether the slot has a source at all.
func (s Setup) relied(ctx context.Context, db rowQuerier) (before *facts, known bool, err error) {
	var text []byte
	err = db.QueryRow(ctx, `SELECT relied FROM outflow.source WHERE slot = $1`, s.Slot).Scan(&text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, false, nil
	case err == nil && text != nil:
		before = &facts{}
		err = json.Unmarshal(text, before)
	}
	if err != nil {
		return nil, true, fmt.Errorf("reading outflow.source: %w", err)
	}
	return before, true, nil
}

// since finds the gap between the noted facts and the present facts.
func (s Setup) since(before *facts, now facts) (g gap) {
	if before == nil {
		g.add("nothing was noted of what the stream relies on") // by an earlier version
		return g
	}
	return between(s.Publication, *before, now, s.Tables)
}

const serializationFailure = "40001"

// ensureRelied brings the publication to the wanted state, where the publication differs and the role may, notes the facts, and has every
// destination copied again where the stream has a gap. ensureRelied fails where a person must act, and changes nothing then.
//
// The transaction is REPEATABLE READ: changes by others meanwhile are not in the facts, so the next look finds such
// changes.
func (s Setup) ensureRelied(ctx context.Context, conn *pgx.Conn) (now facts, err error) {
	for range 5 {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			now, err = s.ensureIn(ctx, tx)
			return err
		})
		if sqlstate(err) != serializationFailure { // a checkpoint wrote outflow.source meanwhile
			break
		}
	}
	if err == nil {
		err = failpoint.Fail(failpoint.ReliedNoted)
	}
	return now, err
}

func (s Setup) ensureIn(ctx context.Context, tx pgx.Tx) (now facts, err error) {
	version := serverVersion(tx.Conn().PgConn())
	before, known, err := s.relied(ctx, tx)
	if err != nil {
		return now, err
	}
	if now, err = s.facts(ctx, tx, version); err != nil {
		return now, err
	}
	var since gap
	switch {
	case known && s.Gap != "":
		since.add("%s", s.Gap)
	case known:
		since = s.since(before, now)
	}
	if now, err = s.alterPublication(ctx, tx, now, version); err != nil || !known {
		return now, err
	}
	return now, s.note(ctx, tx, now, since, 0)
}

// alterPublication brings the publication to the wanted state. Where the role may not alter the publication the error has the statement to
// run; a publication with only an excess stays.
func (s Setup) alterPublication(ctx context.Context, tx pgx.Tx, now facts, version int) (facts, error) {
	role := tx.Conn().Config().User
	found, excess := s.judge(now, role, version)
	if fatal := slices.DeleteFunc(slices.Clone(found), func(v violation) bool { return v.heals }); len(fatal) > 0 {
		return now, errors.Join(fatal.errors()...)
	}
	if len(found) == 0 && !excess {
		return now, nil
	}
	statement := s.publicationSQL(now.Publication, version)
	may, err := s.mayPublish(ctx, tx, now.Publication != nil)
	switch {
	case err != nil:
		return now, err
	case !may && len(found) == 0:
		return now, nil
	case !may:
		return now, s.unpublishable(now.Publication, found, statement)
	}
	if _, err := tx.Exec(ctx, statement); err != nil {
		return now, fmt.Errorf("%s: %w", statement, err)
	}
	if now, err = s.facts(ctx, tx, version); err != nil {
		return now, err
	}
	found, _ = s.judge(now, role, version)
	return now, errors.Join(found.errors()...)
}

// unpublishable gives the statement a person must run.
func (s Setup) unpublishable(p *publicationFacts, found violations, statement string) *Problem {
	who := "the tables' owner"
	if p != nil {
		who = p.Owner + ", who owns the publication, and as owner of the tables"
	}
	var what []string
	for _, v := range found {
		what = append(what, v.What)
	}
	return &Problem{What: strings.Join(what, "; ") + ", and this role may not change the publication",
		Remedy: "as " + who + " run: " + statement, Relied: true}
}

// note writes the facts. Where there is a gap, the destinations concerned are copied again. Where the gap concerns every destination,
// changes from before the copies need not be understood, and the place in the WAL is noted too. reading is the caller's reading of the
// slot, 0 where the caller has none.
func (s Setup) note(ctx context.Context, tx pgx.Tx, now facts, since gap, reading int64) error {
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if reading != 0 && len(since.reasons) > 0 {
		if err := s.fence(ctx, tx, reading); err != nil {
			return err
		}
	}
	switch {
	case since.whole:
		if err := raiseAll(ctx, tx, s.Slot, since.String()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE outflow.source SET covered_lsn = pg_current_wal_insert_lsn() WHERE slot = $1`, s.Slot); err != nil {
			return fmt.Errorf("writing outflow.source: %w", err)
		}
	case len(since.tables) > 0:
		if err := raiseReaders(ctx, tx, s.Slot, since.String(), since.apart()); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE outflow.source SET relied = $2::text::jsonb WHERE slot = $1 AND relied IS DISTINCT FROM $2::text::jsonb AND $3::bigint IN (0, reading)`,
		s.Slot, string(text), reading); err != nil {
		return fmt.Errorf("writing outflow.source: %w", err)
	}
	return nil
}

// fence locks the slot's row of outflow.source until the end of the transaction, or fails with [ErrFenced] where another reading of the slot
// has begun since the given one.
func (s Setup) fence(ctx context.Context, tx pgx.Tx, reading int64) error {
	tag, err := tx.Exec(ctx, `SELECT FROM outflow.source WHERE slot = $1 AND reading = $2 FOR NO KEY UPDATE`, s.Slot, reading)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrFenced
	}
	return err
}

// watchRelied compares the primary with the noted facts. A gap is noted, and the destinations of the running process are copied again;
// facts noted by another process, which altered the publication for a newer configuration, are no gap. began are the facts at the start of
// the process: where the plan of the process is out of date, opening the pipeline again heals the plan, and the error is a [*Gap]. Where a
// person must act the error is a [*Problem].
func (s Setup) watchRelied(ctx context.Context, conn *pgx.Conn, began facts, reading int64) (since gap, err error) {
	version := serverVersion(conn.PgConn())
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		noted, _, err := s.relied(ctx, tx)
		if err != nil {
			return err
		}
		now, err := s.facts(ctx, tx, version)
		if err != nil {
			return err
		}
		outdated := s.since(&began, now)
		found, _ := s.judge(now, conn.Config().User, version)
		var fatal []error
		for _, v := range found {
			if v.heals {
				outdated.outdate("%s", v.What)
			} else {
				fatal = append(fatal, &v.Problem)
			}
		}
		switch {
		case outdated.plan: // opening the pipeline again finds out whether a person must act
			return &Gap{Reason: outdated.String()}
		case len(fatal) > 0:
			return errors.Join(fatal...)
		}
		since = s.since(noted, now)
		return s.note(ctx, tx, now, since, reading) // without a gap too: a partition or a label noted now may go before the next look
	})
	if err == nil {
		err = failpoint.Fail(failpoint.ReliedNoted)
	}
	return since, err
}

// NotConfigured is the reason noted of a destination no longer in the configuration; a returning destination is copied again whatever
// happened meanwhile.
const NotConfigured = "it is not in the configuration"

// Ended begins the reason noted of every destination by [Setup.Stop].
const Ended = "reading has ended: "

// Stop notes the end of the reading because a condition of Outflow does not hold: every destination is copied again as soon as the
// condition holds. Nothing is written where nothing ever ran, where the cause is noted already, or where another process reads the slot.
// reading is the caller's newest reading of the slot, 0 where the caller had none.
func (s Setup) Stop(ctx context.Context, cause error, reading int64) error {
	reason := Ended + cause.Error()
	return s.connected(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var noted bool
			err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM outflow.destination_state WHERE slot = $1 AND reason <> $3 AND (state <> 'backfilling' OR reason <> $2))`,
				s.Slot, reason, NotConfigured).Scan(&noted)
			if sqlstate(err) == undefinedTable || err == nil && noted {
				return nil
			}
			if err == nil {
				err = s.unread(ctx, tx, reading)
			}
			if err == nil {
				err = raiseAll(ctx, tx, s.Slot, reason)
			}
			if err == nil {
				_, err = tx.Exec(ctx, `UPDATE outflow.source SET covered_lsn = pg_current_wal_insert_lsn() WHERE slot = $1`, s.Slot)
			}
			return err
		})
	})
}

// unread fails with [ErrFenced] where another process reads the slot.
func (s Setup) unread(ctx context.Context, tx pgx.Tx, reading int64) error {
	if reading != 0 {
		return s.fence(ctx, tx, reading)
	}
	var active bool
	err := tx.QueryRow(ctx, `SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1`, s.Slot).Scan(&active)
	if err == nil && active {
		err = ErrFenced
	}
	return err
}

// Conditions reports whether a read of the table in the open transaction gives all rows of the table: the table is the table of the
// configuration, no policy hides rows, no children add rows, and the role may read the columns. An error is a [*Problem], or the failure to
// read the catalog.
func Conditions(ctx context.Context, conn *pgx.Conn, rel *wal.Relation) error {
	f, err := loadFacts(ctx, conn, serverVersion(conn.PgConn()), "", []wanted{{rel.OID, rel.Schema, rel.Name}})
	if err != nil {
		return err
	}
	t, name, role := &f.Tables[0], rel.String(), conn.Config().User
	var found violations
	switch {
	case t.Kind == "":
		found.add("create it, or correct source.tables", "table %s is gone from the primary", name)
	case t.Schema != rel.Schema || t.Name != rel.Name:
		found.add("rename it back, or correct source.tables and the mappings", "table %s was renamed to %s.%s", name, t.Schema, t.Name)
	default:
		if len(t.Children) > 0 {
			found.add("ALTER TABLE "+t.Children[0]+" NO INHERIT "+name, "table %s has children that inherit from it (%s)", name, strings.Join(t.Children, ", "))
		}
		judgeReading(name, t, role, rel.Names(), &found)
	}
	return errors.Join(found.errors()...)
}
