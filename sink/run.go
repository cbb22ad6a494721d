package sink

import (
	"context"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/destination"
	"outflow/sink/ledger"
	"outflow/sink/schema"
)

// Begin implements [replication.Sink]. Begin reads the primary's notes of the destinations, which another process may have changed since,
// and starts the destinations that are not known to be up to date.
func (r *Router) Begin(ctx context.Context) error {
	r.membership.mu.Lock()
	defer r.membership.mu.Unlock()
	r.membership.begun.Store(true)
	r.arrival.inside = false // the stream begins with a whole transaction
	if err := r.findUnfinished(ctx); err != nil {
		return err
	}
	if err := r.loadSwitches(ctx); err != nil {
		return err
	}
	if err := r.beginReading(ctx); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.ReadingBegun); err != nil {
		return err
	}
	end, err := r.config.Ledger.WALEnd(ctx)
	if err != nil {
		return err
	}
	r.membership.begunAt = wal.LSN(end)
	if err := r.takeOverNotes(ctx); err != nil {
		return err
	}
	return r.checkpoint(ctx) // so that every destination has its row before anything is acknowledged
}

// findUnfinished finds the transactions in progress, which an earlier process may have applied.
func (r *Router) findUnfinished(ctx context.Context) error {
	copier := &tableread.Copier{Tables: r.config.Primary}
	defer copier.Close()
	ctx, cancel := context.WithTimeout(ctx, schema.CatalogTimeout)
	defer cancel()
	unfinished, err := copier.Unfinished(ctx)
	if err == nil {
		r.xids.RanBefore(unfinished)
	}
	return err
}

// takeOverNotes gives each destination its note. A destination that left the configuration, or is back, is copied again should it run again:
// acknowledgements have passed the destination by.
func (r *Router) takeOverNotes(ctx context.Context) error {
	states, err := r.config.Ledger.Notes(ctx)
	if err != nil {
		return err
	}
	byName := map[[2]string]ledger.Note{}
	for _, s := range states {
		byName[[2]string{s.Tenant, s.Name}] = s
	}
	for _, d := range r.Destinations() {
		name := [2]string{d.Tenant, d.Name}
		s := byName[name]
		if s.Reason == primary.NotConfigured { // back; its database may have been filled under another name meanwhile, in a later epoch
			s.State, s.Reason = ledger.Backfilling, "the destination is in the configuration again"
			if s.Epoch, err = r.config.Ledger.RaiseEpoch(ctx, s); err != nil {
				return err
			}
		}
		d.Begin(s)
		delete(byName, name)
	}
	for _, s := range byName { // not in the configuration any more
		if s.Reason == primary.NotConfigured {
			continue
		}
		s.State, s.Reason = ledger.Parked, primary.NotConfigured
		if _, err := r.config.Ledger.RaiseEpoch(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// beginReading begins a reading in the ledger. A primary that no longer has this process' newest checkpoint was restored while this process ran.
func (r *Router) beginReading(ctx context.Context) error {
	has, err := r.config.Ledger.HasCheckpoint(ctx, r.checkpointer.checkpointID())
	if err != nil {
		return err
	}
	if !has {
		return &primary.Problem{What: "the primary lacks notes of this process: it was restored from a backup", Remedy: destination.ResetRemedy}
	}
	id, err := r.config.Ledger.BeginReading(ctx)
	if err == nil {
		r.checkpointer.id.Store(&id)
	}
	return err
}

// Run notes checkpoints, parks destinations, and carries out requests, until ctx is done. Begin comes before Run. Run ends with
// [primary.ErrFenced] where another process reads the slot and this process finds out by a refused note.
func (r *Router) Run(ctx context.Context) error {
	checkpoint, looks, switches := time.NewTicker(r.config.Options.Checkpoint), time.NewTicker(watchEvery), time.NewTicker(switchEvery)
	defer checkpoint.Stop()
	defer looks.Stop()
	defer switches.Stop()
	failures, answers, watched := 0, true, &watch{router: r}
	for {
		if r.config.Ledger.Fenced() {
			return primary.ErrFenced
		}
		select {
		case <-ctx.Done():
			return nil
		case <-switches.C:
			r.takeOrders(ctx)
		case <-looks.C:
			if r.config.Reader.State() != replication.Streaming {
				watched.pass(time.Now())
				continue // another process may have the slot
			}
			all := r.Destinations()
			r.visit(all)
			watched.look(all, time.Now(), answers)
		case <-checkpoint.C:
			if r.config.Reader.State() != replication.Streaming {
				continue
			}
			var err error
			if answers, err = r.visitPrimary(ctx); err == nil {
				failures = 0
			} else if failures++; failures&(failures-1) == 0 && ctx.Err() == nil {
				r.config.Log.Warn("nothing is acknowledged to the slot while checkpoints fail", zap.Error(err), zap.Int("attempt", failures))
			}
		}
	}
}

// takeOrders puts into effect what persons have written on the primary: switches and, while this process has the slot, requests.
func (r *Router) takeOrders(ctx context.Context) {
	err := r.loadSwitches(ctx)
	if err == nil && r.config.Reader.State() == replication.Streaming {
		err = r.takeRequests(ctx)
	}
	if err != nil && ctx.Err() == nil {
		r.config.Log.Debug("switches and requests cannot be read", zap.Error(err)) // the checkpoint says that the primary is away
	}
}

// visitPrimary writes a checkpoint where one is due, and looks at the end of the primary's WAL and at doubtful tables. answers reports whether
// the primary answers; err is the checkpoint's.
func (r *Router) visitPrimary(ctx context.Context) (answers bool, err error) {
	err = r.checkpointInTurn(ctx)
	end, failed := r.config.Ledger.WALEnd(ctx)
	if failed == nil {
		r.checkpointer.walEnd.Store(end)
	}
	r.lookAgain(ctx)
	return failed == nil, err
}

// lookAgain looks at the tables that lacked a column. Where a table has other columns now, the waiting destinations try again at once.
func (r *Router) lookAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, schema.CatalogTimeout)
	defer cancel()
	for _, table := range r.shared.Schemas.InDoubt() {
		now, err := r.shared.Schemas.Relearn(ctx, table)
		if err != nil || !r.shared.Schemas.Resolve(table, now) {
			continue // where the primary is away, the checkpoint says so
		}
		for _, d := range r.Destinations() {
			d.TryForTable(table)
		}
	}
}
