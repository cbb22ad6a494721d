package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/jackc/pgx/v5"

	"outflow/admin/monitor"
	"outflow/internal/fit"
	"outflow/internal/secret"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/sink"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "0123456789abcdef-canary"

var errDown = errors.New("the primary is down")

func store() *ledger.Store {
	return &ledger.Store{Slot: "outflow", Connect: func(context.Context) (*pgx.Conn, error) { return nil, errDown }}
}

func newServer(t testing.TB, token string, change func(*Config)) *Server {
	t.Helper()
	o := Config{Options: Options{Listen: "127.0.0.1:0", Token: secret.New(token)}, Version: "test", Slot: "outflow", Store: store(), Log: zap.NewNop(),
		Configuration: func(w io.Writer) error {
			_, err := io.WriteString(w, "source:\n  slot: <b>outflow</b> # default\n")
			return err
		}}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// still is a reader that nothing runs, in a state of its own.
type still struct {
	replication.Reader
	state replication.State
}

func (r *still) State() replication.State { return r.state }

// attach gives a server a pipeline that nothing runs, as if it were streaming: destinations without work have neither connection nor
// goroutine.
func attach(t testing.TB, s *Server, names ...[2]string) *sink.Router {
	t.Helper()
	acks := replication.NewAckTracker(1)
	reader := &still{state: replication.Streaming}
	router := sink.NewRouter(sink.Config{Options: sink.DefaultOptions(), Acks: acks, Reader: reader, Log: zap.NewNop()})
	for _, n := range names {
		if _, err := router.Add(external.DestinationSpec{Tenant: n[0], Name: n[1], DSN: "postgres://u:canary-password@h/db"}); err != nil {
			t.Fatal(err)
		}
	}
	s.Attach(&monitor.Pipeline{Reader: reader, Router: router, Acks: acks, SlotStatus: func() *primary.SlotStatus { return nil }}, nil)
	return router
}

type request struct {
	method, path, host, body string
	header                   map[string]string
}

func (s *Server) do(q request) *httptest.ResponseRecorder {
	if q.method == "" {
		q.method = "GET"
	}
	r := httptest.NewRequest(q.method, q.path, strings.NewReader(q.body))
	r.Host = orElse(q.host, "127.0.0.1:8090")
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

var bearer = map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json"}

func TestListenWithoutTokenIsForLoopbackOnly(t *testing.T) {
	for listen, ok := range map[string]bool{"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true, "127.8.9.1:1": true,
		"0.0.0.0:0": false, ":8090": false, "[::]:0": false, "10.0.0.1:80": false, "example.com:80": false} {
		_, err := New(Config{Options: Options{Listen: listen}, Store: store(), Log: zap.NewNop()})
		if (err == nil) != ok {
			t.Errorf("%s: %v", listen, err)
		}
		if err != nil && !strings.Contains(err.Error(), "OUTFLOW_ADMIN_TOKEN") {
			t.Errorf("%s: no remedy in %v", listen, err)
		}
		if _, err := New(Config{Options: Options{Listen: listen, Token: secret.New(token)}, Store: store(), Log: zap.NewNop()}); err != nil {
			t.Errorf("%s with a token: %v", listen, err)
		}
	}
}

func TestAuthorisation(t *testing.T) {
	s := newServer(t, token, func(o *Config) { o.Pprof = true })
	attach(t, s, [2]string{"t", "main"})
	for _, path := range []string{"/", "/destination?tenant=t&name=main", "/switches", "/tables", "/configuration", "/events?page=overview", "/api/status",
		"/api/destinations", "/api/destinations/t/main", "/api/tables", "/api/errors", "/api/switches", "/api/openapi.json", "/api/nothing", "/metrics",
		"/debug/pprof/", "/nothing"} {
		if w := s.do(request{path: path}); w.Code != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d", path, w.Code)
		}
		for _, wrong := range []string{"Bearer " + token + "x", "Bearer", "Basic " + token, "Bearer "} {
			if w := s.do(request{path: path, header: map[string]string{"Authorization": wrong}}); w.Code != http.StatusUnauthorized {
				t.Errorf("%s with %q: %d", path, wrong, w.Code)
			}
		}
	}
	for _, path := range []string{"/livez", "/static/outflow.css", "/static/outflow.js"} {
		if w := s.do(request{path: path}); w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/api/destinations/t/main/pause", "/api/switches/reading", "/destination/resync", "/switches/reading"} {
		if w := s.do(request{method: "POST", path: path}); w.Code != http.StatusUnauthorized {
			t.Errorf("POST %s without a token: %d", path, w.Code)
		}
	}
	if w := s.do(request{path: "/api/status", header: bearer}); w.Code != http.StatusOK {
		t.Errorf("with the token: %d", w.Code)
	}
	if w := newServer(t, token, nil).do(request{path: "/debug/pprof/", header: bearer}); w.Code != http.StatusNotFound {
		t.Errorf("pprof is on by default: %d", w.Code)
	}
}

func TestSession(t *testing.T) {
	s := newServer(t, token, nil)
	form := func(token string) request {
		return request{method: "POST", path: "/login", body: url.Values{"token": {token}, "next": {"//evil.example"}}.Encode(),
			header: map[string]string{"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-Proto": "https"}}
	}
	if w := s.do(form("wrong")); w.Code != http.StatusUnauthorized || len(w.Result().Cookies()) != 0 {
		t.Errorf("a wrong token logs in: %d", w.Code)
	}
	w := s.do(form(token))
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
		t.Fatalf("login: %d to %q", w.Code, w.Header().Get("Location"))
	}
	c := w.Result().Cookies()[0]
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, token) {
		t.Errorf("the cookie is %s", c)
	}
	with := func(value string) map[string]string { return map[string]string{"Cookie": cookieName + "=" + value} }
	if w := s.do(request{path: "/switches", header: with(c.Value)}); w.Code != http.StatusOK {
		t.Errorf("the cookie is not taken: %d", w.Code)
	}
	if w := s.do(request{path: "/api/status", header: with(c.Value)}); w.Code != http.StatusUnauthorized {
		t.Errorf("the cookie opens the API: %d", w.Code)
	}
	expires, signature, _ := strings.Cut(c.Value, ".")
	for _, forged := range []string{"9" + c.Value, expires + ".", expires, "1." + s.sign("1"), "x." + s.sign("x"), expires + "." + signature[1:]} {
		if w := s.do(request{path: "/", header: with(forged)}); w.Code != http.StatusUnauthorized {
			t.Errorf("the forged cookie %q is taken", forged)
		}
	}
	if w := newServer(t, token+"2", nil).do(request{path: "/", header: with(c.Value)}); w.Code != http.StatusUnauthorized {
		t.Error("a session outlives a change of the token")
	}
}

