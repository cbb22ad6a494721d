package command

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"outflow/internal/verification"
)

// verifyProgress shows the progress of verify: a line that moves at a terminal, a line now and then elsewhere. The number of
// rows is not known before the rows are read.
type verifyProgress struct {
	mu    sync.Mutex
	out   io.Writer
	bars  *mpb.Progress // nil: no terminal
	bar   *mpb.Bar
	began time.Time
	told  time.Time
	total int
	done  int
	read  int
}

// progressEvery is the time between lines where there is no terminal.
const progressEvery = 5 * time.Second

func newVerifyProgress(out io.Writer, destinations int) *verifyProgress {
	now := time.Now()
	p := &verifyProgress{out: out, began: now, told: now, total: destinations}
	if t := terminal(out); t != nil {
		p.bars = mpb.New(mpb.WithOutput(t)) // with control sequences of its own, and with nothing but numbers
		p.bar = p.bars.New(0, mpb.SpinnerStyle(), mpb.PrependDecorators(
			decor.Any(func(decor.Statistics) string { return p.databases() }), decor.CurrentNoUnit(", %d rows recomputed ")),
			mpb.AppendDecorators(decor.AverageSpeed(0, "%.0f rows/s")))
	}
	return p
}

func (p *verifyProgress) databases() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("%d of %d databases", p.done, p.total)
}

// rows adds to the number of recomputed rows.
func (p *verifyProgress) rows(n int) {
	p.mu.Lock()
	p.read += n
	if p.bar == nil && time.Since(p.told) >= progressEvery {
		p.told = time.Now()
		fmt.Fprintf(p.out, "%d of %d databases, %d rows recomputed, %.0f rows/s\n", p.done, p.total, p.read,
			float64(p.read)/time.Since(p.began).Seconds())
	}
	p.mu.Unlock()
	if p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// waiting shows the reason for a comparison's wait.
func (p *verifyProgress) waiting(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out
	if p.bars != nil {
		out = &screen{p.bars} // above the bar
	}
	fmt.Fprintln(out, line(what))
}

// destination notes that one is done.
func (p *verifyProgress) destination(d *verification.Destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	if p.bar == nil {
		fmt.Fprintf(p.out, "%d of %d databases: %s: %s\n", p.done, p.total, line(d.Tenant+"/"+d.Name), d.Result)
	}
}

func (p *verifyProgress) end() {
	if p.bars != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}
