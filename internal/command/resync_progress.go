package command

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"outflow/sink/ledger"
)

// copyProgress shows the progress of copies: a bar at a terminal, a line now and then elsewhere.
type copyProgress struct {
	out  io.Writer
	bars *mpb.Progress // nil: no terminal
	bar  *mpb.Bar

	mu    sync.Mutex
	now   copySum
	began time.Time
	told  time.Time
	state map[[2]string]ledger.State       // in the last line about the destination
	last  map[[2]string]ledger.Destination // the last look during the copy
}

// copySum is all copies together.
type copySum struct {
	databases, done int
	rows            int64
	total           int64 // about; -1 unknown
	rate            float64
	goesOn          bool // some destination is being copied; else no remaining time is told
}

func newCopyProgress(out io.Writer) *copyProgress {
	now := time.Now()
	p := &copyProgress{out: out, now: copySum{total: -1}, began: now, told: now, state: map[[2]string]ledger.State{}, last: map[[2]string]ledger.Destination{}}
	if t := terminal(out); t != nil {
		p.bars = mpb.New(mpb.WithOutput(t)) // with control sequences of its own, and with nothing but numbers
		p.bar = p.bars.New(0, mpb.BarStyle(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.sum().text() + " " })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.sum().left() })))
	}
	return p
}

func (p *copyProgress) sum() copySum {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// show takes over the notes.
func (p *copyProgress) show(all []ledger.Destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(all)
	if p.bar != nil {
		p.bar.SetTotal(max(p.now.total, p.now.rows, 1), false)
		p.bar.SetCurrent(p.now.rows)
		return
	}
	for _, d := range all {
		key := [2]string{d.Tenant, d.Name}
		if before, known := p.state[key]; known && before != d.State {
			fmt.Fprintf(p.out, "%s: %s %s\n", line(d.Tenant+"/"+d.Name), d.State, line(d.Reason))
		}
		p.state[key] = d.State
	}
	if time.Since(p.told) >= progressEvery {
		p.told = time.Now()
		fmt.Fprintln(p.out, p.now.text()+", "+p.now.left())
	}
}

// add sums up. Called with mu held.
func (p *copyProgress) add(all []ledger.Destination) {
	sum := copySum{databases: len(all)}
	for _, d := range all {
		key := [2]string{d.Tenant, d.Name}
		if d.State == ledger.Streaming { // everything there was
			sum.done++
			d.Copied = max(d.Copied, p.last[key].Copied)
			d.CopyTotal = d.Copied
		} else {
			p.last[key] = d
			sum.goesOn = sum.goesOn || d.State == ledger.Backfilling
		}
		sum.rows += d.Copied
		if d.CopyTotal < 0 || sum.total < 0 {
			sum.total = -1
		} else {
			sum.total += max(d.CopyTotal, d.Copied) // the estimate may be too small
		}
	}
	if took := time.Since(p.began).Seconds(); took > 0 {
		sum.rate = float64(sum.rows) / took
	}
	p.now = sum
}

func (s copySum) text() string {
	rows := fmt.Sprintf("%d rows", s.rows)
	if s.total >= 0 && s.done < s.databases {
		rows = fmt.Sprintf("%d of about %d rows", s.rows, s.total)
	}
	return fmt.Sprintf("%d of %d databases, %s", s.done, s.databases, rows)
}

// left is the rate, and the time left at the rate.
func (s copySum) left() string {
	text := fmt.Sprintf("%.0f rows/s", s.rate)
	if rows := s.total - s.rows; rows > 0 && s.rate > 0 && s.goesOn {
		text += fmt.Sprintf(", about %s left", time.Duration(float64(rows)/s.rate*float64(time.Second)).Round(time.Second))
	}
	return text
}

func (p *copyProgress) end() {
	if p.bars == nil {
		fmt.Fprintln(p.out, p.sum().text()+", "+p.sum().left())
		return
	}
	p.bar.Abort(false)
	p.bars.Wait()
}