func TestAnotherSitesPage(t *testing.T) {
	s := newServer(t, "", nil)
	attach(t, s, [2]string{"t", "main"})
	for _, header := range []map[string]string{{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil.example"}} {
		for _, path := range []string{"/api/destinations/t/main/pause", "/switches/reading", "/destination/resync", "/login", "/logout"} {
			if w := s.do(request{method: "POST", path: path, header: header}); w.Code != http.StatusForbidden {
				t.Errorf("POST %s with %v: %d", path, header, w.Code)
			}
		}
	}
	for host, want := range map[string]int{"localhost:8090": 200, "127.0.0.1:8090": 200, "[::1]:8090": 200, "10.1.2.3": 200, "LOCALHOST.": 200,
		"evil.example": 421, "localhost.evil.example:8090": 421, "status.example.com": 421} {
		if w := s.do(request{path: "/api/status", host: host}); w.Code != want {
			t.Errorf("Host %s: %d", host, w.Code)
		}
		if w := s.do(request{path: "/livez", host: host}); w.Code != http.StatusOK {
			t.Errorf("/livez with Host %s: %d", host, w.Code)
		}
	}
	known := newServer(t, "", func(o *Config) { o.Hosts = []string{"Status.example.com"} })
	if w := known.do(request{path: "/api/status", host: "status.example.com:443"}); w.Code != http.StatusOK {
		t.Errorf("a host of admin.hosts: %d", w.Code)
	}
}

func TestHeadersAndLimits(t *testing.T) {
	s := newServer(t, "", nil)
	attach(t, s, [2]string{"t", "main"})
	for _, path := range []string{"/", "/api/status", "/livez", "/nothing", "/metrics"} {
		h := s.do(request{path: path, header: map[string]string{"Accept": "text/html"}}).Header()
		csp := h.Get("Content-Security-Policy")
		if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") ||
			h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
	}
	post := func(path, body string) int {
		return s.do(request{method: "POST", path: path, body: body, header: map[string]string{"Content-Type": "application/json"}}).Code
	}
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{"/api/destinations/t/main/pause", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, 400},
		{"/api/destinations/t/main/pause", `{"reason":"` + strings.Repeat("x", maxReason+1) + `"}`, 400},
		{"/api/destinations/t/main/pause", `{"unknown":1}`, 400},
		{"/api/destinations/t/main/pause", `{} {}`, 400},
		{"/api/destinations/t/other/pause", `{}`, 404},
		{"/api/destinations/t/main/delete", `{}`, 404},
		{"/api/destinations/t/main/resync", `{}`, 409},
		{"/api/destinations/t/main/resync", `{"confirm":true}`, 503}, // the primary is down
		{"/api/switches/reading", `{"off":true}`, 409},
		{"/api/switches/reading", `{"confirm":true}`, 400},
		{"/api/switches/everything", `{"off":true}`, 404},
		{"/api/switches/reading", `{"off":true,"confirm":true}`, 503},
	} {
		if got := post(c.path, c.body); got != c.want {
			t.Errorf("POST %s %.60s: %d, expected %d", c.path, c.body, got, c.want)
		}
	}
	for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "offset=-1", "state=broken"} {
		if w := s.do(request{path: "/api/destinations?" + bad}); w.Code != http.StatusBadRequest || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", bad, w.Code, w.Header().Get("Content-Type"))
		}
	}
}

