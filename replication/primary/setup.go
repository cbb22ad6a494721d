package primary

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/internal/failpoint"
	"outflow/internal/pgerror"
	"outflow/replication/wal"
)

// Setup is the slot and the publication, which a reader needs on the primary. The schema outflow exists already.
type Setup struct {
	Slot        Slot
	Publication Publication
	Gap         string // why every destination is to be copied again; "" is no reason beyond the primary's own

	Wider func(excess, statement string) // is told of an excess of the publication that the role may not remove; nil: nobody is told
}

// Ensure creates missing objects and returns the source and the slot's confirmed flush LSN. Ensure is safe to run
// again.
func (s Setup) Ensure(ctx context.Context, conn *pgx.Conn) (Source, wal.LSN, error) {
	now, err := s.ensureRelied(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	if s.Wider != nil {
		version := ServerVersion(conn.PgConn())
		if _, excess := s.Publication.judge(now, conn.Config().User, version); len(excess) > 0 {
			s.Wider(describeExcess(excess), s.Publication.sql(now.Publication, version))
		}
	}
	source, confirmed, err := s.ensureSlot(ctx, conn, now)
	source.relied = now
	return source, confirmed, err
}

func (s Setup) ensureSlot(ctx context.Context, conn *pgx.Conn, now facts) (Source, wal.LSN, error) {
	confirmed, found, err := s.Slot.find(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	source, known, err := s.Slot.source().load(ctx, conn)
	if err != nil {
		return Source{}, 0, err
	}
	switch {
	case known && source.resetting:
		return Source{}, 0, &Problem{What: fmt.Sprintf("a reset of replication slot %q was begun and not finished", s.Slot.Name),
			Remedy: "finish the reset: outflow run --slot-reset"}
	case known && !source.baseFits():
		return Source{}, 0, &Problem{What: fmt.Sprintf("the sequence base %d in outflow.source leaves no room for ids", source.SequenceBase), Remedy: "run: " + ResetCommand}
	case found && known:
		if source.noted != 0 && confirmed > source.noted {
			return source, confirmed, s.Slot.source().moved(ctx, conn, confirmed)
		}
		return source, confirmed, nil
	case !found && known:
		return Source{}, 0, s.Slot.Gone()
	}
	if !found {
		if confirmed, err = s.Slot.create(ctx, conn); err != nil {
			return Source{}, 0, err
		}
		if err := failpoint.Fail(failpoint.SlotCreated); err != nil {
			return Source{}, 0, err
		}
	}
	source, err = s.Slot.insertSource(ctx, conn, now)
	return source, confirmed, err
}

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
		if pgerror.SQLState(err) != pgerror.SerializationFailure { // a checkpoint wrote outflow.source meanwhile
			break
		}
	}
	if err == nil {
		err = failpoint.Fail(failpoint.ReliedNoted)
	}
	return now, err
}

func (s Setup) ensureIn(ctx context.Context, tx pgx.Tx) (now facts, err error) {
	version := ServerVersion(tx.Conn().PgConn())
	before, known, err := s.Slot.source().relied(ctx, tx)
	if err != nil {
		return now, err
	}
	if now, err = s.Publication.facts(ctx, tx, version); err != nil {
		return now, err
	}
	var since gap
	switch {
	case known && s.Gap != "":
		since.add("%s", s.Gap)
	case known:
		since = s.Publication.since(before, now)
	}
	found := now
	if now, err = s.Publication.alter(ctx, tx, now, version); err != nil || !known {
		return now, err
	}
	now.formerly(before, &found)
	return now, s.Slot.source().note(ctx, tx, now, since, 0)
}

// watchRelied compares the primary with the noted facts. A gap is noted, and the destinations of the running process are copied again;
// facts noted by another process, which altered the publication for a newer configuration, are no gap. began are the facts at the start of
// the process: where the plan of the process is out of date, opening the pipeline again heals the plan, and the error is a [*Gap]. Where a
// person must act the error is a [*Problem].
func (s Setup) watchRelied(ctx context.Context, conn *pgx.Conn, began facts, reading int64) (since gap, err error) {
	version := ServerVersion(conn.PgConn())
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		noted, _, err := s.Slot.source().relied(ctx, tx)
		if err != nil {
			return err
		}
		now, err := s.Publication.facts(ctx, tx, version)
		if err != nil {
			return err
		}
		outdated := s.Publication.since(&began, now)
		found, _ := s.Publication.judge(now, conn.Config().User, version)
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
		since = s.Publication.since(noted, now)
		now.formerly(noted)
		return s.Slot.source().note(ctx, tx, now, since, reading) // without a gap too: a partition or a label noted now may go before the next look
	})
	if err == nil {
		err = failpoint.Fail(failpoint.ReliedNoted)
	}
	return since, err
}

// Statement is one requirement of the primary.
type Statement struct {
	What string // the object made, for people
	SQL  string // without a semicolon at the end
	Done bool   // the primary has the object already
}

// Statements returns the statements of [Setup.Ensure], for a person to read or to run. Ensure runs those not done yet.
// Nothing is changed. The schema outflow need not exist yet.
func (s Setup) Statements(ctx context.Context, conn *pgx.Conn) ([]Statement, error) {
	publication, err := s.Publication.statement(ctx, conn)
	if err != nil {
		return nil, err
	}
	_, found, err := s.Slot.find(ctx, conn)
	if err != nil {
		return nil, err
	}
	_, known, err := s.Slot.source().load(ctx, conn)
	if state := pgerror.SQLState(err); err != nil && state != pgerror.UndefinedTable && state != pgerror.InsufficientRights {
		return nil, err
	}
	if known && !found {
		return nil, s.Slot.Gone() // a new slot would begin after a gap
	}
	slot := Statement{What: fmt.Sprintf("replication slot %q", s.Slot.Name), SQL: s.Slot.createSQL(), Done: found}
	return []Statement{publication, slot}, nil
}
