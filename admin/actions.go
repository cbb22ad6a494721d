package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"outflow/admin/monitor"
	"outflow/sink/ledger"
)

// order is a requested change, and the body of every POST of the API.
type order struct {
	Off     *bool  `json:"off"`     // of a switch
	By      string `json:"by"`      // who gives the order
	Reason  string `json:"reason"`  // why
	Halted  bool   `json:"halted"`  // of a retry of many: only destinations that need a person
	Confirm bool   `json:"confirm"` // the order is meant: where rows are copied again, or the primary keeps WAL
}

// refusal is an order that was not carried out, with the status for the reason.
type refusal struct {
	status int
	error
}

// refuse is the error of an action that was not carried out. The status tells a program what to do: 400 correct the request, 404 correct the name,
// 409 confirm, 503 try again later.
func refuse(status int, format string, args ...any) error {
	return refusal{status, fmt.Errorf(format, args...)}
}

const (
	actionTimeout = 10 * time.Second
	maxReason     = 500 // characters of a reason, and of a name
)

// check bounds the texts of a request, which go into the log, into notes on the primary and onto pages.
func (o *order) check() error {
	for what, text := range map[string]string{"reason": o.Reason, "by": o.By} {
		if !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxReason {
			return refuse(http.StatusBadRequest, "%s: expected at most %d characters", what, maxReason)
		}
	}
	return nil
}

// act carries out an action on one destination: pause, resume, retry or resync.
func (s *Server) act(r *http.Request, tenant, name, action string, o order) error {
	if err := o.check(); err != nil {
		return err
	}
	p, _ := s.current()
	if p == nil {
		return refuse(http.StatusServiceUnavailable, "there is no connection to the primary, where Outflow would write this request")
	}
	if _, ok := s.find(tenant, name); !ok && !p.Has(tenant, name) {
		return refuse(http.StatusNotFound, "tenant %q has no destination %q here", tenant, name)
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	defer s.Store.Close() // actions are rare; the connection need not be kept for the next action
	var err error
	switch action {
	case "pause", "resume":
		err = s.Store.SetSwitch(ctx, ledger.Switch{Kind: ledger.SwitchDestination, Tenant: tenant, Name: name, Off: action == "pause",
			By: s.who(r, o), Reason: o.Reason})
	case "resync":
		if !o.Confirm {
			return refuse(http.StatusConflict, "a resync copies all rows of the destination again; confirm with \"confirm\": true")
		}
		var n int64
		n, err = s.Store.RequestResync(ctx, tenant, name, s.who(r, o), o.Reason)
		if err == nil && n == 0 {
			return refuse(http.StatusConflict, "the primary has no note of this destination yet; a copy is due anyway")
		}
	case "retry":
		_, err = s.Store.RequestRetry(ctx, tenant, name, s.who(r, o), o.Reason)
	default:
		return refuse(http.StatusNotFound, "there is no action %q; expected pause, resume, retry or resync", action)
	}
	return s.done(r, err, o, action, zap.String("tenant", tenant), zap.String("destination", name))
}

// retryAll asks for a try of all destinations, or of the halted ones.
func (s *Server) retryAll(r *http.Request, o order) error {
	if err := o.check(); err != nil {
		return err
	}
	if p, _ := s.current(); p == nil {
		return refuse(http.StatusServiceUnavailable, "there is no connection to the primary, where Outflow would write this request")
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	defer s.Store.Close()
	ask := s.Store.RequestRetry
	if o.Halted {
		ask = s.Store.RequestRetryHalted
	}
	n, err := ask(ctx, "", "", s.who(r, o), o.Reason)
	return s.done(r, err, o, "retry", zap.Bool("halted", o.Halted), zap.Int64("destinations", n))
}

// turn sets one of the three fuses.
func (s *Server) turn(r *http.Request, name string, o order) error {
	if err := o.check(); err != nil {
		return err
	}
	switch name {
	case ledger.SwitchReading, ledger.SwitchApplying, ledger.SwitchBackfills:
	default:
		return refuse(http.StatusNotFound, "there is no switch %q; expected reading, applying or backfills", name)
	}
	if o.Off == nil {
		return refuse(http.StatusBadRequest, "off: required, true or false")
	}
	if *o.Off && name != ledger.SwitchBackfills && !o.Confirm {
		return refuse(http.StatusConflict, "%s; confirm with \"confirm\": true", map[string]string{
			ledger.SwitchReading:  "while reading is off, the primary retains all WAL",
			ledger.SwitchApplying: "if applying stays off, every destination is parked in the end and must be copied again"}[name])
	}
	if p, _ := s.current(); p == nil {
		return refuse(http.StatusServiceUnavailable, "there is no connection to the primary, where Outflow would write this request")
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	defer s.Store.Close()
	err := s.Store.SetSwitch(ctx, ledger.Switch{Kind: name, Off: *o.Off, By: s.who(r, o), Reason: o.Reason})
	return s.done(r, err, o, "switch", zap.String("switch", name), zap.Bool("off", *o.Off))
}

// done puts on record who gave the order, and why.
func (s *Server) done(r *http.Request, err error, o order, action string, fields ...zap.Field) error {
	fields = append(fields, zap.String("action", action), zap.String("by", s.who(r, o)), zap.String("reason", o.Reason), zap.Error(err))
	if err != nil {
		s.Log.Warn("a request could not be written to the primary", fields...)
		return refuse(http.StatusServiceUnavailable, "the request could not be written to the primary: %v", err)
	}
	s.Log.Info("a request was written to the primary", fields...)
	s.lookMu.Lock()
	s.looked = nil
	s.lookMu.Unlock()
	return nil
}

// who is the name for the record: the name given in the request, and the address of the client.
func (s *Server) who(r *http.Request, o order) string {
	return fmt.Sprintf("%s from %s", orElse(o.By, "admin api"), remote(r))
}

// orElse is s, or the other text where s is empty.
func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// refused answers a request whose action failed. An error without a status is a fault of the program or of the primary: 500.
func (s *Server) refused(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	if no := (refusal{}); errors.As(err, &no) {
		status = no.status
	}
	s.fail(w, r, status, "%v", monitor.Clean(err.Error()))
}

// accepted answers an order: the order stands on the primary, and every process notices within a second.
type accepted struct {
	Accepted bool `json:"accepted"`
}

// postDestination handles POST /api/destinations/{tenant}/{name}/{action}.
func (s *Server) postDestination(action string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.carryOut(w, r, func(o order) error { return s.act(r, r.PathValue("tenant"), r.PathValue("name"), action, o) })
	}
}

// postSwitch handles POST /api/switches/{name}.
func (s *Server) postSwitch(w http.ResponseWriter, r *http.Request) {
	s.carryOut(w, r, func(o order) error { return s.turn(r, r.PathValue("name"), o) })
}

// postRetry handles POST /api/retry.
func (s *Server) postRetry(w http.ResponseWriter, r *http.Request) {
	s.carryOut(w, r, func(o order) error { return s.retryAll(r, o) })
}

// carryOut reads a request, acts, and answers 202: the request is committed on the primary, and not yet carried out.
func (s *Server) carryOut(w http.ResponseWriter, r *http.Request, do func(order) error) {
	var o order
	if err := decode(r, &o); err != nil {
		s.fail(w, r, http.StatusBadRequest, "%v", err)
		return
	}
	if err := do(o); err != nil {
		s.refused(w, r, err)
		return
	}
	s.answerWith(w, http.StatusAccepted, accepted{true})
}
