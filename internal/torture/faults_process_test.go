package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"

	"outflow/internal/failpoint"
)

// processFaults are the faults of outflow itself.
var processFaults = []fault{
	{"kill -9", 6, seconds(0, 1), killProcess},
	{"rolling update", 3, seconds(1, 4), rollingUpdate},
	{"freeze and takeover", 3, seconds(4, 9), freeze},
	{"short freeze", 2, seconds(0.2, 2), shortFreeze},
	{"restart", 2, seconds(0, 1), restart},
	{"failpoint", 10, seconds(1, 4), failAt},
	{"failpoint in a reset", 1, seconds(1, 4), failInReset},
}

var errNobodyReads = errors.New("nobody reads the slot")

func killProcess(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	s := w.fleet.reader(ctx)
	if s == nil {
		return nil, errNobodyReads
	}
	return nil, s.signal(syscall.SIGKILL)
}

// rollingUpdate has a new process stand by, then ends the old process in order.
func rollingUpdate(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	old := w.fleet.reader(ctx)
	if old == nil {
		return nil, errNobodyReads
	}
	next := w.fleet.other(old)
	next.want()
	if err := next.standsBy(ctx); err != nil {
		next.release()
		return nil, err
	}
	old.release()
	return nil, nil
}

// freeze stops the reading process long enough for the primary to end the session and for another process to take over, and thaws
// the process then. The heal leaves a single process.
func freeze(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	frozen := w.fleet.reader(ctx)
	if frozen == nil {
		return nil, errNobodyReads
	}
	next, keep := w.fleet.other(frozen), r.IntN(2) == 0
	next.want()
	if err := next.standsBy(ctx); err != nil {
		next.release()
		return nil, err
	}
	err := frozen.signal(syscall.SIGSTOP)
	return func(context.Context) error {
		_ = frozen.signal(syscall.SIGCONT)
		if keep {
			next.release()
		} else {
			frozen.release()
		}
		return nil
	}, err
}

func shortFreeze(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	s := w.fleet.reader(ctx)
	if s == nil {
		return nil, errNobodyReads
	}
	return func(context.Context) error {
		_ = s.signal(syscall.SIGCONT)
		return nil
	}, s.signal(syscall.SIGSTOP)
}

// restart ends the process by SIGTERM; the seat starts another process.
func restart(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	s := w.fleet.reader(ctx)
	if s == nil {
		return nil, errNobodyReads
	}
	return nil, s.signal(syscall.SIGTERM)
}

// other is the seat beside a seat.
func (f *fleet) other(s *seat) *seat {
	if f.seats[0] == s {
		return f.seats[1]
	}
	return f.seats[0]
}

// standsBy waits until the seat's process is up: a standby, or the reader where the slot has become free.
func (s *seat) standsBy(ctx context.Context) error {
	for {
		if p := s.present(); p != nil {
			return p.said(ctx, "waiting as standby")
		}
		if !pause(ctx, pollEvery) {
			return errors.New("the process does not start")
		}
	}
}

// failpoints are the points of a running process, or else the points of --slot-reset.
func failpoints(ofReset bool) (some []failpoint.Info) {
	for _, p := range failpoint.All() {
		if strings.HasPrefix(p.Name, "replication/reset-") == ofReset {
			some = append(some, p)
		}
	}
	return some
}

// failAt kills the process, and has the next process killed, delayed or failed at a point of the program.
func failAt(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	p, n := pick(r, failpoints(false)), 1+r.IntN(6)
	actions := []string{"kill", "kill", "kill", fmt.Sprintf("sleep:%dms", 100+r.IntN(2000))}
	if p.Fails {
		actions = append(actions, "error", "error")
	}
	does := fmt.Sprintf("%s=%s@%d", p.Name, pick(r, actions), n)
	s := w.fleet.reader(ctx)
	if s == nil {
		return nil, errNobodyReads
	}
	s.arm(does, false)
	return nil, s.signal(syscall.SIGKILL)
}

// failInReset drops the slot, and kills the next process in the middle of --slot-reset.
func failInReset(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	does := pick(r, failpoints(true)).Name + "=kill"
	s := w.fleet.reader(ctx)
	if s == nil {
		return nil, errNobodyReads
	}
	s.arm(does, true)
	return dropSlot(ctx, w, r)
}
