package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// eventEvery is the time between two updates of an open page's regions.
const eventEvery = time.Second

// eventsFor is the time after which a stream of events ends. A browser opens another stream by itself; a client that reads nothing gives its
// place back.
const eventsFor = 10 * time.Minute

// streamEvents sends the changed regions of a page, as long as a client listens.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("page")
	if regions[name] == nil {
		s.fail(w, r, http.StatusNotFound, "there is no such page")
		return
	}
	select {
	case s.events <- struct{}{}:
		defer func() { <-s.events }()
	default:
		s.fail(w, r, http.StatusServiceUnavailable, "%d pages are open already; this page is not updated", maxEvents)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // the server's own would end the stream
	tick := time.NewTicker(eventEvery)
	defer tick.Stop()
	over := time.NewTimer(eventsFor)
	defer over.Stop()
	sent := map[string]string{}
	for {
		if !s.Token.IsZero() && !s.bearer(r) && !s.session(r) {
			return // the session has ended meanwhile
		}
		event, err := s.event(r, name, sent)
		if err != nil {
			return // such as a removed destination: the page says so when loaded again
		}
		_ = control.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := w.Write(event); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-s.ending:
			return
		case <-over.C:
			return
		case <-tick.C:
		}
	}
}

// event renders the regions that differ from the regions sent last.
func (s *Server) event(r *http.Request, name string, sent map[string]string) ([]byte, error) {
	v, err := s.view(r, name)
	if err != nil {
		return nil, err
	}
	changed := map[string]string{}
	for _, region := range regions[name] {
		var b bytes.Buffer
		if err := templates[name].ExecuteTemplate(&b, region, v); err != nil {
			s.Log.Error("a part of a page cannot be rendered", zap.String("part", region), zap.Error(err))
			return nil, err
		}
		if html := b.String(); sent[region] != html {
			sent[region], changed[region] = html, html
		}
	}
	if len(changed) == 0 {
		return []byte(": nothing new\n\n"), nil
	}
	data, err := json.Marshal(changed) // JSON has no line ends of its own
	return fmt.Appendf(nil, "event: update\ndata: %s\n\n", data), err
}
