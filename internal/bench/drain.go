package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// drainTimeout bounds one drain.
const drainTimeout = 10 * time.Minute

// drain is a backlog brought over by a contender. CPU times are in seconds, -1 where unknown.
type drain struct {
	Seconds    float64 `json:"seconds"`
	RowsPerSec float64 `json:"rows_per_second"`
	Walsender  float64 `json:"walsender_cpu_seconds"`
	Backend    float64 `json:"target_backend_cpu_seconds"`
	Self       float64 `json:"outflow_cpu_seconds"` // of this process
}

// drainRound writes a backlog and has both contenders drain the backlog in turn, in an order that alternates.
func (w *world) drainRound(ctx context.Context, load workload, round, changes int, result *drainResult) (err error) {
	there := 0
	if load.call == "bench_update" {
		there = changes
	}
	a, err := w.newArena(ctx, there)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if _, err := a.source.Exec(ctx, fmt.Sprintf("CALL %s(%d, %d)", load.call, changes, load.batch)); err != nil {
		return fmt.Errorf("writing the backlog: %w", err)
	}
	if err := a.mark(ctx, markerID); err != nil {
		return err
	}
	for i := range a.contenders {
		c := a.contenders[(i+round)%len(a.contenders)]
		d, err := a.drain(ctx, c, changes)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		result.add(c.name(), d)
		fmt.Fprintf(w.progress, "%-5s round %d  %-12s %8.0f rows/s\n", load.name, round+1, c.name(), d.RowsPerSec)
	}
	return nil
}

// drain runs a contender until the target has everything, and verifies the result.
func (a *arena) drain(ctx context.Context, c contender, changes int) (drain, error) {
	if err := a.settle(ctx); err != nil {
		return drain{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	self := selfCPU()
	began := time.Now()
	failed, err := c.start(ctx)
	if err != nil {
		return drain{}, err
	}
	if err := awaitRow(ctx, c, failed, markerID); err != nil {
		return drain{}, err
	}
	d := drain{Seconds: time.Since(began).Seconds(), Self: selfCPU() - self, Walsender: -1, Backend: -1}
	d.RowsPerSec = float64(changes) / d.Seconds
	if err := a.serverCPU(ctx, c, &d); err != nil {
		return drain{}, err
	}
	if err := c.remove(ctx); err != nil {
		return drain{}, err
	}
	return d, a.verify(ctx, c.db())
}

// awaitRow waits until a row is visible on the target. 10 ms are nothing beside a drain, and 100 look-ups by key a second
// cost next to nothing.
func awaitRow(ctx context.Context, c contender, failed <-chan struct{}, id int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var seen bool
		err := c.db().QueryRow(ctx, `SELECT EXISTS (SELECT FROM item WHERE tenant = $1 AND id = $2)`, tenant, id).Scan(&seen)
		if err != nil {
			return errors.Join(fmt.Errorf("waiting for row %d: %w", id, err), c.fault())
		}
		if seen {
			return nil
		}
		select {
		case <-tick.C:
		case <-failed:
			return fmt.Errorf("the replication ended before all rows arrived: %w", c.fault())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for row %d: %w", id, ctx.Err()), c.fault())
		}
	}
}

// verify compares count and checksum of the two tables.
func (a *arena) verify(ctx context.Context, target *pgx.Conn) error {
	var sums [2]string
	for i, db := range []*pgx.Conn{a.source, target} {
		err := db.QueryRow(ctx, `SELECT count(*) || ' rows, checksum ' || coalesce(sum(hashtextextended(t::text, 0)), 0)
			FROM item t`).Scan(&sums[i])
		if err != nil {
			return fmt.Errorf("verifying: %w", err)
		}
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("the tables differ: the source has %s, the target %s", sums[0], sums[1])
	}
	return nil
}

// serverCPU reads the CPU time of the contender's two server processes. Both began with the drain.
func (a *arena) serverCPU(ctx context.Context, c contender, d *drain) error {
	var sender, backend int
	err := a.source.QueryRow(ctx, `SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1`, c.slotName()).Scan(&sender)
	if err != nil {
		return err
	}
	err = c.db().QueryRow(ctx, `SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE datname = current_database()
		AND (backend_type = 'logical replication worker' OR application_name = 'outflow')`).Scan(&backend)
	d.Walsender, d.Backend = processCPU(sender), processCPU(backend)
	return err
}

// processCPU is the CPU time of a local Postgres process in seconds, -1 where the process is not to be found.
func processCPU(pid int) float64 {
	const ticks = 100 // USER_HZ, the same on every Linux
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || !strings.Contains(string(text), "(postgres)") {
		return -1
	}
	fields := strings.Fields(string(text[slices.Index(text, ')')+1:]))
	if len(fields) < 13 {
		return -1
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / ticks
}

// selfCPU is the CPU time of this process in seconds.
func selfCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return (time.Duration(u.Utime.Nano()) + time.Duration(u.Stime.Nano())).Seconds()
}
