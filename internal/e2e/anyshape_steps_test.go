package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// shapeStep is one step of a history: a transaction on the primary, or something that is done to Outflow.
type shapeStep struct {
	kind string
	sql  []string      // of one transaction; a row change that a constraint refuses is rolled back alone
	ddl  bool          // the statements are run together
	do   string        // what is done instead, see world.do
	arg  int           // of do: which tenant
	wait time.Duration // before the step
	back bool          // it brings back what an earlier step took away, and the two sides cannot be compared before
}

func (s shapeStep) String() string {
	text := fmt.Sprintf("[%s after %s] %s", s.kind, s.wait, strings.Join(s.sql, ";\n        "))
	if s.do != "" {
		text += fmt.Sprintf("%s %d", s.do, s.arg)
	}
	return text
}

// stepper makes the steps of a history. They follow from the seed alone, never from what has happened.
type stepper struct {
	*rand.Rand
	shape *shape
	due   map[int][]shapeStep // what comes back, by the number of the step
	n     int                 // of the next step
	away  int                 // how much is away
	added int                 // columns so far
}

// newHistory makes a history with a judgement now and then, and at its end.
func newHistory(r *rand.Rand, s *shape, length int) (steps []shapeStep) {
	g := &stepper{Rand: r, shape: s, due: map[int][]shapeStep{}}
	for range 2 + r.IntN(3) {
		steps = append(steps, g.change())
	}
	steps = append(steps, shapeStep{kind: "start", do: "start"})
	if !chance(r, 4) { // else the first steps meet an Outflow that is just starting
		steps = append(steps, shapeStep{kind: "judge", do: "judge"})
	}
	since := 0
	for g.n = 0; g.n < length || len(g.due) > 0; g.n++ {
		for _, back := range g.due[g.n] {
			steps = append(steps, g.timed(back))
			if back.back {
				g.away--
			}
		}
		delete(g.due, g.n)
		if g.n < length {
			steps = append(steps, g.timed(g.step()))
			since++
		}
		if since >= 5 && g.away == 0 && chance(r, 3) {
			steps, since = append(steps, shapeStep{kind: "judge", do: "judge"}), 0
		}
	}
	return append(steps, shapeStep{kind: "judge", do: "last judge"})
}

func (g *stepper) timed(s shapeStep) shapeStep {
	if chance(g.Rand, 2) {
		s.wait = time.Duration(g.IntN(300)) * time.Millisecond
	}
	if chance(g.Rand, 30) {
		s.wait = 6 * time.Second // longer than what Outflow looks at every few seconds
	}
	return s
}

// later plans what comes back a few steps later.
func (g *stepper) later(s shapeStep) {
	at := g.n + 1 + g.IntN(4)
	s.ddl = true
	g.due[at] = append(g.due[at], s)
	if s.back {
		g.away++
	}
}

// step is the next step: half of them are changes of rows.
func (g *stepper) step() shapeStep {
	switch n := g.IntN(20); {
	case n < 10:
		return g.change()
	case n < 14:
		return g.outflow()
	case n < 18:
		return g.alter()
	}
	return g.policy()
}

func (g *stepper) table() *shapeTable { return pick(g.Rand, g.shape.tables) }

// tenantIs is SQL of one of the tenants, in quotes.
func (g *stepper) tenantIs(i int) string { return "'" + g.shape.tenant.tenants[i] + "'" }

// change is a transaction of changes of rows.
func (g *stepper) change() shapeStep {
	s := shapeStep{kind: "rows"}
	for range 1 + g.IntN(4) {
		s.sql = append(s.sql, g.rows()...)
	}
	if chance(g.Rand, 15) {
		s.kind, s.sql = "rollback", append(s.sql, "rollback")
	}
	return s
}

