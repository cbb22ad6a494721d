package failpoint

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The actions.
const (
	actKill  = "kill"
	actStop  = "stop"
	actPanic = "panic"
	actError = "error"
	actSleep = "sleep"
)

// plan is the action of one point.
type plan struct {
	action string
	sleep  time.Duration // of actSleep
	at     int           // the first hit that counts, from 1; 0 is every hit
	later  bool          // and all hits after
}

// counts reports whether the n-th hit, from 1, is a hit of the plan.
func (p plan) counts(n int) bool { return p.at == 0 || n == p.at || p.later && n > p.at }

func (p plan) String() string {
	text := p.action
	if p.action == actSleep {
		text += ":" + p.sleep.String()
	}
	if p.at > 0 {
		text += "@" + strconv.Itoa(p.at)
	}
	if p.later {
		text += "+"
	}
	return text
}

// parse reads the value of OUTFLOW_FAILPOINTS.
func parse(text string) (map[Point]plan, error) {
	plans := map[Point]plan{}
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		name, does, ok := strings.Cut(entry, "=")
		if !ok {
			return nil, fmt.Errorf("%q: expected POINT=ACTION, or list alone", entry)
		}
		point, ok := named(name)
		if !ok {
			return nil, fmt.Errorf("there is no failpoint %q: OUTFLOW_FAILPOINTS=list prints all", name)
		}
		if _, twice := plans[point]; twice {
			return nil, fmt.Errorf("%s has two actions", name)
		}
		p, err := parsePlan(does)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if p.action == actError && !point.Info().Fails {
			return nil, fmt.Errorf("%s cannot fail with an error", name)
		}
		plans[point] = p
	}
	return plans, nil
}

func parsePlan(text string) (p plan, err error) {
	does, when, counted := strings.Cut(text, "@")
	if counted {
		when, p.later = strings.CutSuffix(when, "+")
		if p.at, err = strconv.Atoi(when); err != nil || p.at < 1 {
			return p, fmt.Errorf("%q: expected @N or @N+ with N from 1", text)
		}
	}
	action, duration, has := strings.Cut(does, ":")
	p.action = action
	switch action {
	case actSleep:
		if p.sleep, err = time.ParseDuration(duration); err != nil || p.sleep <= 0 {
			return p, fmt.Errorf("%q: expected a duration, as in sleep:500ms", text)
		}
		return p, nil
	case actKill, actStop, actPanic, actError:
		if !has {
			return p, nil
		}
	}
	return p, fmt.Errorf("%q: expected kill, stop, panic, error or sleep:DURATION", text)
}
