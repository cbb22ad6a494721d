//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"
)

// plans and log are set once, before main.
var (
	plans map[Point]plan
	log   *os.File // nil: OUTFLOW_FAILPOINTS_HITS is not set
	hits  [points]atomic.Int64
)

func init() {
	text, file := os.Getenv("OUTFLOW_FAILPOINTS"), os.Getenv("OUTFLOW_FAILPOINTS_HITS")
	os.Unsetenv("OUTFLOW_FAILPOINTS") // the configuration refuses variables without a meaning
	os.Unsetenv("OUTFLOW_FAILPOINTS_HITS")
	if text == "list" {
		list()
		os.Exit(0)
	}
	var err error
	if plans, err = parse(text); err == nil && file != "" {
		log, err = os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "OUTFLOW_FAILPOINTS:", err)
		os.Exit(2)
	}
}

func list() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, i := range All() {
		actions := "kill stop panic sleep"
		if i.Fails {
			actions += " error"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", i.Name, actions, i.Where)
	}
	_ = w.Flush()
}

// Error is the error of a failpoint.
type Error struct{ Point Point }

func (e *Error) Error() string { return "failpoint " + e.Point.String() }

// Hit does the action of a point that cannot fail. Safe for concurrent use.
func Hit(p Point) { _ = Fail(p) }

// Fail does the action of a point, and returns the point's error. The error is nil unless the action is "error". Safe for concurrent use.
func Fail(p Point) error {
	n := int(hits[p].Add(1))
	if n == 1 && log != nil {
		fmt.Fprintln(log, p)
	}
	does, planned := plans[p]
	if !planned || !does.counts(n) {
		return nil
	}
	says := fmt.Sprintf("%s=%s", p, does)
	if log != nil {
		fmt.Fprintln(log, says)
	}
	fmt.Fprintf(os.Stderr, "failpoint %s at hit %d\n", says, n)
	switch does.action {
	case actKill:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	case actStop:
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case actPanic:
		panic(&Error{p})
	case actError:
		return &Error{p}
	case actSleep:
		time.Sleep(does.sleep)
	}
	return nil
}
