package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/fit"
	"outflow/replication/wal"
)

// A checkpoint is a single statement over all destinations, and the primary may refuse a statement for the data of one row: a character
// without a form in the encoding, a name too long for the index, a constraint or a trigger that a person has put on Outflow's table. The rows are
// then written in halves until each refused row stands alone. A destination whose row is refused is halted and let go of like a parked
// destination, which makes the slot free of the destination: a raised epoch says that the stream alone does not bring the destination up
// to date. Only then is the flush LSN noted, together with the checkpoint's mark.

// maxRefused is how many refused rows one checkpoint looks for. The next checkpoint goes on with the others.
const maxRefused = 16

// checkpointed is the outcome of a checkpoint.
type checkpointed struct {
	mark    string        // "": neither the flush LSN nor the checkpoint is noted
	noted   []bool        // by place among the moved: false where a row of a later epoch stays unchanged, and where the row is refused
	refused map[int]error // by place: why the primary does not take the row
}

// checkpoint notes the flush LSN and the destinations that moved: see note. Where the primary refuses rows, all others are noted, without
// the flush LSN and without a mark.
func (s *StateStore) checkpoint(ctx context.Context, flush wal.LSN, moved []destinationState) (done checkpointed, err error) {
	done.mark, done.noted, err = s.note(ctx, flush, moved)
	if !refusesData(err) || len(moved) == 0 {
		return done, err
	}
	done = checkpointed{noted: make([]bool, len(moved)), refused: map[int]error{}}
	return done, s.noteHalves(ctx, moved, 0, &done)
}

// noteHalves notes destinations and leaves out the refused ones. first is the place of the first among all.
func (s *StateStore) noteHalves(ctx context.Context, rows []destinationState, first int, done *checkpointed) error {
	if len(rows) == 0 {
		return nil
	}
	if len(done.refused) == maxRefused {
		return fmt.Errorf("writing outflow.destination_state: the primary refuses more than %d rows", maxRefused)
	}
	_, noted, err := s.note(ctx, 0, rows)
	if !refusesData(err) {
		copy(done.noted[first:], noted)
		return err
	}
	if len(rows) == 1 {
		done.refused[first] = err
		return nil
	}
	half := len(rows) / 2
	if err := s.noteHalves(ctx, rows[:half], first, done); err != nil {
		return err
	}
	return s.noteHalves(ctx, rows[half:], first+half, done)
}

// refusesData reports whether a server refuses a statement for the values in the statement: the classes cardinality, data, constraints,
// checks, limits and RAISE (the Postgres manual, appendix A). The same statement with other values may pass.
func refusesData(err error) bool {
	state := sqlstate(err)
	return state != "" && slices.Contains([]string{"21", "22", "23", "44", "54", "P0"}, state[:2])
}

// fitted makes a text fit for a column of a note on the primary.
func fitted(conn *pgx.Conn, text string, place fit.Place) string {
	return fit.Encoded(fit.Text(text, place), conn.PgConn().ParameterStatus("server_encoding"))
}

// raiseAnyhow is raise where the primary refuses the row: with a plain reason, and else by deleting the note, since a destination without a
// note is copied as well. A primary whose encoding lacks the name has no note of the destination.
func (s *StateStore) raiseAnyhow(ctx context.Context, d destinationState, refusal error) (epoch int64, err error) {
	d.reason = "the primary refuses the note of this destination: SQLSTATE " + sqlstate(refusal)
	if epoch, err = s.raiseRow(ctx, d); !refusesData(err) {
		return epoch, err
	}
	err = s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return s.fencedBy(conn.QueryRow(ctx, `WITH `+fenceSQL+`, gone AS (DELETE FROM outflow.destination_state USING fence
				WHERE slot = $1 AND tenant_id = $3 AND name = $4 RETURNING epoch)
			SELECT greatest(coalesce((SELECT epoch FROM gone), 0) + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) FROM fence`,
			s.Slot, s.mark.reading, d.tenant, d.name).Scan(&epoch))
	})
	if isUnwritable(sqlstate(err)) {
		return time.Now().UnixMicro(), nil
	}
	return epoch, err
}

// isUnwritable reports whether a SQLSTATE says that a database cannot have a text: of a character without a form in the encoding, or of bytes
// that are no characters.
func isUnwritable(state string) bool { return state == "22021" || state == "22P05" }

// setAside halts a destination whose note the primary refuses, and lets the stream go on without the destination.
func (r *Router) setAside(d *Destination, refusal error) error {
	d.mu.Lock()
	d.unnoted = NewFault(ClassConfiguration, fmt.Errorf("the primary refuses the note of this destination: %w", refusal),
		"correct what the primary refuses in outflow.destination_state: a name that its encoding lacks, a constraint or a trigger there")
	d.unnoted.SQLState = sqlstate(refusal)
	d.halt = &halt{err: d.unnoted, at: time.Now(), epoch: d.epoch, work: opening}
	d.status.State, d.status.Err = Halted, d.unnoted
	d.observe()
	d.mu.Unlock()
	d.log.Error("halted: nothing can be noted of this destination", zap.Error(d.unnoted))
	return r.park(d, unnotedReason)
}

// release lets the stream go on without destinations that were set aside, where that has failed before.
func (r *Router) release(aside []*Destination) error {
	var faults []error
	for _, d := range aside {
		faults = append(faults, r.park(d, unnotedReason))
	}
	return errors.Join(faults...)
}

const unnotedReason = "nothing can be noted of it"

// renote tries again to have the primary take the note of a destination that was set aside.
func (d *Destination) renote(ctx context.Context) error {
	d.mu.Lock()
	aside := d.unnoted != nil
	d.unnoted = nil
	d.mu.Unlock()
	if !aside {
		return nil
	}
	if err := d.router.checkpoint(ctx); err != nil {
		return err
	}
	return d.refusedNote()
}

// refusedNote is why the destination is set aside, nil where the destination is not.
func (d *Destination) refusedNote() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unnoted == nil {
		return nil
	}
	return d.unnoted
}
