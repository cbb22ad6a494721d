package destination

import (
	"slices"

	"go.uber.org/zap"

	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/lifecycle"
)

// A queued change may no longer fit its table: a column present in, or missing from, the change was renamed or dropped since, and perhaps
// back again. No further try brings such a change into the external database. The rows are read from the present tables instead, and the
// queue is dropped.

// outdate has the external database copied again, and the queue dropped, where an error asks for a copy. The queue may be dropped only because the
// new epoch is durable. The worker calls outdate when the worker has failed.
func (d *Destination) outdate(e *external.Error) {
	if e.Verdict != external.Outdated && !d.misfits(e) {
		return
	}
	reason := fit.Text("queued changes no longer fit: "+e.Error(), fit.Reason)
	if err := d.raiseEpoch(d.shared.Workers.Ctx, reason); err != nil {
		d.log.Warn("the destination cannot be copied again", zap.Error(err))
		return
	}
	d.log.Warn("queued changes no longer fit; the rows are copied as they are now", zap.Error(e))
	e.Verdict = external.Retry
	d.mu.Lock()
	defer d.mu.Unlock()
	d.happensLocked(lifecycle.Outgrown)
}

// misfits reports whether a step failed for a missing column, and a queued change has another set of columns than the table has now. Else
// the mapping is at fault, until the table changes: see TryForTable.
func (d *Destination) misfits(e *external.Error) bool {
	if e.SQLState != pgerror.UndefinedColumn || e.Table == "" {
		return false
	}
	now, err := d.shared.Schemas.Relearn(d.shared.Workers.Ctx, e.Table)
	if err != nil {
		d.log.Warn("the primary's table cannot be inspected", zap.String("table", e.Table), zap.Error(err))
		return false
	}
	d.shared.Schemas.Doubt(e.Table, now)
	d.mu.Lock()
	defer d.mu.Unlock()
	return now != nil && d.queue.Contains(func(c *wal.Change) bool {
		return c.Relation.Table == e.Table && slices.ContainsFunc(c.Relation.Columns, func(column wal.Column) bool { return now.Column(column.Name) < 0 })
	})
}

// TryForTable ends the pause after a failure about a column of a table.
func (d *Destination) TryForTable(table string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.status.Err; e != nil && external.AsError(e).SQLState == pgerror.UndefinedColumn && external.AsError(e).Table == table && d.life.Work == lifecycle.Waiting {
		d.tryNowLocked()
	}
}
