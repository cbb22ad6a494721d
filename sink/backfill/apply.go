package backfill

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/sink/external"
)

// portion is the part of a chunk applied in one transaction, with the cursor behind the part.
type portion struct {
	chunk *chunk
	rows  *mapping.Rows
	next  Cursor
	done  bool                  // nothing is left after the portion
	aside *external.Quarantined // the portion's single row, which goes to the quarantine instead; nil mostly
}

// chunkPatience is how long one chunk may keep live changes waiting when the external database refuses parts of the chunk. The
// rest is read again.
const chunkPatience = 4 * chunkTime

// applyChunk brings a chunk's rows and the cursor behind the rows into the external database. A refused chunk is halved until the
// refused row is found or the rest is taken, and grows again behind the row.
func (bf *Backfill) applyChunk(ctx context.Context, c *chunk, rows *mapping.Rows) error {
	total := rows.Len(mapping.Any)
	done := bf.slot.AsksWithChunk()
	for at, size, begun := 0, total, time.Now(); ; {
		p := bf.portion(c, rows, at, min(size, total-at))
		err := bf.apply(ctx, p)
		if n := p.rows.Len(mapping.Any); n > 1 && tooMuch(err) {
			if size = n / 2; bf.s.Usable() {
				continue
			}
			bf.pace.rows = size // the client's own limit ended the connection
		}
		if err != nil {
			done()
			bf.slot.ChunkDone()
			return bf.nameRow(err, p.rows)
		}
		if at += p.rows.Len(mapping.Any); at >= total {
			bf.pace.resize(time.Since(c.read.began))
			break
		}
		if size *= 2; time.Since(begun) > chunkPatience && p.next.After != nil {
			bf.pace.rows = max(size, chunkMin)
			break
		}
	}
	done()
	bf.slot.ChunkDone()
	switch {
	case bf.stored == "":
		if err := failpoint.Fail(failpoint.BackfillFinished); err != nil {
			return err
		}
		bf.finish()
	case bf.slot.Yield(len(bf.cursor.After) > 0):
		bf.standDown()
	}
	if bf.stored == "" {
		bf.owner.CopyFinished(bf.cursor)
	} else {
		bf.owner.ChunkCopied(bf.cursor)
	}
	return nil
}

// tooMuch reports whether fewer rows in a transaction may help against an error.
func tooMuch(err error) bool {
	if err == nil {
		return false
	}
	return external.AsError(err).Verdict == external.RowFault || external.TimedOut(err)
}

// portion is n rows of a chunk, starting at a given row. The cursor behind the rows is the chunk's own where the portion ends the
// chunk.
func (bf *Backfill) portion(c *chunk, rows *mapping.Rows, at, n int) *portion {
	p := &portion{chunk: c, rows: rows, next: c.next, done: c.done}
	if n < rows.Len(mapping.Any) {
		p.rows = &mapping.Rows{Relation: rows.Relation}
		if c.swept != nil {
			p.rows.Deletes = rows.Deletes[at : at+n]
		} else {
			p.rows.Upserts = rows.Upserts[at : at+n]
		}
	}
	if at+n < rows.Len(mapping.Any) {
		p.next, p.done = bf.cursor, false
		if place := c.behind(rows, at+n-1); len(place) > 0 { // else the table is one chunk
			p.next.Table, p.next.Done, p.next.After, p.next.Sort = c.table, false, place, c.next.Sort
			p.next.Rows += int64(len(p.rows.Upserts))
			p.next.Copied = bf.cursor.copied(c.table, len(p.rows.Upserts))
		}
	}
	doubles := 0
	if c.swept != nil { // a delete step may take the other form of the row too: the next pass copies the row
		for _, k := range c.removed[at : at+len(p.rows.Deletes)] {
			if k.Primary != nil {
				doubles++
			}
		}
	}
	p.next.Pass, p.next.PutOff, p.next.Before, p.next.Strict, p.next.Order =
		bf.cursor.Pass, bf.cursor.PutOff+int64(doubles), bf.cursor.Before, bf.cursor.Strict, bf.s.Order.Fingerprint
	return p
}

