package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// seenSQL has the target tell of each row by NOTIFY. The delivery is part of COMMIT, so the notification comes when the
// row is visible, and costs both contenders the same. A polling reader would take a good part of two cores to see a tenth of
// a millisecond, and so slow down the watched contender. Apply workers fire ALWAYS triggers only.
const seenSQL = `
CREATE FUNCTION bench_seen() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN PERFORM pg_notify('bench_seen', NEW.id::text); RETURN NULL; END $$;
CREATE TRIGGER bench_seen AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION bench_seen();
ALTER TABLE item ENABLE ALWAYS TRIGGER bench_seen`

// arrivalTimeout bounds how long a row may be under way before the measurement is given up.
const arrivalTimeout = 20 * time.Second

// latency is the times of one contender in one round, in milliseconds.
type latency struct {
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
	Samples int     `json:"samples"`
}

// latencyRound measures both contenders, one after the other, in an order that alternates.
func (w *world) latencyRound(ctx context.Context, round int, result *latencyResult) (err error) {
	a, err := w.newArena(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if _, err := a.source.Exec(ctx, `SET synchronous_commit = on`); err != nil { // as applications commit
		return err
	}
	first := 1
	for i := range a.contenders {
		c := a.contenders[(i+round)%len(a.contenders)]
		n, warmUp := result.samples()
		l, err := a.latency(ctx, c, result.Rate, first, n, warmUp)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), errors.Join(err, c.fault()))
		}
		first += n
		result.add(c.name(), l)
		fmt.Fprintf(w.progress, "latency round %d  %-12s p50 %.2f ms, p99 %.2f ms\n", round+1, c.name(), l.P50, l.P99)
	}
	return nil
}

// latency writes n rows with ids from first, in transactions of one row each, while a watcher notes when the rows arrive.
func (a *arena) latency(ctx context.Context, c contender, rate, first, n, warmUp int) (latency, error) {
	marker := markerID + first // behind the rows from the other contender's turn
	if err := errors.Join(a.mark(ctx, marker), a.settle(ctx)); err != nil {
		return latency{}, err
	}
	failed, err := c.start(ctx)
	if err != nil {
		return latency{}, err
	}
	if err := awaitRow(ctx, c, failed, marker); err != nil {
		return latency{}, err
	}
	for _, statement := range []string{seenSQL, `LISTEN bench_seen`} {
		if _, err := c.db().Exec(ctx, statement); err != nil {
			return latency{}, err
		}
	}
	committed, seen := make([]time.Time, n), make([]time.Time, n)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return watchArrivals(gctx, c.db(), first, seen) })
	group.Go(func() error { return a.writeSteadily(gctx, rate, first, committed) })
	if err := group.Wait(); err != nil {
		return latency{}, err
	}
	if err := c.remove(ctx); err != nil {
		return latency{}, err
	}
	return summarize(committed[warmUp:], seen[warmUp:]), a.verify(ctx, c.db())
}

// writeSteadily commits a row at each tick, and notes when COMMIT was answered.
func (a *arena) writeSteadily(ctx context.Context, rate, first int, committed []time.Time) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range committed {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := a.source.Exec(ctx, `INSERT INTO item SELECT * FROM bench_rows($1, $1)`, first+i); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		committed[i] = time.Now()
	}
	return nil
}

// watchArrivals notes when each row became visible, until all are.
func watchArrivals(ctx context.Context, db *pgx.Conn, first int, seen []time.Time) error {
	for missing := len(seen); missing > 0; {
		waiting, cancel := context.WithTimeout(ctx, arrivalTimeout)
		n, err := db.WaitForNotification(waiting)
		cancel()
		if err != nil {
			return fmt.Errorf("waiting for %d rows to arrive: %w", missing, err)
		}
		now := time.Now()
		id, err := strconv.Atoi(n.Payload)
		if err != nil {
			return fmt.Errorf("the notification says %q", n.Payload)
		}
		if i := id - first; i >= 0 && i < len(seen) && seen[i].IsZero() {
			seen[i] = now
			missing--
		}
	}
	return nil
}

// summarize makes percentiles. A row seen before the answer to its writer took no time.
func summarize(committed, seen []time.Time) latency {
	took := make([]float64, len(seen))
	for i := range seen {
		took[i] = float64(max(0, seen[i].Sub(committed[i])).Microseconds()) / 1000
	}
	slices.Sort(took)
	return latency{P50: percentile(took, 50), P99: percentile(took, 99), Max: took[len(took)-1], Samples: len(took)}
}

// percentile is the smallest value not exceeded by at least p percent of the sorted values.
func percentile(sorted []float64, p int) float64 {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