// rows are the statements of one change.
func (g *stepper) rows() []string {
	t := g.table()
	tenant, from := g.IntN(len(g.shape.tenant.tenants)), g.IntN(60)
	to := from + g.IntN(12)
	where := fmt.Sprintf("tenant = %s AND num BETWEEN %d AND %d", g.tenantIs(tenant), from, to)
	update := func(set, where string) string { return fmt.Sprintf("UPDATE %s SET %s WHERE %s", t.sql(), set, where) }
	moved := func(by int) string {
		return strings.Join(append(t.set(t.columns[:t.keys], fmt.Sprintf("num + %d", by)), fmt.Sprintf("num = num + %d", by)), ", ")
	}
	payload := t.columns[t.keys+1:]
	switch g.IntN(14) {
	case 0, 1, 2:
		return []string{g.insert(t, tenant, from, to)}
	case 3:
		return []string{g.insert(t, tenant, 100, 100+pick(g.Rand, []int{50, 300, 900}))}
	case 4, 5:
		return []string{update(strings.Join(t.set(payload, fmt.Sprintf("num * 7 + %d", g.IntN(100))), ", "), where)}
	case 6: // what is stored out of line stays as it is
		rest := slices.DeleteFunc(slices.Clone(payload), func(c shapeColumn) bool { return c.toast })
		if len(rest) == 0 {
			return []string{update("num = num + 0", where)}
		}
		return []string{update(strings.Join(t.set(rest, fmt.Sprintf("num * 3 + %d", g.IntN(100))), ", "), where)}
	case 7, 8:
		return []string{update(moved(pick(g.Rand, []int{1, 2, 500, 1000})), where)}
	case 9: // two rows exchange their keys
		one := fmt.Sprintf("tenant = %s AND num = ", g.tenantIs(tenant))
		d := to - from + 1
		return []string{update(moved(50000), one+fmt.Sprint(from)), update(moved(-d), one+fmt.Sprint(to+1)), update(moved(d-50000), one+fmt.Sprint(from+50000))}
	case 10:
		return []string{update("tenant = "+g.tenantIs(g.IntN(len(g.shape.tenant.tenants))), where)}
	case 11:
		return []string{fmt.Sprintf("DELETE FROM %s WHERE %s", t.sql(), where)}
	case 12: // gone and there again
		return []string{fmt.Sprintf("DELETE FROM %s WHERE %s", t.sql(), where), g.insert(t, tenant, from, to)}
	}
	if chance(g.Rand, 3) {
		return []string{"TRUNCATE " + t.sql() + " CASCADE", g.insert(t, tenant, from, to)}
	}
	return []string{update(moved(1), "tenant = "+g.tenantIs(tenant))} // all keys of a tenant, by one: only a deferrable key takes it
}

// set are the assignments that give columns the values of a number.
func (t *shapeTable) set(columns []shapeColumn, number string) (all []string) {
	for _, c := range columns {
		if c.name != "parent" {
			all = append(all, identifier(c.name)+" = "+c.of(number))
		}
	}
	return all
}

// insert adds the rows with the numbers from one to another, where they are not there.
func (g *stepper) insert(t *shapeTable, tenant, from, to int) string {
	var names, values []string
	for _, c := range t.columns {
		names = append(names, identifier(c.name))
		if c.name == "parent" {
			values = append(values, fmt.Sprintf("(SELECT %s FROM %s p WHERE p.tenant = %s AND p.num %% 4 = x %% 4 ORDER BY p.num LIMIT 1)",
				identifier(t.parent.columns[0].name), t.parent.sql(), g.tenantIs(tenant)))
			continue
		}
		values = append(values, c.of("x"))
	}
	sql := fmt.Sprintf("INSERT INTO %s (tenant, %s) SELECT %s, %s FROM generate_series(%d, %d) x", t.sql(), strings.Join(names, ", "),
		g.tenantIs(tenant), strings.Join(values, ", "), from, to)
	if !strings.HasSuffix(t.identity, "deferrable") {
		sql += " ON CONFLICT DO NOTHING"
	}
	return sql
}

// outflow is something that happens to Outflow, or that a person asks of it.
func (g *stepper) outflow() shapeStep {
	what := pick(g.Rand, []string{"resync", "resync", "resync", "resync", "kill", "kill", "restart", "end primary sessions", "end target sessions", "empty target", "pause"})
	s := shapeStep{kind: what, do: what, arg: g.IntN(2)}
	if what == "pause" {
		at := g.n + 1 + g.IntN(4)
		g.due[at] = append(g.due[at], shapeStep{kind: "resume", do: "resume", arg: s.arg})
	}
	return s
}