// apply applies a portion. A single refused row is put off or set aside.
func (bf *Backfill) apply(ctx context.Context, p *portion) error {
	err := bf.transaction(ctx, p)
	if err == nil || p.rows.Len(mapping.Any) != 1 || external.AsError(err).Verdict != external.RowFault || !bf.s.Usable() {
		return err
	}
	e := external.AsError(err)
	switch {
	case bf.mayPutOff(e):
		return bf.putOff(ctx, p, e)
	case bf.shared.Quarantine:
		refused := *p
		refused.rows, refused.aside = &mapping.Rows{}, bf.setAside(p.rows, e)
		return bf.transaction(ctx, &refused)
	}
	return err
}

// mayPutOff reports whether a refusal may have to do with rows still to be copied or swept: the refused row is then copied in the
// next pass. The sweep removes rows that are gone from the primary and may hold a unique value, so there is no such row to wait
// for after the first pass; rows that refer to others of their table may take several passes. A pass that does not help is
// followed by a strict pass.
func (bf *Backfill) mayPutOff(e *external.Error) bool {
	switch e.SQLState {
	case pgerror.ForeignKeyViolation:
		return !bf.cursor.Strict
	case pgerror.UniqueViolation, pgerror.ExclusionViolation:
		return bf.cursor.Pass == 0
	}
	return false
}

// putOff moves the cursor over one row that the next pass copies. The external database's version of the row is old, and may hold
// a value that another row has now. So the version is deleted, unless the delete takes along rows that the copy does not bring
// again.
func (bf *Backfill) putOff(ctx context.Context, p *portion, e *external.Error) error {
	bf.saysPutOff(e)
	if err := failpoint.Fail(failpoint.PutOff); err != nil {
		return err
	}
	rest := *p
	rest.next.PutOff++
	rest.rows = &mapping.Rows{Relation: p.rows.Relation}
	if e.SQLState != pgerror.ForeignKeyViolation && !bf.takesAlong() {
		rest.rows.Deletes = slices.Concat(p.rows.Upserts, p.rows.Deletes)
		if err := bf.transaction(ctx, &rest); err == nil || external.AsError(err).Verdict != external.RowFault || !bf.s.Usable() {
			return err
		}
		rest.rows.Deletes = nil
	}
	return bf.transaction(ctx, &rest)
}

// takesAlong reports whether a delete of rows filled by the copy deletes or changes rows of tables outside the copy.
func (bf *Backfill) takesAlong() bool {
	var group []*mapping.Mapping
	for i, m := range bf.mappings {
		if bf.group[i] {
			group = append(group, m)
		}
	}
	return bf.s.Order.Acts(group, "", external.Fills(group, "")...)
}

// saysPutOff logs the first row put off in a pass, the second, the fourth, and so on.
func (bf *Backfill) saysPutOff(e *external.Error) {
	if n := bf.cursor.PutOff + 1; n&(n-1) == 0 {
		bf.log.Warn("the external database refuses a row; another pass copies the row again", zap.Int64("rows", n),
			zap.Int("pass", bf.cursor.Pass), zap.String("sqlstate", e.SQLState), zap.Error(e))
	}
}

// PutOffLive puts a live change off to the next pass of the copy, where a copy fills all the mappings of the change. The cursor
// in the metadata says so in the same transaction, which leaves the change out. behind are the mappings of the change; at is the cursor in the
// open transaction, nil where the transaction has not moved the cursor. The result is the cursor in the transaction then, nil where the change
// is not put off; Committed takes the cursor over.
func (bf *Backfill) PutOffLive(ctx context.Context, behind []bool, at *Cursor, e *external.Error) (*Cursor, error) {
	if bf == nil || !bf.mayPutOff(e) {
		return nil, nil
	}
	for i := range behind {
		if behind[i] && !bf.group[i] && (e.Table == "" || slices.Contains(bf.mappings[i].Tables(), e.Table)) {
			return nil, nil
		}
	}
	bf.saysPutOff(e)
	before, now := bf.stored, bf.cursor
	if at != nil {
		before, now = at.String(), *at
	}
	now.PutOff++
	return &now, bf.s.PutOffCursor(ctx, before, now.String())
}

