package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"outflow/internal/pipeline"
)

// Options say what is shown.
type Options struct {
	Tenants  int           // each with an external database of its own
	Rate     int           // row changes per second on the primary
	Duration time.Duration // of the load; 0 is until ctx is done
	Keep     bool          // the servers are left running, and the output says how to reach and to stop them
	Version  string        // of the program, for the dashboard
}

// demonstration is one run of the demonstration.
type demonstration struct {
	Options
	out io.Writer

	servers  servers
	pipeline *pipeline.Pipeline
	front    *pipeline.Front
	load     *load
}

// Validate tells the first fault of the options, named by the flag.
func (d Options) Validate() error {
	switch {
	case d.Tenants < 1 || d.Tenants > 100:
		return fmt.Errorf("--tenants %d: expected 1 to 100", d.Tenants)
	case d.Rate < 1:
		return fmt.Errorf("--rate %d: expected at least 1", d.Rate)
	case d.Duration < 0:
		return fmt.Errorf("--duration %s: expected 0 or more", d.Duration)
	}
	return nil
}

// Run starts servers, writes, keeps the external databases in sync, compares them with the primary, and tells all of that to out. The last
// line says that the result was verified; without that line there is an error. The load ends after the duration, or when ctx is done.
func Run(ctx context.Context, o Options, out io.Writer) error {
	d := &demonstration{Options: o, out: out}
	err := d.work(ctx)
	if err = errors.Join(err, d.leave()); err != nil {
		return err
	}
	fmt.Fprintln(d.out, "verified")
	return nil
}

func (d *demonstration) work(ctx context.Context) error {
	fmt.Fprintln(d.out, "Starting two throwaway Postgres servers ...")
	if err := d.prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted before the load began")
		}
		return err
	}
	if err := d.live(ctx); err != nil {
		return err
	}
	return d.verify(context.WithoutCancel(ctx))
}

// prepare does the work before the stream is read: servers, slot, and the first users behind the slot.
func (d *demonstration) prepare(ctx context.Context) error {
	err := d.servers.start(ctx, d.Tenants)
	if err != nil {
		return err
	}
	if d.pipeline, d.front, err = d.servers.openPipeline(ctx, d.Version); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Writing %d users of %d tenants ...\n", firstUsers, d.Tenants)
	if d.load, err = newLoad(ctx, d.servers.source, d.servers.tenants, d.Rate); err == nil {
		fmt.Fprintln(d.out, "Dashboard:", d.front.URL())
	}
	return err
}

// live runs the pipeline and the load. The load ends after the duration or on Ctrl-C; everything else goes on until the
// external databases have caught up.
func (d *demonstration) live(ctx context.Context) error {
	g, working := errgroup.WithContext(context.WithoutCancel(ctx))
	working, finish := context.WithCancel(working)
	defer finish()
	loading, stopLoad := context.WithCancel(working)
	defer stopLoad()
	defer context.AfterFunc(ctx, stopLoad)()
	if d.Duration > 0 {
		defer time.AfterFunc(d.Duration, stopLoad).Stop()
	}
	g.Go(func() error { return d.pipeline.Run(working) })
	g.Go(func() error { return d.front.Run(working) })
	g.Go(func() error { return d.show(working, loading) })
	g.Go(func() error {
		defer finish()
		if err := d.load.run(loading); err != nil {
			return err
		}
		if working.Err() != nil {
			return nil // the pipeline failed, and says why
		}
		return d.catchUp(working)
	})
	return g.Wait()
}

// stalledAfter is how long the slot may stand still, with changes to come, before the demo gives up.
const stalledAfter = 30 * time.Second

// catchUp waits until the primary knows that all commits are in the external databases.
func (d *demonstration) catchUp(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.servers.source)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var target string
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&target); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last, moved := "", time.Now()
	for {
		var confirmed string
		var there bool
		err := conn.QueryRow(ctx, `SELECT confirmed_flush_lsn::text, confirmed_flush_lsn >= $2::pg_lsn
			FROM pg_replication_slots WHERE slot_name = $1`, slotName, target).Scan(&confirmed, &there)
		if err != nil || there {
			return err
		}
		if confirmed != last {
			last, moved = confirmed, time.Now()
		}
		if time.Since(moved) > stalledAfter {
			return fmt.Errorf("the external databases do not catch up: the slot has been at %s, before %s, for %s", confirmed, target, stalledAfter)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// leave removes everything, or with --keep says how to.
func (d *demonstration) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.Keep && d.load != nil {
		return d.servers.detach(ctx, d.out)
	}
	return d.servers.close(ctx)
}
