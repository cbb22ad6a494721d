package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	godiff "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/admin/monitor"
	"outflow/internal/install"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/internal/verification"
	"outflow/sink/ledger"
)

// The bounds of a judgement: how long the two sides may differ while nothing says why, and how long a named cause must last.
const (
	judgeWithin  = 60 * time.Second
	causeLasts   = 2 * time.Second
	lastForGood  = 10 * time.Second // at the end of a history, when all is put back
	processStops = 40 * time.Second
)

// liveProcess is an Outflow process that may end by itself.
type liveProcess struct {
	*process
	ended chan struct{}
}

func (p *player) launch(args ...string) {
	if p.role != "" {
		p.cfg.Source.DSN = secret.New(p.as(p.role))
	}
	if p.file == "" {
		p.file = p.configFile()
	}
	run := &liveProcess{launch(p.tb, append([]string{"run", "--config", p.file}, args...)...), make(chan struct{})}
	go func() {
		_ = run.cmd.Wait()
		close(run.ended)
	}()
	p.run = run
}

// gone reports whether the process has ended.
func (l *liveProcess) gone() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// stop ends the process by a signal, and by kill -9 where that takes too long, which it tells.
func (l *liveProcess) stop(signal syscall.Signal) error {
	_ = l.cmd.Process.Signal(signal)
	select {
	case <-l.ended:
		return nil
	case <-time.After(processStops):
		_ = l.cmd.Process.Kill()
		<-l.ended
		return fmt.Errorf("the process did not end within %s of SIGTERM", processStops)
	}
}

// last is what the process has ended with.
func (l *liveProcess) last() string {
	out := l.out.String()
	return strings.TrimSpace(out[max(0, strings.LastIndex(out, "outflow: ")):])
}

func (p *player) end() {
	if p.run != nil && !p.run.gone() {
		_ = p.run.stop(syscall.SIGKILL)
	}
}

// operator does what a person does when the process is not there: installs what is missing, and starts it.
func (p *player) operator() {
	p.install()
	if p.run != nil && strings.Contains(p.run.out.String(), "--slot-reset") {
		p.launch("--slot-reset")
		return
	}
	p.launch()
}

// createTables is outflow init, which also gives the role its rights on tables that were made again.
func (p *player) install() {
	p.init = ""
	if p.role == "" {
		return
	}
	cfg := *p.cfg
	cfg.Source.DSN = secret.New(p.source)
	if err := install.Apply(context.WithoutCancel(p.tb.Context()), &strings.Builder{}, &cfg, p.role); err != nil {
		p.init = fmt.Sprintf("outflow init: %v", err)
		p.note("    %s", p.init)
	}
}

// play runs one step. It returns false where the history cannot go on.
func (p *player) play(s shapeStep) bool {
	if s.wait > 0 {
		timer := time.NewTimer(s.wait)
		<-timer.C // a random moment of Outflow's work, which is the point of the test
	}
	p.note("%s %s", time.Now().Format("15:04:05.000"), s)
	p.tally.count(p.tally.steps, "step: "+s.kind)
	if s.do != "" {
		return p.do(s)
	}
	p.byHand = p.byHand || strings.Contains(strings.Join(s.sql, ""), "PUBLICATION")
	err := p.sqlChange(s)
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
	case errors.As(err, &pgErr) && pgErr.Code == "55000" && strings.Contains(pgErr.Message, "replica identity") && !p.byHand:
		p.fail("publishing the tables has broken the application: %v", err)
		return false
	default:
		p.note("    primary: %v", err)
		if !refusedByConstraint(err) {
			p.tally.count(p.tally.failed, "failed: "+s.kind+": "+cause(err.Error()))
		}
	}
	return true
}