// Committed takes over the cursor that a batch with changes put off has committed.
func (bf *Backfill) Committed(at Cursor) { bf.cursor, bf.stored = at, at.String() }

// following is the cursor behind a portion, "" where the backfill is complete: rows put off take another pass.
func (p *portion) following() (next Cursor, text string) {
	next = p.next
	if !p.done {
		return next, next.String()
	}
	if next.PutOff == 0 {
		return next, ""
	}
	next = Cursor{Phase: phaseCopy, Pass: p.next.Pass + 1, Before: p.next.PutOff, Order: p.next.Order,
		Strict: p.next.Pass > 0 && p.next.PutOff >= p.next.Before}
	return next, next.String()
}

// setAside is a portion's single row, refused by the external database, for its quarantine.
func (bf *Backfill) setAside(rows *mapping.Rows, e *external.Error) *external.Quarantined {
	row, op := slices.Concat(rows.Upserts, rows.Deletes)[0], string(mapping.Upsert)
	if len(rows.Deletes) > 0 {
		op = string(mapping.Delete)
	}
	return &external.Quarantined{Relation: rows.Relation, Op: op, Row: row.Tuple, SequenceID: row.SequenceID, Err: e}
}

// transaction is one round trip: steps, a row for the quarantine if there is any, cursor, COMMIT.
func (bf *Backfill) transaction(ctx context.Context, p *portion) error {
	all := map[string]*mapping.Rows{p.chunk.table: p.rows}
	if p.rows.Relation != nil {
		if err := bf.s.Compile(ctx, all); err != nil {
			return err
		}
	}
	kept, err := bf.kept(ctx, p)
	if err != nil {
		return err
	}
	next, text := p.following()
	applied := bf.shared.appliedAt(p.chunk.Horizon)
	err = bf.owner.Exchange(ctx, func(ctx context.Context, r *external.Round) error {
		if err := r.Begin(); err != nil {
			return err
		}
		if p.rows.Relation != nil {
			if err := r.Steps(ctx, bf.group, all); err != nil {
				return err
			}
		}
		keep(r, kept, p.chunk.swept)
		if p.aside != nil {
			if err := r.Quarantine(p.aside); err != nil {
				return err
			}
		}
		return r.MoveCursor(bf.group, bf.stored, text, applied, bf.shared.CheckpointID())
	})
	if err == nil {
		err = p.failpoints(text)
	}
	if err != nil {
		return err
	}
	bf.cursor, bf.stored = next, text
	bf.s.Reached(bf.group, applied)
	return nil
}

// failpoints are the points behind the commit of a portion. text is the cursor behind the portion.
func (p *portion) failpoints(text string) error {
	if p.chunk.swept != nil && len(p.rows.Deletes) > 0 {
		if err := failpoint.Fail(failpoint.SweepRemoved); err != nil {
			return err
		}
	}
	if p.done && text != "" {
		if err := failpoint.Fail(failpoint.NextPass); err != nil {
			return err
		}
	}
	return failpoint.Fail(failpoint.ChunkMerged)
}

// nameRow names the row of an error, where the error concerns a single row.
func (bf *Backfill) nameRow(err error, rows *mapping.Rows) error {
	e := external.AsError(err)
	slow := external.TimedOut(err)
	if e.Verdict != external.RowFault && !slow || rows.Len(mapping.Any) != 1 {
		return err
	}
	if slow {
		named := *e
		named.Remedy = "make the statement faster for one row (triggers, indexes), or raise sink.statement_timeout"
		e = &named
	}
	row := slices.Concat(rows.Upserts, rows.Deletes)[0]
	return external.OfRow(e, rows.Relation, row.Tuple)
}
