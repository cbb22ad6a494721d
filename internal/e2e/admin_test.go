package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"outflow/admin/monitor"
	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/sink/ledger"
)

const adminToken = "token-of-the-tests-0123"

// site is a running pipeline with its status API.
type site struct {
	*running
	url string
}

// serve runs the world's pipeline with the API before it.
func (w *world) serve() *site {
	w.tb.Helper()
	w.cfg.Admin.Listen, w.cfg.Admin.Token = "127.0.0.1:0", secret.New(adminToken)
	ctx, cancel := context.WithCancel(context.Background())
	f, err := pipeline.NewFront(ctx, func() *config.Config { return w.cfg }, "test", zaptest.NewLogger(w.tb, zaptest.Level(zap.WarnLevel)))
	if err != nil {
		cancel()
		w.tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	w.tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.tb.Errorf("the status API ended with: %v", err)
		}
	})
	r := w.start()
	f.Attach(r.Pipeline, nil)
	return &site{r, strings.TrimSuffix(f.URL(), "/")}
}

// call asks the API and decodes the answer into out, which may be nil. It returns the status.
func (s *site) call(method, path, body string, out any) int {
	s.tb.Helper()
	r, err := http.NewRequestWithContext(s.tb.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		s.tb.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
	return answer.StatusCode
}

// destinationIs waits until the API says so of the destination, and returns what it says.
func (s *site) destinationIs(tenant, name string, state ledger.State) monitor.Detail {
	s.tb.Helper()
	var d monitor.Detail
	waitFor(s.tb, fmt.Sprintf("%s/%s to be %s", tenant, name, state), func() error {
		d = monitor.Detail{}
		if code := s.call("GET", "/api/destinations/"+tenant+"/"+name, "", &d); code != http.StatusOK || d.State != string(state) {
			return fmt.Errorf("%d, it is %s", code, d.State)
		}
		return nil
	})
	return d
}

// refusing is a mapping that a row breaks, with a hostile text.
const refusing = `
name: refusing
target: refused
schema: |
  CREATE TABLE IF NOT EXISTS refused (id uuid PRIMARY KEY, n text NOT NULL);
  CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.n LIKE '<%' THEN RAISE EXCEPTION 'I refuse %', NEW.n; END IF;
    RETURN NEW;
  END $$;
  CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON refused FOR EACH ROW EXECUTE FUNCTION refuse();
steps:
  - from: ProjectUser
    when: upsert
    sql: |
      INSERT INTO refused (id, n) SELECT u."projectUserId", u."displayName" FROM "ProjectUser" u
      ON CONFLICT (id) DO UPDATE SET n = excluded.n
`

// The API shows each state of a destination, with what belongs to it, and acts on it.
func TestAPIInEachState(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.QueueBytes = 64 << 10
	w.mapping("refusing", refusing)
	w.destination(tenant1, "main")
	w.destination(tenant2, "poisoned", "refusing")
	away := w.gated(tenant3, "away")
	s := w.serve()
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	good := s.destinationIs(tenant1, "main", ledger.Streaming)
	if good.Error != nil || good.NextRetryAt != nil || len(good.Mappings) != 2 || good.Mappings[1].Name != "users" || good.Mappings[1].SequenceID == nil ||
		*good.Mappings[1].SequenceID <= 0 || good.Mappings[1].SyncedAt == nil || good.Address == nil || strings.Contains(*good.Address, "@") {
		t.Errorf("streaming: %+v", good)
	}
	s.destinationIs(tenant2, "poisoned", ledger.Streaming)
	s.destinationIs(tenant3, "away", ledger.Retrying)

	const evil = `<script>alert(1)</script>`
	w.user(tenant2, "00000000-0000-4000-8000-000000000002", evil)
	w.user(tenant3, "00000000-0000-4000-8000-000000000003", strings.Repeat("Cy", 40<<10)) // more than its queue holds
	halted := s.destinationIs(tenant2, "poisoned", ledger.Halted)
	if f := halted.Error; f == nil || f.SQLState == nil || *f.SQLState != "P0001" || f.Class != "row" || f.Key == nil || f.Mapping == nil || *f.Mapping != "refusing" {
		t.Errorf("halted: %+v", halted.Error)
	}
	parked := s.destinationIs(tenant3, "away", ledger.Parked)
	if parked.Reason == nil || parked.LagSeconds != nil || parked.Mappings[0].PendingChanges != nil || len(parked.History) < 2 || parked.History[0].State != "parked" {
		t.Errorf("parked: %+v", parked)
	}

	var page monitor.Page
	s.call("GET", "/api/destinations", "", &page)
	if page.Total != 3 || page.Destinations[0].State != "halted" || page.Destinations[1].State != "parked" || page.Destinations[2].State != "streaming" {
		t.Errorf("the worst first: %+v", page)
	}
	s.call("GET", "/api/destinations?state=parked&tenant="+tenant3, "", &page)
	if page.Total != 1 || page.Destinations[0].Name != "away" {
		t.Errorf("filtered: %+v", page)
	}
	var status monitor.Status
	waitFor(t, "the primary to be asked for the slot", func() error {
		if s.call("GET", "/api/status", "", &status); status.Slot.CheckedAt == nil || status.Throughput.Rows == nil {
			return fmt.Errorf("it is %+v", status.Slot)
		}
		return nil
	})
	if status.State != monitor.Degraded || status.Role != "streaming" || !status.Ready || status.Destinations["halted"] != 1 || len(status.Reasons) < 2 ||
		status.Slot.ConfirmedLSN == nil || status.Slot.ConfirmedLSN.Integer == 0 || *status.Slot.WALStatus != "reserved" || status.Lag.Bytes == nil {
		t.Errorf("status: %+v", status)
	}
	s.metricsSay(`outflow_destinations{state="halted"} 1`, `outflow_destinations_failing{class="row"} 1`, `outflow_role{role="streaming"} 1`,
		`outflow_slot_wal_status{wal_status="reserved"} 1`, `outflow_table_changes_total{operation="insert",table="public.ProjectUser"} 3`)

	// Actions.
	if code := s.call("POST", "/api/destinations/"+tenant1+"/main/pause", `{"by": "Grace", "reason": "moving house `+evil+`"}`, nil); code != http.StatusAccepted {
		t.Fatalf("pause: %d", code)
	}
	paused := s.destinationIs(tenant1, "main", ledger.Paused)
	if paused.Reason == nil || !strings.Contains(*paused.Reason, "Grace from 127.0.0.1: moving house") {
		t.Errorf("paused: %+v", paused.Reason)
	}
	s.htmlIsSafe(evil, "/", "/destination?tenant="+tenant1+"&name=main")
	w.user(tenant1, "00000000-0000-4000-8000-000000000004", "Dan")
	waitFor(t, "the backlog", func() error {
		d := s.destinationIs(tenant1, "main", ledger.Paused)
		if m := d.Mappings; *m[0].PendingChanges != 0 || *m[1].PendingChanges != int64(d.Backlog.Transactions) || *m[1].PendingTransactions != d.Backlog.Transactions {
			t.Errorf("the mappings are %+v, the backlog %+v", m, d.Backlog)
		}
		if d.Backlog.Changes == 0 || d.LagSeconds == nil || *d.LagSeconds == 0 {
			return fmt.Errorf("it is %+v", d.Backlog)
		}
		return nil
	})
	s.call("POST", "/api/destinations/"+tenant1+"/main/resume", ``, nil)
	s.destinationIs(tenant1, "main", ledger.Streaming)
	away.Refuse(false)
	s.destinationIs(tenant3, "away", ledger.Streaming)
	before := len(s.destinationIs(tenant3, "away", ledger.Streaming).History)
	if code := s.call("POST", "/api/destinations/"+tenant3+"/away/resync", `{"confirm": true}`, nil); code != http.StatusAccepted {
		t.Errorf("resync: %d", code)
	}
	waitFor(t, "the resync", func() error {
		if d := s.destinationIs(tenant3, "away", ledger.Streaming); len(d.History) < before+2 {
			return fmt.Errorf("its history is %+v", d.History)
		}
		return nil
	})
	// A backfill that is switched off stays where it is, and shows.
	s.call("POST", "/api/switches/backfills", `{"off": true, "reason": "peak hours"}`, nil)
	waitFor(t, "the switch", func() error {
		if s.call("GET", "/api/status", "", &status); !status.Switches[2].Off {
			return fmt.Errorf("%+v", status.Switches)
		}
		return nil
	})
	s.call("POST", "/api/destinations/"+tenant3+"/away/resync", `{"confirm": true}`, nil)
	if d := s.destinationIs(tenant3, "away", ledger.Backfilling); d.Backfill == nil {
		t.Errorf("backfilling: %+v", d)
	}
	s.call("POST", "/api/switches/backfills", `{"off": false}`, nil)
	s.destinationIs(tenant3, "away", ledger.Streaming)
}

func (s *site) htmlIsSafe(evil string, paths ...string) {
	s.tb.Helper()
	for _, path := range paths {
		text := s.get(path)
		if strings.Contains(text, evil) || !strings.Contains(text, "&lt;script&gt;alert(1)") {
			s.tb.Errorf("%s does not show a person's text as text:\n%.4000s", path, text)
		}
	}
}

func (s *site) get(path string) string {
	s.tb.Helper()
	r, err := http.NewRequestWithContext(s.tb.Context(), "GET", s.url+path, nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer answer.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(answer.Body); err != nil {
		s.tb.Fatal(err)
	}
	return b.String()
}

func (s *site) metricsSay(lines ...string) {
	s.tb.Helper()
	contains(s.tb, s.get("/metrics"), lines...)
}

// The API is there before the primary is, says so, and a port that is taken is an error at once.
func TestAPIWithoutPrimary(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Source.DSN = secret.New("postgres://u:canary-password@" + nobody + "/db")
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.cfg.Admin.Listen = l.Addr().String()
	file := w.configFile()
	taken := launch(t, "run", "--config", file)
	taken.says("is in use by another process")
	if _ = taken.cmd.Wait(); taken.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d", taken.cmd.ProcessState.ExitCode())
	}
	l.Close()
	p := launch(t, "run", "--config", file)
	p.says("the primary cannot be reached")
	for args, want := range map[string]int{"healthcheck": 1, "healthcheck --live": 0} {
		h := launch(t, append(strings.Fields(args), "--config", file)...)
		if _ = h.cmd.Wait(); h.cmd.ProcessState.ExitCode() != want {
			t.Errorf("outflow %s: exit code %d, %s", args, h.cmd.ProcessState.ExitCode(), h.out)
		}
	}
	s := &site{running: &running{tb: t}, url: "http://" + w.cfg.Admin.Listen}
	var status monitor.Status
	s.call("GET", "/api/status", "", &status)
	if status.Role != "connecting" || status.State != monitor.Failing || status.Ready || !strings.Contains(status.Reasons[0].Message, "refused") {
		t.Errorf("status: %+v", status)
	}
	if code := s.call("POST", "/api/switches/reading", `{"off": false}`, nil); code != http.StatusServiceUnavailable {
		t.Errorf("a switch without a primary: %d", code)
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	if strings.Contains(p.out.String()+s.url, "canary-password") {
		t.Error("the log shows the password")
	}
}
