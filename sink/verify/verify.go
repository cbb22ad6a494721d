package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
)

// Verifier proves that external databases equal the primary, beside a process that keeps the databases equal. Verifier recomputes each
// mapping from the primary's rows into temporary tables of the external database, by the mapping's own steps, and compares. Safe for
// concurrent use.
type Verifier struct {
	Options    external.Options
	SourceID   string // the source as the metadata of external databases names the source
	Tables     external.SourceTables
	Primary    *tableread.Tables
	Ledger     *ledger.Store
	SequenceID func(wal.LSN) int64
	Log        *zap.Logger
	Repair     bool              // correct the differing rows
	Progress   func(rows int)    // is called when rows were recomputed; nil is allowed
	Waiting    func(what string) // is called when a comparison begins to wait, with the awaited event; nil is allowed
}

// Comparison is the findings at one external database.
type Comparison struct {
	Tables []TableComparison
	Looks  int // number of times that everything was recomputed
}

// TableComparison is the findings of one table that a mapping writes.
type TableComparison struct {
	Mapping                 string
	Table                   string
	Rows                    int64 // made by the primary's rows
	Missing, Extra, Changed int
	Repaired                int
	First                   []Difference // of the missing, extra or changed rows
}

// Difference is a row that differs from the row made by the primary's rows.
type Difference struct {
	Kind string // missing, extra or changed
	Key  string // of the row, or the beginning of the row where the table has no primary key
}

// Different is how many rows differ.
func (t TableComparison) Different() int { return t.Missing + t.Extra + t.Changed }

// Different is how many rows of all tables differ.
func (c Comparison) Different() int {
	n := 0
	for _, t := range c.Tables {
		n += t.Different()
	}
	return n
}

const (
	looksMax       = 5                // at one comparison
	streamPatience = 30 * time.Second // for the stream to come to the primary's state at the look
	slotPatience   = 5 * time.Second  // for a process to read the slot, and for a destination that a person or a copy has to bring back
	streamPause    = 50 * time.Millisecond
	firstShown     = 10
	repairsMax     = 3
	verifyTimeout  = 30 * time.Minute // of one statement: the comparison of a whole table is one
	compareRows    = 1000             // rows in a second, on a slow server: so long it may take to compare a table
	answerPatience = 30 * time.Second // for the external database's answers to statements that take moments
	readPatience   = 5 * time.Minute  // for the primary's answer to the read of some rows
)

// Verify compares one external database with the primary. An error means that the comparison failed.
func (v *Verifier) Verify(ctx context.Context, t external.DestinationSpec) (found Comparison, err error) {
	if t.Fault != nil {
		return Comparison{}, t.Fault
	}
	options := v.Options
	options.StatementTimeout = verifyTimeout
	log := v.Log.With(zap.String("tenant", t.Tenant), zap.String("destination", t.Name))
	db, err := external.NewDatabase(&external.Owner{SourceID: v.SourceID, Tenant: t.Tenant, Name: t.Name}, t, options, v.Tables, log)
	if err != nil {
		return Comparison{}, err
	}
	defer func() {
		if cause := recover(); cause != nil {
			log.Error("a bug in Outflow", zap.Any("panic", cause), zap.Stack("stack"))
			err = external.Panicked(cause)
		}
	}()
	db.Unnamed = true // no prepared statement would be used often, and a pooler need not keep prepared statements
	s, err := db.DialAlone(ctx)
	if err != nil {
		return Comparison{}, err
	}
	defer s.Close()
	c := &comparison{v: v, db: db, s: s, copier: &tableread.Copier{Tables: v.Primary}}
	defer c.copier.Close()
	result, err := c.compare(ctx)
	if err != nil || !v.Repair || result.Different() == 0 {
		return result, err
	}
	return c.repair(ctx, result)
}

// comparison is the work at one external database.
type comparison struct {
	v          *Verifier
	db         *external.Database
	s          *external.Session
	copier     *tableread.Copier
	tables     []*comparedTable
	held       int64    // id up to which every mapping was synced when the look began
	recomputed int      // rows in this look
	read       wal.LSN  // up to which the look has read the primary
	passed     bool     // the stream came there before the look compared
	unseen     int      // commits that were in the WAL and not visible on the primary when the look began
	wanted     []wanted // source rows of the differing rows, for a repair
}

// compare looks until the differences are certain.
//
// The live system moves during a look: rows are read from the primary at one moment, and the stream's work on the rows is seen at another.
// So a look proves something only if, between reading the primary's rows and comparing, the stream has passed the place of the read; all
// looks but the first wait for the stream. A row that differs at two such looks in a row, both times in the same way, has not changed on
// the primary in between, and the stream had brought the row unchanged: the row is different. A row that differs each time in another way
// is being changed.
func (c *comparison) compare(ctx context.Context) (Comparison, error) {
	defer c.s.Rollback()
	before, err := c.look(ctx, 0)
	if err != nil {
		return Comparison{}, err
	}
	looks, proof := 1, c.passed
	for before.open() > 0 && looks < looksMax {
		now, err := c.look(ctx, streamPatience)
		if err != nil {
			return Comparison{}, err
		}
		looks++
		now.keep(before, proof)
		before, proof = now, true
		if before.open() == before.settled() {
			break
		}
	}
	result := before.comparison()
	result.Looks = looks
	if result.Different() > 0 {
		if err := c.certain(ctx, before, result); err != nil {
			return Comparison{}, err
		}
		if c.v.Repair {
			err = within(ctx, c.v.patienceFor(c.recomputed), func(ctx context.Context) (err error) {
				c.wanted, err = c.sourceKeys(ctx, before)
				return err
			})
		}
	}
	return result, err
}