// Every route of the API is in the document, and every answer is as the document says.
func TestOpenAPI(t *testing.T) {
	s := newServer(t, "", nil)
	text, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for path, methods := range doc.Paths {
		for method := range methods {
			documented[strings.ToUpper(method)+" "+path] = true
		}
	}
	for route := range s.api() {
		if route != "/api/" && !documented[route] {
			t.Errorf("%s is not in openapi.json", route)
		}
		delete(documented, route)
	}
	for route := range documented {
		t.Errorf("%s is in openapi.json, and nowhere else", route)
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("openapi.json", value); err != nil {
		t.Fatal(err)
	}
	check := func(path, schema string) {
		t.Helper()
		w := s.do(request{path: path})
		answer, err := jsonschema.UnmarshalJSON(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.MustCompile("openapi.json#/components/schemas/" + schema).Validate(answer); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	check("/api/status", "Status") // nothing is known yet
	check("/api/destinations", "Page")
	attach(t, s, [2]string{"t", "main"})
	s.pipeline.Reader = &still{state: replication.Standby}
	check("/api/status", "Status") // the notes are not read yet
	s.setNotes(monitor.Notebook{At: time.Now(), Reader: &ledger.Reader{Host: "h", Process: 1, Walsender: 2, Since: time.Now()}, Destinations: []ledger.Destination{
		{Tenant: "t", Name: "noted", State: ledger.Backfilling, Reason: "why", SequenceID: 7, At: time.Now(), Since: time.Now(), Copied: 1, CopyTotal: 2,
			Mappings: []ledger.MappingProgress{{Name: "m", SequenceID: 7, At: time.Now()}}}}})
	s.looked = nil
	check("/api/status", "Status")
	check("/api/destinations", "Page")
	check("/api/destinations/t/noted", "Detail")
	s.setNotes(monitor.Notebook{At: time.Now(), Err: errDown})
	s.looked = nil
	check("/api/status", "Status")
	attach(t, s, [2]string{"t", "main"})
	for path, schema := range map[string]string{"/api/status": "Status", "/api/destinations": "Page", "/api/destinations/t/main": "Detail",
		"/api/tables": "Tables", "/api/errors": "Errors", "/api/switches": "Switches", "/api/destinations/t/none": "Problem", "/api/none": "Problem"} {
		check(path, schema)
	}
	d := monitor.Row{Destination: s.pipeline.Router.Destinations()[0], Status: status.Status{State: ledger.Backfilling, Err: &external.Error{SQLState: "22012", Err: errDown},
		CopyStatus: status.CopyStatus{Copying: true, CopyTotal: 10}, QueueStatus: status.QueueStatus{Oldest: time.Now()}}, Stream: 0}
	b, _ := json.Marshal(d.Describe(time.Now(), monitor.Rate{}))
	answer, _ := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	if err := c.MustCompile("openapi.json#/components/schemas/Destination").Validate(answer); err != nil {
		t.Error(err)
	}
}

const hostile = `"><script>alert(1)</script>'{{.}}&\`

// Whatever a tenant or its server says stays text, and a password stays away from all pages.
func TestHostileNames(t *testing.T) {
	s := newServer(t, "", func(o *Config) { o.TenantMetrics = true })
	router := attach(t, s)
	if _, err := router.Add(external.DestinationSpec{Tenant: hostile, Name: hostile, DSN: "postgres://h/db", Fault: &external.Error{Key: hostile, Mapping: hostile,
		Err: errors.New(hostile + "\x1b[31m\u202e" + strings.Repeat("x", 5000))}}); err != nil {
		t.Fatal(err)
	}
	s.sampler.Sample(time.Now(), s.pipeline)
	query := "?" + url.Values{"tenant": {hostile}, "name": {hostile}, "q": {hostile}}.Encode()
	for _, path := range []string{"/", "/" + query, "/destination" + query, "/destination/pause" + query, "/destination/resync" + query, "/switches", "/tables",
		"/configuration", "/nothing" + query, "/destination?tenant=x&name=" + url.QueryEscape(hostile)} {
		w := s.do(request{path: path, header: map[string]string{"Accept": "text/html"}})
		body := w.Body.String()
		if strings.Contains(body, "<script>alert") || strings.Contains(body, "<b>outflow") || strings.ContainsAny(body, "\x1b\u202e") {
			t.Errorf("%s lets markup or control characters through:\n%.3000s", path, body)
		}
		if strings.Contains(body, "canary-password") || strings.Contains(body, strings.Repeat("x", int(fit.Page)+1)) || strings.Contains(body, " style=") {
			t.Errorf("%s shows a password, a text that is not cut, or an inline style", path)
		}
		if strings.Count(body, "<script") != 1 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d scripts, %s", path, strings.Count(body, "<script"), w.Header().Get("Content-Type"))
		}
	}
	w := s.do(request{path: "/metrics"})
	if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, "outflow_destination_state{") || strings.Contains(body, "xxxx") {
		t.Errorf("metrics: %d\n%.2000s", w.Code, body)
	}
}

// doc.go lists the metrics; nothing is there that it does not list, and the other way round.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families {
		name := "outflow_" + m.name
		if len(m.labels) > 0 {
			name += "{" + strings.Join(m.labels, ",") + "}"
		}
		if !strings.Contains(string(text), "//\t"+name+"  ") && !strings.Contains(string(text), "//\t"+name+" ") && !strings.Contains(string(text), "//\t"+name+"\n") {
			t.Errorf("%s is not in doc.go", name)
		}
	}
	if n := strings.Count(string(text), "//\toutflow_"); n != len(families) {
		t.Errorf("doc.go lists %d metrics, there are %d", n, len(families))
	}
}

func TestPrimaryIsDown(t *testing.T) {
	s := newServer(t, "", nil)
	s.Attach(nil, errDown)
	if w := s.do(request{path: "/livez"}); w.Code != http.StatusOK {
		t.Errorf("/livez: %d", w.Code)
	}
	if w := s.do(request{path: "/readyz"}); w.Code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", w.Code)
	}
	for _, path := range []string{"/", "/switches", "/tables", "/metrics"} {
		if w := s.do(request{path: path}); w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := s.do(request{path: "/api/status"}); !strings.Contains(w.Body.String(), errDown.Error()) || !strings.Contains(w.Body.String(), `"retained_bytes": null`) {
		t.Errorf("status: %s", w.Body)
	}
	s.sampler.Ticked = time.Now().Add(-time.Hour)
	if w := s.do(request{path: "/livez"}); w.Code != http.StatusServiceUnavailable {
		t.Errorf("/livez of a process that is stuck: %d", w.Code)
	}
}

// 10,000 destinations: every page and answer well below what a person notices.
func TestTenThousandDestinations(t *testing.T) {
	s := newServer(t, "", func(o *Config) { o.TenantMetrics = true })
	names := make([][2]string, 10_000)
	for i := range names {
		names[i] = [2]string{fmt.Sprintf("tenant-%05d", i), "main"}
	}
	attach(t, s, names...)
	for range 3 {
		start := time.Now()
		s.sampler.Sample(start, s.pipeline)
		t.Logf("sample: %s", time.Since(start))
	}
	for _, path := range []string{"/", "/?q=tenant-09999", "/?offset=9950", "/api/status", "/api/destinations?limit=1000", "/api/destinations?tenant=tenant-05000",
		"/api/destinations/tenant-09999/main", "/metrics"} {
		best := time.Hour
		for range 5 {
			s.looked = nil
			start := time.Now()
			w := s.do(request{path: path})
			best = min(best, time.Since(start))
			if w.Code != http.StatusOK {
				t.Fatalf("%s: %d %s", path, w.Code, w.Body)
			}
		}
		t.Logf("%s: %s", path, best)
		if limit := 200 * time.Millisecond; best > limit && path != "/metrics" && !raceEnabled {
			t.Errorf("%s takes %s", path, best)
		}
	}
	var page monitor.Page
	if err := json.Unmarshal(s.do(request{path: "/api/destinations?limit=3&offset=9998"}).Body.Bytes(), &page); err != nil || page.Total != 10_000 || len(page.Destinations) != 2 {
		t.Errorf("%v: %d of %d", err, len(page.Destinations), page.Total)
	}
}

// Any client that reaches the port may fail to log in, and the log stays short.
func TestFailedLoginsAreCounted(t *testing.T) {
	core, lines := observer.New(zap.WarnLevel)
	s := newServer(t, token, func(o *Config) { o.Log = zap.New(core) })
	form := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	began := time.Now()
	for range 1000 {
		if w := s.do(request{method: "POST", path: "/login", body: "token=canary-guess", header: form}); w.Code != http.StatusUnauthorized {
			t.Fatalf("a wrong token: %d", w.Code)
		}
	}
	if most := 1 + int(time.Since(began)/time.Second); lines.Len() == 0 || lines.Len() > most {
		t.Errorf("%d lines, expected 1 to %d", lines.Len(), most)
	}
}

// A reason is shown as the pipeline gives the reason: a refused configuration and a refused destination have each their own words.
func TestReasonsOfTheConfiguration(t *testing.T) {
	s := newServer(t, "", nil)
	attach(t, s)
	s.pipeline.Configuration = func() error { return errors.New("destinations.query returns a row that is left out") }
	got := s.take(time.Now(), s.pipeline, nil)
	if !slices.Contains(got.Reasons, monitor.Reason{Severity: monitor.Warning, Message: "destinations.query returns a row that is left out"}) {
		t.Errorf("%+v", got.Reasons)
	}
}
