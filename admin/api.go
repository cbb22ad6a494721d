package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/admin/monitor"
)

// Problem is the form of every error of the API: RFC 9457, application/problem+json.
type Problem struct {
	Type   string `json:"type"` // about:blank: the status says everything
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// fail answers with an error: a page for a browser, a [Problem] for a program.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, format string, args ...any) {
	detail := fmt.Sprintf(format, args...)
	if wantsPage(r) {
		s.render(w, status, "problem", problemPage{page: s.page(r, http.StatusText(status), ""), Detail: detail})
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Problem{"about:blank", http.StatusText(status), status, detail})
}

// wantsPage tells a person's browser from a program.
func wantsPage(r *http.Request) bool {
	return !strings.HasPrefix(r.URL.Path, "/api/") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// answer answers 200 with the body as JSON.
func (s *Server) answer(w http.ResponseWriter, body any) { s.answerWith(w, http.StatusOK, body) }

// answerWith encodes the whole body before the first byte is sent: an error of the encoder is a 500, and not half an answer with 200.
func (s *Server) answerWith(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(body); err != nil {
		s.Log.Error("an answer cannot be encoded as JSON", zap.Error(err))
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// noRoute answers for every path under /api/ that does not exist, so that a program gets a Problem and not the login page.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, http.StatusNotFound, "there is no %s %s; see /api/openapi.json", r.Method, r.URL.Path)
}

func (s *Server) getStatus(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.look().Status) }

const (
	defaultLimit = 50
	maxLimit     = 1000
)

// filterOf reads a filter from a query.
func filterOf(r *http.Request) (f monitor.Filter, err error) {
	q := r.URL.Query()
	f = monitor.Filter{Tenant: q.Get("tenant"), Search: q.Get("q"), Limit: defaultLimit}
	for _, st := range q["state"] {
		if st == "" {
			continue
		}
		if !slices.ContainsFunc(stateNames(), func(known string) bool { return known == st }) {
			return f, fmt.Errorf("state: expected one of %s", strings.Join(stateNames(), ", "))
		}
		f.States = append(f.States, st)
	}
	if text := q.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 || f.Limit > maxLimit {
			return f, fmt.Errorf("limit: expected 1 to %d", maxLimit)
		}
	}
	if text := q.Get("offset"); text != "" {
		if f.Offset, err = strconv.Atoi(text); err != nil || f.Offset < 0 {
			return f, errors.New("offset: expected 0 or more")
		}
	}
	return f, nil
}

// stateNames are the states that the filter state= takes.
func stateNames() []string {
	names := make([]string, len(monitor.States))
	for i, st := range monitor.States {
		names[i] = string(st)
	}
	return names
}

// list is one page of destinations.
func (s *Server) list(snap *monitor.Snapshot, f monitor.Filter) monitor.Page {
	if snap.Noted != nil {
		part, total := f.ListNoted(snap.FromNotebook)
		return monitor.Page{Destinations: append([]monitor.Destination{}, part...), Total: total, Limit: f.Limit, Offset: f.Offset}
	}
	part, total := f.List(snap.Rows)
	page := monitor.Page{Destinations: make([]monitor.Destination, len(part)), Total: total, Limit: f.Limit, Offset: f.Offset}
	for i := range part {
		page.Destinations[i] = part[i].Describe(snap.At, s.sampler.RateOf(part[i].Destination))
	}
	return page
}

func (s *Server) getDestinations(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r)
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, "%v", err)
		return
	}
	s.answer(w, s.list(s.look(), f))
}

// find returns one destination, live or from the notes.
func (s *Server) find(tenant, name string) (monitor.Detail, bool) {
	p, _ := s.current()
	if p == nil || !p.Own() {
		for _, d := range s.look().FromNotebook {
			if d.Tenant == tenant && d.Name == name {
				return monitor.Detail{Destination: d, History: d.NotedHistory()}, true
			}
		}
		return monitor.Detail{}, false
	}
	for _, d := range p.Router.Destinations() {
		if d.Tenant == tenant && d.Name == name {
			now := monitor.Row{Destination: d, Status: d.Status(), Stream: p.Reader.Behind(time.Now())}
			return now.Detail(time.Now(), s.sampler.RateOf(d)), true
		}
	}
	return monitor.Detail{}, false
}

func (s *Server) getDestination(w http.ResponseWriter, r *http.Request) {
	found, ok := s.find(r.PathValue("tenant"), r.PathValue("name"))
	if !ok {
		s.fail(w, r, http.StatusNotFound, "tenant %q has no destination %q here", r.PathValue("tenant"), r.PathValue("name"))
		return
	}
	s.answer(w, found)
}

func (s *Server) getTables(w http.ResponseWriter, _ *http.Request) {
	tables := []monitor.Table{}
	if p, _ := s.current(); p != nil {
		tables = p.Tables()
	}
	s.answer(w, map[string]any{"tables": tables})
}

func (s *Server) getErrors(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, map[string]any{"errors": s.incidents(s.look())})
}

// incidents are the recent errors, the newest first.
func (s *Server) incidents(snap *monitor.Snapshot) []monitor.Incident {
	if snap.Noted != nil {
		return append([]monitor.Incident{}, snap.Incidents...)
	}
	return s.sampler.Incidents()
}

func (s *Server) getSwitches(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, map[string]any{"switches": s.look().Switches})
}

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	document, _ := files.ReadFile("openapi.json") // embedded, so always present
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document)
}

// decode reads a body of JSON into v: one value, and no field unknown to v. No body is the zero value.
func decode(r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return errors.New("expected a body of Content-Type application/json")
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	if d.More() {
		return errors.New("the body: expected one JSON value")
	}
	return nil
}
