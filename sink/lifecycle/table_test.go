package lifecycle

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of transitions into doc.go")

// played are the lives in which each event happens, in all histories.
type played [events]map[Life]bool

func (p *played) add(l Life, e Event) {
	if p[e] == nil {
		p[e] = map[Life]bool{}
	}
	p[e][l] = true
}

// facts are the facts of a life beside its phases, by name.
func facts(l *Life) map[string]bool {
	return map[string]bool{"due": l.Due, "paused": l.Paused, "current": l.Current, "noting": l.Noting, "again": l.Again, "met": l.Met, "visiting": l.Visiting,
		"refused": l.Refused, "unusable": l.Unusable}
}

var (
	workNames   = []string{"resting", "working", "waiting"}
	streamNames = []string{"unread", "attached", "detached", "removed"}
	healthNames = []string{"well", "failing", "halted"}
	renewNames  = []string{"keep", "reconnect", "discard"}
	actionNames = []string{"stopWait", "hangUp", "rewind", "drop", "respecify", "record", "wait", "cancel", "start"}
)

// transitions are the changes that an event makes in some life or other: of the phases, of the facts, and the actions, with "?" where the event
// does not always ask for the action.
func transitions(e Event, in map[Life]bool) string {
	changed := map[string]bool{}
	asked := make([]int, len(actionNames))
	for l := range in {
		to, acts := l.Next(e)
		for _, phase := range []struct {
			names    []string
			from, to int
		}{
			{workNames, int(l.Work), int(to.Work)}, {streamNames, int(l.Stream), int(to.Stream)}, {healthNames, int(l.Health), int(to.Health)},
			{renewNames, int(l.Renew), int(to.Renew)},
		} {
			if phase.from != phase.to {
				changed[fmt.Sprintf("%s→%s", phase.names[phase.from], phase.names[phase.to])] = true
			}
		}
		before := facts(&l)
		for name, is := range facts(&to) {
			if is != before[name] {
				changed[map[bool]string{true: "", false: "not "}[is]+name] = true
			}
		}
		for i := range actionNames {
			if acts.Has(1 << i) {
				asked[i]++
			}
		}
	}
	var all []string
	for _, names := range [][]string{workNames, streamNames, healthNames, renewNames} {
		for _, from := range names {
			for _, to := range names {
				if arrow := from + "→" + to; changed[arrow] {
					all = append(all, arrow)
					delete(changed, arrow)
				}
			}
		}
	}
	rest := make([]string, 0, len(changed))
	for name := range changed {
		rest = append(rest, name)
	}
	slices.Sort(rest)
	all = append(all, rest...)
	return strings.TrimPrefix(strings.Join(all, ", ")+actionsText(asked, len(in)), "; ")
}

// actionsText are the actions, each asked for in so many of n lives.
func actionsText(asked []int, n int) string {
	var acts []string
	for i, in := range asked {
		switch in {
		case 0:
		case n:
			acts = append(acts, actionNames[i])
		default:
			acts = append(acts, actionNames[i]+"?")
		}
	}
	if len(acts) == 0 {
		return ""
	}
	return "; " + strings.Join(acts, " ")
}

// The table in doc.go is made of the code: every event, its meaning, and its transitions.
func (p *played) table() string {
	var b strings.Builder
	for e := range Event(events) {
		fmt.Fprintf(&b, "//\t%s: %s\n//\t\t%s\n", e, rules[e].means, transitions(e, p[e]))
	}
	return b.String()
}

// checkTable compares the table in doc.go with the code. With -update the table is written.
func (p *played) checkTable(t *testing.T) {
	t.Helper()
	const begin, end = "// # Events and transitions\n//\n", "//\npackage lifecycle\n"
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	written, _, closed := strings.Cut(rest, strings.TrimPrefix(end, "//\n"))
	if !found || !closed {
		t.Fatal("doc.go has no table")
	}
	intro, _, _ := strings.Cut(written, "//\t")
	wanted := intro + p.table()
	if written == wanted {
		return
	}
	if *update {
		if err := os.WriteFile("doc.go", []byte(before+begin+wanted+strings.TrimPrefix(end, "//\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table in doc.go is not that of the code: go test ./sink/lifecycle -update writes the table")
	for e := range Event(events) {
		if row := fmt.Sprintf("//\t\t%s\n", transitions(e, p[e])); !strings.Contains(written, row) {
			t.Logf("%s: %s", e, row)
		}
	}
}
