package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func newDemo() *cobra.Command {
	d := &demo{}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole system at work on throwaway servers, and verify its result",
		Long: `Demo starts two throwaway Postgres servers, one for the primary and one for the tenants' external databases. It
creates the slot, writes 10,000 users, and then runs the real pipeline under a mixed live load: inserts, updates, primary
email switches, deletes with cascade and tombstones, transactions of many rows.

After --duration, or on Ctrl-C, it stops the load, waits until the external databases have caught up, and compares each of
them with the primary by SQL of its own, both ways. The last line is then "verified" and the exit code 0; otherwise it
prints the differences and exits 1. The servers are removed unless --keep is given.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := d.check(); err != nil {
				return usageError{err}
			}
			d.out = c.OutOrStdout()
			return d.run(c.Context())
		},
	}
	c.Flags().IntVar(&d.tenants, "tenants", 3, "tenants, each with an external database of its own")
	c.Flags().IntVar(&d.rate, "rate", 500, "row changes a second on the primary")
	c.Flags().DurationVar(&d.duration, "duration", 0, "how long the load runs; 0 is until Ctrl-C")
	c.Flags().BoolVar(&d.keep, "keep", false, "leave the servers running, and print how to reach and to stop them")
	return c
}

// demo is one run of the demonstration.
type demo struct {
	tenants  int
	rate     int           // row changes a second
	duration time.Duration // of the load; 0 is until Ctrl-C
	keep     bool
	out      io.Writer

	servers  demoServers
	pipeline *pipeline
	front    *front
	load     *demoLoad
}

func (d *demo) check() error {
	switch {
	case d.tenants < 1 || d.tenants > 100:
		return fmt.Errorf("--tenants %d: expected 1 to 100", d.tenants)
	case d.rate < 1:
		return fmt.Errorf("--rate %d: expected at least 1", d.rate)
	case d.duration < 0:
		return fmt.Errorf("--duration %s: expected 0 or more", d.duration)
	}
	return nil
}

// run is the whole demonstration. The last line says that the result was verified.
func (d *demo) run(ctx context.Context) error {
	err := d.work(ctx)
	if err = errors.Join(err, d.leave()); err != nil {
		return err
	}
	fmt.Fprintln(d.out, "verified")
	return nil
}

func (d *demo) work(ctx context.Context) error {
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
func (d *demo) prepare(ctx context.Context) error {
	err := d.servers.start(ctx, d.tenants)
	if err != nil {
		return err
	}
	if d.pipeline, d.front, err = d.servers.openPipeline(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Writing %d users of %d tenants ...\n", demoUsers, d.tenants)
	if d.load, err = newDemoLoad(ctx, d.servers.source, d.servers.tenants, d.rate); err == nil {
		fmt.Fprintln(d.out, "Dashboard:", d.front.server.URL())
	}
	return err
}

// live runs the pipeline and the load. The load ends after the duration or on Ctrl-C; everything else goes on until the
// external databases have caught up.
func (d *demo) live(ctx context.Context) error {
	g, working := errgroup.WithContext(context.WithoutCancel(ctx))
	working, finish := context.WithCancel(working)
	defer finish()
	loading, stopLoad := context.WithCancel(working)
	defer stopLoad()
	defer context.AfterFunc(ctx, stopLoad)()
	if d.duration > 0 {
		defer time.AfterFunc(d.duration, stopLoad).Stop()
	}
	g.Go(func() error { return d.pipeline.run(working) })
	g.Go(func() error { return d.front.server.Run(working) })
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
func (d *demo) catchUp(ctx context.Context) error {
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
			FROM pg_replication_slots WHERE slot_name = $1`, demoSlot, target).Scan(&confirmed, &there)
		if err != nil || there {
			return err
		}
		if confirmed != last {
			last, moved = confirmed, time.Now()
		}
		if time.Since(moved) > stalledAfter {
			return fmt.Errorf("the external databases do not catch up: the slot has stood at %s, before %s, for %s", confirmed, target, stalledAfter)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// leave removes everything, or with --keep says how to.
func (d *demo) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.keep && d.load != nil {
		return d.servers.detach(ctx, d.out)
	}
	return d.servers.close(ctx)
}
