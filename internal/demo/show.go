package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8/cwriter"

	"outflow/sink/status"
)

// How often the table is redrawn on a terminal, and lines are printed elsewhere.
const (
	redrawEvery = 250 * time.Millisecond
	printEvery  = 2 * time.Second
)

// show draws the table until ctx is done, in place where possible. loading ends with the load.
func (d *demonstration) show(ctx, loading context.Context) error {
	terminal := cwriter.New(d.out)
	every := printEvery
	if terminal.IsTerminal() {
		every = redrawEvery
	}
	t := newTable(d)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := false; ; {
		text := t.draw(time.Now(), loading.Err() == nil)
		var err error
		if terminal.IsTerminal() {
			err = redraw(terminal, text, last)
		} else {
			_, err = io.WriteString(d.out, text)
		}
		if last || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
	}
}

// redraw writes over the last drawing. Lines are cut to the terminal, since a line that wraps, or scrolls away, is not
// written over. Lines after the last drawing are printed below the drawing.
func redraw(terminal *cwriter.Writer, text string, last bool) error {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	if width, height, err := terminal.GetTermSize(); err == nil && width > 0 && height > 1 {
		if n := len(lines) - (height - 1); n > 0 { // keep the last line, which has the sums
			lines = append(lines[:height-2], lines[len(lines)-1])
		}
		for i, line := range lines {
			lines[i] = fmt.Sprintf("%.*s", width-1, strings.TrimSuffix(line, "\n"))
		}
	}
	for _, line := range lines {
		fmt.Fprintln(terminal, strings.TrimSuffix(line, "\n"))
	}
	if last {
		return terminal.Flush(0)
	}
	return terminal.Flush(len(lines))
}

// table makes the table's text. Rates are over the time since the last drawing.
type table struct {
	demo    *demonstration
	started time.Time
	drawn   time.Time
	rows    []int64 // by destination, at the last drawing
	changes int64
}

func newTable(d *demonstration) *table {
	now := time.Now()
	return &table{demo: d, started: now, drawn: now, rows: make([]int64, len(d.servers.tenants))}
}

func (t *table) draw(now time.Time, loading bool) string {
	seconds := max(now.Sub(t.drawn).Seconds(), 0.001)
	idle := t.demo.pipeline.Acks.Outstanding() == 0 && !loading
	changes, transactions := t.demo.load.changes.Load(), t.demo.load.transactions.Load()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-10s  %-10s  %16s  %10s  %8s  %9s\n", "tenant", "state", "last sequence id", "applied", "rows/s", "lag")
	for i, dest := range t.demo.pipeline.Router.Destinations() {
		s := dest.Status()
		fmt.Fprintf(&b, "%-10s  %-10s  %16d  %10d  %8.0f  %9s\n", dest.Name, s.State, s.SequenceID, s.Rows,
			float64(s.Rows-t.rows[i])/seconds, lag(s, now, idle))
		if s.Err != nil {
			fmt.Fprintf(&b, "  %.160s\n", strings.ReplaceAll(s.Err.Error(), "\n", " "))
		}
		t.rows[i] = s.Rows
	}
	activity := "live load"
	switch {
	case idle:
		activity = "load stopped, all caught up"
	case !loading:
		activity = "load stopped, catching up"
	}
	fmt.Fprintf(&b, "%s: %d changes in %d transactions, %.0f/s; %s\n", activity, changes, transactions,
		float64(changes-t.changes)/seconds, now.Sub(t.started).Round(time.Second))
	t.changes, t.drawn = changes, now
	return b.String()
}

// lag is the age of the newest transaction in the external database: how far the database's rows are behind, at most.
// lag is nothing when there is nothing to come.
func lag(s status.Status, now time.Time, idle bool) string {
	switch {
	case idle && s.Queued == 0:
		return "0s"
	case s.CommitTime.IsZero():
		return "-"
	}
	return max(now.Sub(s.CommitTime), 0).Round(time.Millisecond).String()
}
