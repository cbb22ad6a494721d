package admin

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"go.uber.org/zap"

	"outflow/admin/monitor"
	"outflow/sink/ledger"
)

// templates are one set a page: the layout, the parts shared by several pages, and the page's own content.
var templates = parseTemplates()

// parseTemplates parses each page together with the layout and the common parts. A fault in a template is a fault of the program, and panics
// at the start, not at the first visit.
func parseTemplates() map[string]*template.Template {
	base := template.Must(template.New("").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/parts.html"))
	all := map[string]*template.Template{}
	for _, name := range []string{"overview", "destination", "confirm", "switches", "tables", "configuration", "login", "problem"} {
		all[name] = template.Must(template.Must(base.Clone()).ParseFS(files, "templates/"+name+".html"))
	}
	return all
}

// page is the data of the layout.
type page struct {
	Title   string
	Active  string // entry of the menu
	Program string // version of the program
	Login   bool   // there is a session to end
	Events  string // source of the live updates, "" for none
}

func (s *Server) page(r *http.Request, title, active string) page {
	p := page{Title: title, Active: active, Program: s.Version, Login: !s.Token.IsZero() && s.session(r)}
	if active != "" {
		query := r.URL.Query()
		query.Set("page", active)
		p.Events = "/events?" + query.Encode()
	}
	return p
}

// render executes the template into memory before it answers: half a page would look like a whole one.
func (s *Server) render(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := templates[name].ExecuteTemplate(&b, "layout", data); err != nil {
		s.Log.Error("a page cannot be rendered", zap.String("page", name), zap.Error(err))
		http.Error(w, "this page cannot be rendered; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// pages are the routes of the dashboard.
func (s *Server) pages() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /{$}":                   s.live("overview"),
		"GET /destination":           s.live("destination"),
		"GET /switches":              s.live("switches"),
		"GET /tables":                s.live("tables"),
		"GET /configuration":         s.configuration,
		"GET /destination/{action}":  s.confirmDestination,
		"POST /destination/{action}": s.actOnDestination,
		"GET /switches/{name}":       s.confirmSwitch,
		"POST /switches/{name}":      s.actOnSwitch,
		"GET /events":                s.streamEvents,
		"/": func(w http.ResponseWriter, r *http.Request) {
			s.fail(w, r, http.StatusNotFound, "there is no such page")
		},
	}
}

// view is the data of a live page. Each region is rendered again with every event.
type view struct {
	page
	*monitor.Status
	points    []monitor.Point
	Filter    monitor.Filter
	Page      monitor.Page
	Query     url.Values
	Copying   []monitor.Destination
	Incidents []monitor.Incident
	Detail    *monitor.Detail
	Tables    []monitor.Table
	Paused    []monitor.Switch
}

// regions are the changing parts of each live page.
var regions = map[string][]string{
	"overview":    {"banner", "tiles", "counts", "table", "backfills", "errors"},
	"destination": {"banner", "detail"},
	"switches":    {"banner", "fuses"},
	"tables":      {"banner", "changes"},
}

// maxCopying bounds the backfills on the overview.
const maxCopying = 10

// view collects the data of a page. The error is for the person asking for the page.
func (s *Server) view(r *http.Request, name string) (*view, error) {
	snap := s.look()
	v := &view{Status: &snap.Status, points: snap.Points, Query: r.URL.Query()}
	v.Query.Del("page")
	var err error
	switch name {
	case "overview":
		v.page = s.page(r, "Overview", name)
		if v.Filter, err = filterOf(r); err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
		v.Page = s.list(snap, v.Filter)
		v.Copying = s.list(snap, monitor.Filter{States: []string{string(ledger.Backfilling)}, Limit: maxCopying}).Destinations
		v.Incidents = s.incidents(snap)
	case "destination":
		tenant, destination := v.Query.Get("tenant"), v.Query.Get("name")
		v.page = s.page(r, tenant+"/"+destination, name)
		found, ok := s.find(tenant, destination)
		if !ok {
			return nil, refuse(http.StatusNotFound, "tenant %q has no destination %q here", tenant, destination)
		}
		v.Detail = &found
	case "switches":
		v.page = s.page(r, "Switches", name)
		for _, sw := range snap.Switches {
			if sw.Name == ledger.SwitchDestination {
				v.Paused = append(v.Paused, sw)
			}
		}
	case "tables":
		v.page = s.page(r, "Tables", name)
		if snap.Pipeline != nil {
			v.Tables = snap.Pipeline.Tables()
		}
	}
	return v, nil
}

func (s *Server) live(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := s.view(r, name)
		if err != nil {
			s.refused(w, r, err)
			return
		}
		s.render(w, http.StatusOK, name, v)
	}
}

// Fuses are the three switches over everything.
func (v *view) Fuses() []monitor.Switch {
	var all []monitor.Switch
	for _, sw := range v.Switches {
		if sw.Name != ledger.SwitchDestination {
			all = append(all, sw)
		}
	}
	return all
}

// States are all states with their numbers of destinations, the worst first.
func (v *view) States() []StateCount {
	all := make([]StateCount, len(monitor.States))
	for i, st := range monitor.States {
		all[i] = StateCount{string(st), v.Destinations[string(st)]}
	}
	return all
}

// StateCount is a state and the number of destinations in the state.
type StateCount struct {
	State string
	Count int
}

// Selected reports whether the filter asks for the given state alone.
func (v *view) Selected(state string) bool {
	return len(v.Filter.States) == 1 && v.Filter.States[0] == state || state == "" && len(v.Filter.States) == 0
}

// With is the address of this page with another value in its query.
func (v *view) With(key string, value any) string {
	q := url.Values{}
	for k, values := range v.Query {
		if k != key && k != "offset" {
			q[k] = values
		}
	}
	if text := fmt.Sprint(value); text != "" && text != "0" {
		q.Set(key, text)
	}
	if len(q) == 0 {
		return "/"
	}
	return "/?" + q.Encode()
}

// Last is the number of the last destination on this page of the list.
func (v *view) Last() int { return v.Page.Offset + len(v.Page.Destinations) }

// Previous is the offset of the previous page.
func (v *view) Previous() int { return max(0, v.Page.Offset-v.Page.Limit) }

// Lags are the sparkline of the lag.
func (v *view) Lags() []float64 { return v.values(func(p monitor.Point) float64 { return p.LagBytes }) }

// Rates are the sparkline of the throughput.
func (v *view) Rates() []float64 { return v.values(func(p monitor.Point) float64 { return p.Rows }) }

func (v *view) values(of func(monitor.Point) float64) []float64 {
	all := make([]float64, len(v.points))
	for i, p := range v.points {
		all[i] = of(p)
	}
	return all
}

// Kept is the used part of the WAL that the primary may keep for the slot, in percent; -1 where there is no limit.
func (v *view) Kept() int {
	if v.Slot.RetainedBytes == nil || v.Slot.SafeBytes == nil {
		return -1
	}
	return percent(*v.Slot.RetainedBytes, *v.Slot.RetainedBytes+*v.Slot.SafeBytes)
}

type problemPage struct {
	page
	Detail string
}

// configLine is a line of the configuration with its origin.
type configLine struct{ Text, Origin string }

type configPage struct {
	page
	*monitor.Status
	Lines []configLine
}

func (s *Server) configuration(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	if err := s.Configuration(&b); err != nil {
		s.fail(w, r, http.StatusInternalServerError, "%v", err)
		return
	}
	p := configPage{page: s.page(r, "Configuration", "configuration"), Status: &s.look().Status}
	p.Events = ""
	for line := range strings.Lines(b.String()) {
		text, origin := strings.TrimRight(line, "\n"), ""
		if i := strings.LastIndex(text, " # "); i >= 0 {
			text, origin = text[:i], text[i+3:]
		}
		p.Lines = append(p.Lines, configLine{text, origin})
	}
	s.render(w, http.StatusOK, "configuration", p)
}