// do is a step that is not SQL of the application.
func (p *player) do(s shapeStep) bool {
	if s.do == "judge" || s.do == "last judge" {
		return p.judge(s.do == "last judge")
	}
	if s.do == "start" {
		p.operator()
		return true
	}
	if p.run.gone() {
		return true // until a judgement
	}
	target := p.targets[s.arg%len(p.targets)]
	destination := ledger.Switch{Kind: ledger.SwitchDestination, Tenant: p.shape.tenant.tenants[s.arg%len(p.targets)], Name: "main", Off: s.do == "pause", By: "shapes", Reason: "history"}
	var err error
	switch s.do {
	case "kill", "restart", "empty target":
		signal := syscall.SIGTERM
		if s.do == "kill" {
			signal = syscall.SIGKILL
		}
		if err := p.run.stop(signal); err != nil {
			p.fail("%v", err)
			return false
		}
		if s.do == "empty target" {
			exec(p.tb, connect(p.tb, target), "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
			p.extend(target)
		}
		p.launch()
	case "resync":
		err = p.stateStore(func(state *ledger.Store) error {
			_, err := state.RequestResync(p.tb.Context(), destination.Tenant, "main", "shapes", "history")
			return err
		})
	case "pause", "resume":
		err = p.stateStore(func(state *ledger.Store) error { return state.SetSwitch(p.tb.Context(), destination) })
	case "end primary sessions", "end target sessions":
		dsn := p.source
		if s.do == "end target sessions" {
			dsn = target
		}
		query(p.tb, dsn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outflow' AND datname = current_database()`)
	}
	if err != nil { // such as a schema that is not there yet
		p.note("    %v", err)
		p.tally.count(p.tally.failed, "failed: "+s.kind+": "+cause(err.Error()))
	}
	return true
}

func (p *player) stateStore(f func(*ledger.Store) error) error {
	state := &ledger.Store{Slot: p.cfg.Source.Slot, Connect: p.primary().Connect}
	defer state.Close()
	return f(state)
}

// judge waits until both sides are equal, or until Outflow says why they are not and goes on saying so. It returns false where the
// promise is broken.
func (p *player) judge(last bool) bool {
	patience := causeLasts
	if last {
		patience = lastForGood
		p.install()
	}
	deadline := time.Now().Add(judgeWithin)
	var named string
	var since time.Time
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for restarts := 0; ; {
		diff, why := p.compare()
		if p.run.gone() {
			if p.crashed() {
				p.fail("the process crashed")
				return false
			}
			why = cmp.Or(p.init, "ended: "+p.run.last())
			if restarts < 2 {
				p.note("    %s", why)
				restarts++
				p.operator()
				continue
			}
			patience = 0
		}
		switch now := time.Now(); {
		case diff == "" && last:
			return p.verified(verification.Equal) && p.judged("")
		case diff == "":
			return p.judged("")
		case why == "":
			named = ""
		case named == "":
			named, since = why, now
		case now.Sub(since) >= patience && last:
			return p.verified(verification.Different) && p.judged(why)
		case now.Sub(since) >= patience:
			return p.judged(why)
		}
		if named == "" && time.Now().After(deadline) {
			p.fail("after %s both sides differ, and nothing says why:\n%s\n%s", judgeWithin, p.states(), diff)
			return false
		}
		<-tick.C
	}
}

// verified asks outflow verify, which may be unable to compare, but must not claim the contrary of what is so.
func (p *player) verified(result verification.Result) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.tb.Context()), 20*time.Second)
	defer cancel()
	report, err := compare(ctx, p.cfg, pipeline.Selection{}, verification.Options{})
	if err != nil || report.Result == verification.Unknown {
		p.note("    outflow verify could not compare: %v", err)
		return true
	}
	if report.Result != result {
		p.fail("outflow verify says %s, and both sides are %s: %s", report.Result, result, p.refusal)
		return false
	}
	return true
}

func (p *player) crashed() bool {
	out := p.run.out.String()
	return strings.Contains(out, "panic:") || strings.Contains(out, "DATA RACE")
}

func (p *player) judged(why string) bool {
	p.refusal = why
	if why == "" {
		p.note("    equal")
		p.tally.mu.Lock()
		defer p.tally.mu.Unlock()
		p.tally.equal++
		return true
	}
	p.note("    refused: %s", why)
	p.tally.count(p.tally.refused, "refused: "+cause(why))
	return true
}

// compare tells how the two sides differ, and why, as far as Outflow says so of every destination that differs. The states are
// asked for first: what they say must be true of what is found afterwards.
func (p *player) compare() (diff, why string) {
	states := p.api()
	unnamed := false
	for i, dsn := range p.targets {
		tenant := p.shape.tenant.tenants[i]
		for _, t := range p.shape.tables {
			d := p.difference(t, tenant, dsn)
			if d == "" {
				continue
			}
			diff += fmt.Sprintf("%s of tenant %q (-primary +external):\n%.1500s\n", t.target, tenant, d)
			cause := namedCause(states, tenant)
			unnamed = unnamed || cause == ""
			why = cause
		}
	}
	if unnamed {
		why = ""
	}
	return diff, why
}

// difference compares one table of one tenant, by SQL that is not Outflow's.
func (p *player) difference(t *shapeTable, tenant, dsn string) string {
	if query(p.tb, dsn, `SELECT to_regclass($1)`, t.target)[0] == "NULL" {
		return "the external database has no such table"
	}
	want := query(p.tb, p.source+"&timezone=UTC", t.expected(), tenant)
	got := query(p.tb, dsn+"&timezone=UTC", t.actual())
	slices.Sort(want)
	slices.Sort(got)
	return godiff.Diff(want, got)
}

// namedCause is the cause that Outflow gives for a destination, "" where it says that all is well, or nothing, or that it copies.
func namedCause(states []monitor.Destination, tenant string) string {
	for _, d := range states {
		if strings.TrimRight(d.Tenant, " ") != strings.TrimRight(tenant, " ") || d.State == string(ledger.Streaming) || d.State == string(ledger.Backfilling) {
			continue
		}
		switch {
		case d.Error != nil:
			return d.State + ": " + d.Error.Message
		case d.Reason != nil:
			return d.State + ": " + *d.Reason
		}
	}
	return ""
}

// api asks the process for its destinations; none where it does not answer.
func (p *player) api() []monitor.Destination {
	r, err := http.NewRequestWithContext(p.tb.Context(), http.MethodGet, "http://"+p.cfg.Admin.Listen+"/api/destinations", nil)
	must(p.tb, err)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	answer, err := client.Do(r)
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	var page monitor.Page
	if err := json.NewDecoder(answer.Body).Decode(&page); err != nil {
		return nil
	}
	return page.Destinations
}

// states is what the process says of itself, for a failure's message.
func (p *player) states() string {
	var lines []string
	for _, d := range p.api() {
		lines = append(lines, fmt.Sprintf("%s/%s is %s %s", d.Tenant, d.Name, d.State, namedCause([]monitor.Destination{d}, d.Tenant)))
	}
	return strings.Join(lines, "\n")
}