// certain says why the differences prove nothing, where the differences prove nothing.
func (c *comparison) certain(ctx context.Context, l look, result Comparison) error {
	known, err := c.metadata(ctx)
	if err != nil {
		return err
	}
	copying := false
	for _, m := range known {
		copying = copying || m.Backfill != ""
	}
	noted, err := c.v.Ledger.Note(ctx, c.db.Tenant, c.db.Name)
	if err != nil {
		return err
	}
	switch {
	case copying || noted.State == ledger.Backfilling:
		return &external.Error{Err: errors.New("the destination is being copied from the primary"), Remedy: "wait until its state is streaming"}
	case c.unseen > 0:
		return &external.Error{Err: fmt.Errorf("%d commits wait for the primary's synchronous standby: the external database may have them, but they are not visible on the primary", c.unseen),
			Remedy: "bring the standby back, then verify again"}
	case noted.State == ledger.Parked || noted.State == ledger.Halted:
		return &external.Error{Err: fmt.Errorf("the destination is %s: %s", noted.State, noted.Reason), Remedy: "remove that cause first"}
	}
	for i, t := range l {
		special := t.mapping.Specials()
		if found := result.Tables[i]; len(special) > 0 && found.Changed > 0 && found.Changed == found.Different() {
			return &external.Error{Mapping: t.mapping.Name, Remedy: "none; such columns are not a function of the primary's rows",
				Err: fmt.Errorf("the rows depend on %s, which does not follow from the primary's rows", strings.Join(special, ", "))}
		}
	}
	return nil
}

// look recomputes everything once and compares. The transaction stays open, with the temporary tables inside. A look with patience fails
// where the stream does not come within the patience.
func (c *comparison) look(ctx context.Context, patience time.Duration) (look, error) {
	c.s.Rollback()
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	err := within(ctx, readPatience, func(ctx context.Context) (err error) {
		c.unseen, err = c.copier.AwaitingStandby(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := c.recompute(ctx); err != nil {
		return nil, err
	}
	if err := c.awaitStream(ctx, patience); err != nil {
		return nil, err
	}
	l := look{}
	for _, t := range c.tables {
		var seen *seen
		err := within(ctx, c.v.patienceFor(c.recomputed), func(ctx context.Context) (err error) {
			seen, err = c.compareTable(ctx, t)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("comparing %s: %w", t.name, err)
		}
		l = append(l, seen)
	}
	return l, nil
}

// patience is the time for an external database's answers to statements that take moments.
func (v *Verifier) patience() time.Duration {
	return min(answerPatience, v.Options.StatementTimeout+v.Options.LockTimeout)
}

// patienceFor is the time to compare a table that has about the given number of rows.
func (v *Verifier) patienceFor(rows int) time.Duration {
	return min(verifyTimeout, v.Options.StatementTimeout+v.Options.LockTimeout+time.Duration(rows)*(time.Second/compareRows))
}

// within gives f a limited time.
func within(ctx context.Context, patience time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f(ctx)
}

// awaitStream waits until the stream has brought the destination everything that the look has read from the primary. The process reading
// the slot says so of the destination, or the metadata says so, or the slot was told that all destinations have everything. The progress
// of other destinations does not matter.
func (c *comparison) awaitStream(ctx context.Context, patience time.Duration) error {
	deadline, unread, asked := time.Now().Add(patience), time.Now().Add(slotPatience), false
	id := c.v.SequenceID(c.read)
	tick := time.NewTicker(streamPause)
	defer tick.Stop()
	for {
		now, err := c.v.Ledger.Progress(ctx, c.db.Tenant, c.db.Name)
		if err != nil {
			return err
		}
		known, err := c.metadata(ctx)
		if err != nil {
			return err
		}
		c.passed = now.Confirmed >= c.read || now.Reached >= id || known.Lowest(c.db.Mappings) >= id
		switch {
		case c.passed || patience == 0:
			return nil
		case !asked:
			if err := c.askStream(ctx, now, id); err != nil {
				return err
			}
			asked = true
		case time.Now().After(deadline), (!now.Attended || now.Waits()) && time.Now().After(unread):
			return c.lags(now)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// askStream asks the process reading the slot to say when the destination has everything up to the id.
func (c *comparison) askStream(ctx context.Context, now ledger.Progress, id int64) error {
	if err := c.v.Ledger.FlushWAL(ctx); err != nil {
		return err
	}
	if c.v.Waiting != nil {
		c.v.Waiting(fmt.Sprintf("%s: rows differ so far; waiting until the stream has brought everything up to %s (state %s)", c.db, c.read, now.State))
	}
	return c.v.Ledger.AskSync(ctx, c.db.Tenant, c.db.Name, id)
}

// lags says why the stream did not come in time.
func (c *comparison) lags(now ledger.Progress) error {
	if !now.Attended {
		return &external.Error{Err: errors.New("rows differ, and no process reads the slot, so changes may be on their way"),
			Remedy: "start outflow run, then verify again"}
	}
	text := fmt.Sprintf("rows differ, but the destination lags: its state is %s, and the stream has not brought everything up to %s", now.State, c.read)
	if now.Reason != "" {
		text += ": " + now.Reason
	}
	return &external.Error{Err: errors.New(text), Remedy: "verify again when the stream has caught up: outflow status shows what holds it back"}
}
