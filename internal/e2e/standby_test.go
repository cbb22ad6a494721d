package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"outflow/admin/monitor"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// freeAddress is where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// errorsAreNoted expects the errors of TestStandbyShowsWhatIsNoted, of which the halted destination's is one.
func (s *site) errorsAreNoted(halted monitor.Detail) {
	s.tb.Helper()
	if f := halted.Error; f == nil || f.Class != "row" || *f.SQLState != "P0001" || len(halted.History) != 1 || halted.History[0].State != "halted" {
		s.tb.Errorf("the noted error is %+v, the history %+v", f, halted.History)
	}
	var recent struct{ Errors []monitor.Incident }
	if s.call("GET", "/api/errors", "", &recent); len(recent.Errors) != 2 || recent.Errors[0].Last.IsZero() ||
		!strings.Contains(recent.Errors[0].Failure.Message+recent.Errors[1].Failure.Message, "an exception was raised") {
		s.tb.Errorf("the noted errors are %+v", recent.Errors)
	}
}

// A standby shows what the process that reads the slot has noted, and names that process: in the API, on the page, in the metrics, and
// through outflow status, which says the same where no process answers.
func TestStandbyShowsWhatIsNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	w.mapping("refusing", refusing)
	w.destination(tenant1, "main")
	w.destination(tenant2, "poisoned", "refusing")
	w.gated(tenant3, "away")
	w.cfg.Admin.TenantMetrics = true
	first := w.serve()
	first.destinationIs(tenant1, "main", ledger.Streaming)
	first.destinationIs(tenant2, "poisoned", ledger.Streaming)
	w.user(tenant2, "00000000-0000-4000-8000-000000000002", "<refused>")
	w.waitState(tenant2, "poisoned", "halted")
	w.waitState(tenant3, "away", "retrying")
	w.waitState(tenant1, "main", "streaming")

	address, file := freeAddress(t), w.configFile()
	second := launch(t, "run", "--config", file, "--set", "admin.listen="+address, "--set", "admin.tenant_metrics=true")
	second.says("waiting as standby")
	s := &site{running: &running{tb: t}, url: "http://" + address}
	host, err := os.Hostname()
	must(t, err)
	var status monitor.Status
	waitFor(t, "the notes", func() error {
		status = monitor.Status{}
		if s.call("GET", "/api/status", "", &status); status.InSync == nil {
			return fmt.Errorf("%+v", status)
		}
		return nil
	})
	if n := status.Noted; n == nil || n.Reader == nil || *n.Reader.Host != host || *n.Reader.Process != os.Getpid() || *n.Reader.Application != "outflow" {
		t.Errorf("the notes are %+v", n)
	}
	if status.Role != "standby" || status.State != monitor.Degraded || !status.Ready || *status.InSync != 1 || status.Total != 3 || status.Destinations["halted"] != 1 ||
		status.Destinations["retrying"] != 1 || status.Lag.Seconds != nil || status.Throughput.Rows != nil {
		t.Errorf("the status is %+v", status)
	}
	var page monitor.Page
	if s.call("GET", "/api/destinations?limit=2", "", &page); page.Total != 3 || page.Destinations[0].State != "halted" || page.Destinations[1].State != "retrying" ||
		page.Destinations[0].LagSeconds != nil || !strings.Contains(*page.Destinations[0].Reason, "an exception was raised") {
		t.Errorf("the destinations are %+v", page)
	}
	halted := s.destinationIs(tenant2, "poisoned", ledger.Halted)
	if now := first.destinationIs(tenant2, "poisoned", ledger.Halted); halted.Since == nil || now.Since.Sub(*halted.Since).Abs().Seconds() > 2 {
		t.Errorf("halted since %s, noted as %s", now.Since, halted.Since)
	}
	streaming, now := s.destinationIs(tenant1, "main", ledger.Streaming), first.destinationIs(tenant1, "main", ledger.Streaming)
	if m := streaming.Mappings; len(m) != 2 || m[1].Name != "users" || m[1].SequenceID == nil || *m[1].SequenceID != *now.Mappings[1].SequenceID ||
		!m[1].SyncedAt.Equal(*now.Mappings[1].SyncedAt) || m[1].PendingChanges != nil || *now.Mappings[1].PendingChanges != 0 {
		t.Errorf("the mappings are %+v, noted as %+v", now.Mappings, m)
	}
	contains(t, s.get("/"), "1 of 3 in sync", host, "this process is a standby", "an exception was raised")
	s.errorsAreNoted(halted)
	metrics := s.get("/metrics")
	contains(t, metrics, `outflow_role{role="standby"} 1`, `outflow_destinations{state="halted"} 1`, `outflow_destinations_in_sync 1`, `outflow_slot_reader{host="`+host+`"} 1`,
		`outflow_destination_state{destination="poisoned",state="halted",tenant="`+tenant2+`"} 1`)
	for _, green := range []string{"outflow_lag_seconds", "outflow_queue_bytes", "outflow_applied_rows_total", "outflow_destination_lag_seconds"} {
		if strings.Contains(metrics, "\n"+green) {
			t.Errorf("a standby has %s of its own", green)
		}
	}
	said := []string{"1 of 3 in sync", host + " (process ", "reads the slot", tenant2 + "/poisoned", "halted"}
	contains(t, exits(t, 0, "status", "--config", file, "--set", "admin.listen="+address), append(said, "standby")...)
	contains(t, exits(t, 0, "status", "--config", file, "--set", "admin.listen=127.0.0.1:1"), said...)
	var noted statusAnswer
	must(t, json.Unmarshal([]byte(exits(t, 0, "status", "-o", "json", "--config", file, "--set", "admin.listen=127.0.0.1:1")), &noted))
	if noted.Status.Noted == nil || *noted.Status.Noted.Reader.Host != host {
		t.Errorf("the status is %+v", noted.Status)
	}

	t.Run("page", func(t *testing.T) {
		b := newBrowser(t, s.url)
		b.visit("/")
		b.run(chromedp.SendKeys("#token", adminToken), chromedp.Submit("#token"))
		b.shows(".banner h1", "1 of 3 in sync")
		b.shows(".banner h1", host+" (process ")
		b.shows("tr.halted", "an exception was raised")
		b.shot("standby")
		b.press("tr.halted th a")
		b.shows("[data-live=detail] .panel-head", "Halted")
		b.shot("standby-destination")
	})

	// Its switches work, and it takes over.
	if code := s.call("POST", "/api/destinations/"+tenant1+"/main/pause", `{"reason": "bytes\u0000"}`, nil); code != 202 {
		t.Errorf("pause: %d", code)
	}
	first.destinationIs(tenant1, "main", ledger.Paused)
	s.call("POST", "/api/destinations/"+tenant1+"/main/resume", ``, nil)
	first.end()
	waitFor(t, "it to take over", func() error {
		status = monitor.Status{}
		if s.call("GET", "/api/status", "", &status); status.Role != "streaming" || status.Noted != nil || status.Lag.P99Seconds == nil {
			return fmt.Errorf("%+v", status)
		}
		return nil
	})
	d := s.destinationIs(tenant2, "poisoned", ledger.Halted)
	if f := d.Error; f == nil || f.Class != "row" || f.SQLState == nil || *f.SQLState != "P0001" || !strings.Contains(f.Message, "an exception was raised") {
		t.Errorf("what halted it, after the change of processes, is %+v", f)
	}
}
