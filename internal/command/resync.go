package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// resyncOptions are the flags of resync.
type resyncOptions struct {
	order
	pipeline.Selection
	noWait bool
}

func newResync() *cobra.Command {
	var o resyncOptions
	c := &cobra.Command{
		Use:   "resync",
		Short: "Copy external databases again from the primary's tables, while live changes flow",
		Long: `Resync asks the running process, or the next process that starts, to copy the rows of destinations again and to delete rows
that the primary no longer has. Equal rows are not rewritten. Without --tenant, Resync means all destinations.

Resync then shows the progress until all copies are done. Ctrl-C ends only the display. With --no-wait, Resync only asks.

Exit codes: 0 all are filled (with --no-wait: asked), 1 a destination needs an operator, or Ctrl-C, 2 usage or configuration.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkChoice(o.Selection); err != nil {
				return err
			}
			state, err := o.open()
			if err != nil {
				return err
			}
			defer state.Close()
			return resync(c.Context(), state, o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	o.flags(c, "reason, for the record")
	c.Flags().StringVar(&o.Tenant, "tenant", "", "only this tenant's destinations")
	c.Flags().StringVar(&o.Name, "name", "", "only destinations with this name")
	c.Flags().BoolVar(&o.noWait, "no-wait", false, "only ask, and do not wait")
	return c
}

// among are the chosen destinations.
func (o resyncOptions) among(configured []pipeline.Selection) []pipeline.Selection {
	return slices.DeleteFunc(configured, func(s pipeline.Selection) bool {
		return o.Tenant != "" && o.Tenant != s.Tenant || o.Name != "" && o.Name != s.Name
	})
}

func resync(ctx context.Context, state *ledger.Store, o resyncOptions, out, progress io.Writer) error {
	n, err := state.RequestResync(ctx, o.Tenant, o.Name, o.by, o.reason)
	if err != nil {
		return err
	}
	var early []pipeline.Selection
	if n > 0 {
		fmt.Fprintf(out, "%d destinations are being copied again\n", n)
	} else {
		configured, fault := pipeline.Named(ctx, o.cfg)
		if early = o.among(configured); len(early) == 0 {
			return errors.Join(fmt.Errorf("no such destination has ever run on slot %q", state.Slot), fault)
		}
		fmt.Fprintf(out, "%d destinations have not begun yet, and are copied when they begin\n", len(early))
	}
	if o.noWait {
		return nil
	}
	look := func(ctx context.Context) ([]ledger.Destination, bool, error) {
		all, attended, err := copies(ctx, state, o.Tenant, o.Name)
		return withEarly(all, early), attended, err
	}
	w := &copyWatch{slot: state.Slot, patience: copyStuck, handOver: copyUnattended, silence: primary.Patience, look: look}
	bar := newCopyProgress(progress)
	defer bar.end()
	return w.run(ctx, bar.show)
}

// withEarly adds the destinations without a note, which are to be copied too.
func withEarly(noted []ledger.Destination, early []pipeline.Selection) []ledger.Destination {
	for _, s := range early {
		if !slices.ContainsFunc(noted, func(n ledger.Destination) bool { return n.Tenant == s.Tenant && n.Name == s.Name }) {
			noted = append(noted, ledger.Destination{Tenant: s.Tenant, Name: s.Name, State: ledger.Backfilling, CopyTotal: -1})
		}
	}
	return noted
}

const (
	copyLookEvery  = 500 * time.Millisecond
	copyStuck      = 10 * time.Second // standstill in a state with no end of its own, before the standstill is reported
	copyUnattended = 20 * time.Second // of a slot without a reader: a hand-over takes less
)

// copies are the notes on the chosen destinations, less destinations removed from the configuration, and whether a process
// reads the slot.
func copies(ctx context.Context, state *ledger.Store, tenant, name string) (all []ledger.Destination, attended bool, err error) {
	if attended, err = state.Attended(ctx); err != nil {
		return nil, false, err
	}
	if all, err = state.Destinations(ctx, tenant, name); err != nil {
		return nil, false, err
	}
	return slices.DeleteFunc(all, func(n ledger.Destination) bool { return !n.Configured() }), attended, nil
}

// copyWatch follows copies by the running process' notes on the primary.
type copyWatch struct {
	slot               string
	patience, handOver time.Duration // copyStuck and copyUnattended
	silence            time.Duration // of the primary: Patience
	look               func(context.Context) (all []ledger.Destination, attended bool, err error)

	stuck      map[[2]string]time.Time // since when
	unattended time.Time               // since when no process has read the slot, zero while a process does
}

// run shows the notes until all copies are done, or none of the others goes on.
func (w *copyWatch) run(ctx context.Context, show func([]ledger.Destination)) error {
	w.stuck = map[[2]string]time.Time{}
	tick := time.NewTicker(copyLookEvery)
	defer tick.Stop()
	for answered := time.Now(); ; {
		all, attended, err := w.look(ctx)
		if err != nil && ctx.Err() == nil && time.Since(answered) >= w.silence {
			return fmt.Errorf("the display has ended, but the copies go on; the primary does not report the progress: %w", err)
		}
		if err == nil {
			answered = time.Now()
			show(all)
			var over bool
			if over, err = w.judge(all, attended, time.Now()); over {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("the display has ended; the copies go on")
		case <-tick.C: // a primary that is away for a moment is asked again
		}
	}
}

// judge decides whether there is anything left to wait for.
func (w *copyWatch) judge(all []ledger.Destination, attended bool, now time.Time) (over bool, err error) {
	waiting := 0
	var stuck []string
	for _, d := range all {
		key := [2]string{d.Tenant, d.Name}
		switch d.State {
		case ledger.Streaming:
		case ledger.Halted, ledger.Parked, ledger.Paused:
			if w.stuck[key].IsZero() { // may be the state from before, not changed yet
				w.stuck[key] = now
			}
			if now.Sub(w.stuck[key]) >= w.patience {
				stuck = append(stuck, line(strings.TrimSuffix(fmt.Sprintf("%s/%s is %s: %s", d.Tenant, d.Name, d.State, d.Reason), ": ")))
				continue
			}
			waiting++
			continue
		default:
			waiting++
		}
		delete(w.stuck, key)
	}
	switch {
	case attended:
		w.unattended = time.Time{}
	case w.unattended.IsZero():
		w.unattended = now
	}
	switch {
	case waiting == 0 && len(stuck) == 0:
		return true, nil
	case waiting == 0:
		return true, fmt.Errorf("not filled, and in need of an operator:\n  %s", strings.Join(stuck, "\n  "))
	case !attended && now.Sub(w.unattended) >= w.handOver:
		return true, fmt.Errorf("no process reads slot %q: the copies begin when outflow run starts", w.slot)
	}
	return false, nil
}
