package admin

import (
	"net/http"
	"net/url"

	"outflow/admin/monitor"
	"outflow/sink/ledger"
)

// confirmPage asks for a confirmation, names the effect of the order, and takes a reason.
type confirmPage struct {
	page
	Question string
	Means    []string
	Button   string
	Post     string            // where the form goes
	Fields   map[string]string // sent with the form
	Back     string
}

// destinationURL is the page of a destination. Names go into the query and not into the path: a name may have slashes and dots.
func destinationURL(tenant, name string) string {
	return "/destination?" + url.Values{"tenant": {tenant}, "name": {name}}.Encode()
}

// confirmDestination shows what pause or resync of a destination costs. GET, so nothing is done yet.
func (s *Server) confirmDestination(w http.ResponseWriter, r *http.Request) {
	tenant, name, action := r.URL.Query().Get("tenant"), r.URL.Query().Get("name"), r.PathValue("action")
	found, ok := s.find(tenant, name)
	if !ok {
		s.fail(w, r, http.StatusNotFound, "tenant %q has no destination %q here", tenant, name)
		return
	}
	c := confirmPage{page: s.page(r, title(action), ""), Post: "/destination/" + action, Back: destinationURL(tenant, name),
		Fields: map[string]string{"tenant": tenant, "name": name}}
	switch action {
	case "pause":
		c.Question, c.Button = "Pause "+found.Tenant+"/"+found.Name+"?", "Pause"
		c.Means = []string{
			"Outflow applies nothing in this database until you resume it. All other destinations go on.",
			"Changes wait in the destination's queue. When the queue is full, the destination is parked: the primary retains no WAL for it, and it is copied again when you resume it.",
		}
	case "resync":
		c.Question, c.Button = "Copy "+found.Tenant+"/"+found.Name+" again?", "Copy again"
		c.Means = []string{
			"Outflow reads all rows of this tenant from the primary's tables, compares them, and deletes rows that the primary no longer has.",
			"Live changes go on. Equal rows are not rewritten, but the primary must read every row.",
		}
	default:
		s.fail(w, r, http.StatusNotFound, "there is no such action")
		return
	}
	s.render(w, http.StatusOK, "confirm", c)
}

// actOnDestination acts, and redirects with 303, so that a reload of the page does not act again.
func (s *Server) actOnDestination(w http.ResponseWriter, r *http.Request) {
	tenant, name := r.PostFormValue("tenant"), r.PostFormValue("name")
	if err := s.act(r, tenant, name, r.PathValue("action"), orderOf(r)); err != nil {
		s.refused(w, r, err)
		return
	}
	http.Redirect(w, r, destinationURL(tenant, name), http.StatusSeeOther)
}

// orderOf is the order in a form of the dashboard. The form itself is the confirmation.
func orderOf(r *http.Request) order {
	off := r.PostFormValue("off") == "true"
	return order{Off: &off, By: orElse(r.PostFormValue("by"), "dashboard"), Reason: r.PostFormValue("reason"), Confirm: r.PostFormValue("confirm") == "true"}
}

// confirmSwitch shows what switching off costs. Switching on costs nothing and asks nothing.
func (s *Server) confirmSwitch(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if monitor.SwitchTitle(name) == "" {
		s.fail(w, r, http.StatusNotFound, "there is no such switch")
		return
	}
	s.render(w, http.StatusOK, "confirm", confirmPage{page: s.page(r, "Switch off", ""), Question: "Switch off: " + monitor.SwitchTitle(name) + "?",
		Means: s.costs(name), Button: "Switch off", Post: "/switches/" + name, Fields: map[string]string{"off": "true"}, Back: "/switches"})
}

// costs names the price of a switch that is off, with the room left on the primary where the primary keeps WAL for the switch.
func (s *Server) costs(name string) []string {
	switch name {
	case ledger.SwitchApplying:
		return []string{
			"Every destination pauses: changes are read, and wait in the destination's queue.",
			"A destination whose queue is full, or that has waited for sink.park_after, is parked: the primary retains no WAL for it, and it is copied again later.",
		}
	case ledger.SwitchBackfills:
		return []string{
			"No destination is copied from the tables; destinations that wait for a copy keep waiting. Live changes go on for all others.",
			"The primary retains no WAL because of this switch.",
		}
	}
	slot := s.look().Slot
	safe := "max_slot_wal_keep_size sets no limit: the primary retains WAL until its disk is full."
	if slot.SafeBytes != nil {
		safe = "After " + monitor.BytesText(*slot.SafeBytes) + " more WAL the slot is lost, and every destination must be copied again."
	} else if slot.CheckedAt == nil {
		safe = "The limit is not known yet."
	}
	return []string{"No destination gets changes until you switch reading on again.", "The primary retains all WAL from now on. " + safe}
}

// actOnSwitch sets a switch, and redirects as actOnDestination does.
func (s *Server) actOnSwitch(w http.ResponseWriter, r *http.Request) {
	if err := s.turn(r, r.PathValue("name"), orderOf(r)); err != nil {
		s.refused(w, r, err)
		return
	}
	http.Redirect(w, r, "/switches", http.StatusSeeOther)
}
