package admin

import (
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed static templates openapi.json
var files embed.FS

// routes are all routes of the server.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", s.livez)
	mux.HandleFunc("GET /readyz", s.readyz)
	for pattern, handler := range s.api() {
		mux.Handle(pattern, s.withToken(handler))
	}
	metrics := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, ErrorLog: quiet(s.Log)})
	mux.Handle("GET /metrics", s.withToken(metrics.ServeHTTP))
	if s.Pprof {
		mux.Handle("GET /debug/pprof/", s.withToken(longer(pprof.Index)))
		mux.Handle("GET /debug/pprof/profile", s.withToken(longer(pprof.Profile)))
		mux.Handle("GET /debug/pprof/trace", s.withToken(longer(pprof.Trace)))
		mux.Handle("GET /debug/pprof/symbol", s.withToken(pprof.Symbol))
		mux.Handle("GET /debug/pprof/cmdline", s.withToken(http.NotFound)) // a command line may hold a secret
	}
	static, _ := fs.Sub(files, "static") // embedded, so the error is always nil
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static)))
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /logout", s.logout)
	for pattern, handler := range s.pages() {
		mux.Handle(pattern, s.withSession(handler))
	}
	return s.guard(mux)
}

// api are the routes of the API. openapi.json describes each; a test compares.
func (s *Server) api() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /api/status":                               s.getStatus,
		"GET /api/destinations":                         s.getDestinations,
		"GET /api/destinations/{tenant}/{name}":         s.getDestination,
		"POST /api/destinations/{tenant}/{name}/pause":  s.postDestination("pause"),
		"POST /api/destinations/{tenant}/{name}/resume": s.postDestination("resume"),
		"POST /api/destinations/{tenant}/{name}/resync": s.postDestination("resync"),
		"POST /api/destinations/{tenant}/{name}/retry":  s.postDestination("retry"),
		"POST /api/retry":                               s.postRetry,
		"GET /api/tables":                               s.getTables,
		"GET /api/errors":                               s.getErrors,
		"GET /api/switches":                             s.getSwitches,
		"POST /api/switches/{name}":                     s.postSwitch,
		"GET /api/openapi.json":                         s.getOpenAPI,
		"/api/":                                         s.noRoute,
	}
}

// longer lets an answer take as long as a profile does.
func longer(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(5 * time.Minute))
		next(w, r)
	}
}

// livez says whether the process' own loops run, without asking a database.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	if !s.sampler.Alive(time.Now()) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "stuck\n")
		return
	}
	_, _ = io.WriteString(w, "alive\n")
}

// readyz says whether the process streams, or waits as a standby. The state of single destinations is no matter here.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	role := "connecting"
	if p, _ := s.current(); p != nil {
		role = p.Reader.State().String()
	}
	if role == "connecting" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, role)
}
