package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// world is a destination with its surroundings, each in a few bits: the worker and the timer, the session, the queue, what the primary has
// noted, and what the external database has. All worlds that can be reached are visited (TestAllHistories).
type world struct {
	life      Life
	worker    bool // a goroutine runs
	cancelled bool // its work is
	timer     bool // of the next try
	session   session
	queued    bool // transactions that the external database does not have
	unflushed bool // transactions that a crash of the external server would take back
	database  database
	noting    noting
	asked     bool // the primary has noted a higher epoch, of which the destination does not know
	late      bool // the destination's epoch was raised since the worker began to connect
	spec      spec
	stopped   bool // the process ends
}

type session uint8

const (
	none    session = iota
	opening         // made for the piece of work in hand: no chunk is committed on it before the next piece of work
	current
	late // of an earlier epoch
)

// database is what the external database has, less the queue.
type database uint8

const (
	complete database = iota
	copying           // some rows are copied: later changes are needed
	begun             // the copy has begun, and no row is copied: no change so far is needed
	lacking           // the primary has noted an epoch that the database does not have: no change is needed
	swapped           // it is another database, of which the primary knows nothing yet
)

// noting is what a goroutine writes to the primary.
type noting uint8

const (
	nothing noting = iota
	parking
	parkingNoted // the primary has noted the parking, and the destination does not know
	parkingKnown // the primary has noted the parking, and a new reading of the slot has told the destination of the epoch
	removing
	removingNoted
)

type spec uint8

const (
	unchanged spec = iota
	usable
	unusable
)

// seen are all events that reach has played.
var seen played

// fault is a broken invariant.
type fault string

// happens plays an event and carries out its actions. byWorker says that the worker brings the event.
func (w world) happens(e Event, byWorker bool) world {
	seen.add(w.life, e)
	l, acts := w.life.Next(e)
	w.life = l
	broken := func(what string) { panic(fault(fmt.Sprintf("%s: %s, at %s", e, what, w))) }
	if acts.Has(StopWait) {
		if !w.timer {
			broken("a timer is stopped that does not run")
		}
		w.timer = false
	}
	if acts.Has(HangUp|Rewind|Drop|Respecify) && w.worker && !byWorker {
		broken("the session and the queue of a running worker are touched")
	}
	if acts.Has(HangUp) {
		w.session = none
	}
	if acts.Has(Rewind) && w.unflushed {
		w.queued, w.unflushed = true, false
	}
	if acts.Has(Drop) {
		if (w.queued || w.unflushed) && w.database != lacking && w.database != begun && l.Stream != Removed {
			broken("transactions are acknowledged that are neither committed nor noted as passed over")
		}
		w.queued, w.unflushed = false, false
	}
	if acts.Has(Respecify) {
		w = w.respecify()
	}
	switch e {
	case Rested, RestedUnsettled, Failed, FailedIdle, FailedForGood, Postponed, Interrupted:
		w.worker, w.cancelled = false, false
	}
	if acts.Has(Wait) {
		if w.timer {
			broken("a second timer is started")
		}
		w.timer = true
	}
	if acts.Has(Cancel) {
		w.cancelled = true
	}
	if acts.Has(Start) {
		if w.worker || w.timer {
			broken("a second worker is started, or a worker beside the timer")
		}
		if w.stopped {
			return w.happens(Unstarted, false)
		}
		w.worker, w.late = true, false
	}
	return w
}

func (w world) respecify() world {
	if w.spec == unchanged {
		return w
	}
	e := Respecified
	if w.spec == unusable {
		e = RespecifiedUnusable
	}
	w.spec = unchanged
	if w.database != lacking {
		w.database = swapped
	}
	return w.happens(e, true)
}

// raised says that the destination's epoch is raised.
func (w world) raised() world {
	if w.late = w.worker && w.session == none; w.session != none {
		w.session = late
	}
	return w
}

// String is everything that is not as in the zero world.
func (w world) String() string {
	l := w.life
	s := fmt.Sprint([]string{"resting", "working", "waiting"}[l.Work], " ", []string{"unread", "attached", "detached", "removed"}[l.Stream], " ",
		[]string{"well", "failing", "halted"}[l.Health], " ", []string{"", "reconnect", "discard"}[l.Renew])
	for _, fact := range []struct {
		name string
		is   bool
	}{
		{"due", l.Due}, {"paused", l.Paused}, {"current", l.Current}, {"noting", l.Noting}, {"again", l.Again}, {"met", l.Met}, {"visiting", l.Visiting},
		{"refused", l.Refused}, {"unusable", l.Unusable}, {"| worker", w.worker}, {"cancelled", w.cancelled}, {"timer", w.timer},
		{"queued", w.queued}, {"unflushed", w.unflushed}, {"asked", w.asked}, {"late", w.late}, {"stopped", w.stopped},
	} {
		if fact.is {
			s += " " + fact.name
		}
	}
	return fmt.Sprintf("%s session=%d database=%d noting=%d spec=%d", s, w.session, w.database, w.noting, w.spec)
}

// check finds a broken invariant.
func (w world) check() {
	l := w.life
	switch busy := w.queued || w.life.Due || w.life.Renew != Keep || l.Stream == Detached; {
	case w.worker != (l.Work == Working):
		panic(fault("the work phase and the worker differ"))
	case w.timer != (l.Work == Waiting):
		panic(fault("the work phase and the timer differ"))
	case l.Stream == Detached && w.database != lacking:
		panic(fault("parked, and the primary has noted no higher epoch than the external database has"))
	case l.Stream == Removed && !w.worker && (w.queued || w.unflushed || w.timer || w.session != none):
		panic(fault("removed, and something is left"))
	case l.Work == Resting && busy && !l.Paused && !w.stopped && l.Stream != Unread && l.Stream != Removed &&
		!(l.Health == Failing && l.Idle(!w.queued)) && // the next visit tries again
		!(l.Refused && l.Stream == Attached): // every checkpoint tries to park the destination
		panic(fault("there is work, and neither a worker nor a timer"))
	}
}

// move is a move in the world.
type move struct {
	by   mover
	what string
	to   world
}

type mover uint8

const (
	process  mover = iota // the destination with its worker and its timer, and the primary
	accident              // a failure that may come or not
	healthy               // the external database does what is asked
	person                // a person helps
	outside               // a person disturbs
)

// moves are all moves that are possible in a world.
func (w world) moves() (all []move) {
	add := func(by mover, what string, to world) { all = append(all, move{by, what, to}) }
	if w.life.Stream == Removed && !w.worker {
		return nil
	}
	if w.life.Stream == Unread {
		w.beginMoves(add)
		return all
	}
	if w.worker {
		w.workerMoves(add)
	}
	if w.timer {
		to := w
		to.timer = false
		add(process, "the timer runs out", to.happens(PauseOver, false))
	}
	if w.stopped {
		if !w.worker {
			add(process, "the process has ended", w.happens(Ended, false))
		}
		return all
	}
	w.restingMoves(add)
	w.streamMoves(add)
	w.notingMoves(add)
	w.personMoves(add)
	to := w
	to.stopped, to.noting, to.asked = true, nothing, false // what others wrote is the next process' to find
	add(outside, "the process ends", to)
	return all
}

func (w world) beginMoves(add func(by mover, what string, to world)) {
	if !w.life.Unusable {
		add(process, "begins, noted as up to date", w.happens(BegunCurrent, false))
	}
	add(process, "begins, noted as behind", w.happens(BegunBehind, false))
	add(process, "begins, noted as halted", w.happens(BegunHalted, false))
}

func (w world) streamMoves(add func(by mover, what string, to world)) {
	if w.life.Stream == Attached {
		to := w
		to.queued = true
		add(process, "changes come", to.happens(Arrived, false))
	}
	to := w
	if w.asked || w.noting == parkingNoted {
		if to.asked = false; to.noting == parkingNoted {
			to.noting = parkingKnown
		}
		add(accident, "the slot is read again, after another epoch", to.raised().happens(BegunLater, false))
		return
	}
	add(accident, "the slot is read again", to.happens(BegunAgain, false))
	to.database = lacking
	add(accident, "the slot is read again, after a takeover", to.raised().happens(BegunLater, false))
}

func (w world) notingMoves(add func(by mover, what string, to world)) {
	to := w
	switch w.noting {
	case nothing:
		if w.life.Stream == Attached && (w.queued || w.unflushed) {
			to.noting = parking
			add(process, "the destination is to be parked", to.happens(NotingBegun, false))
		}
		if !w.life.Refused {
			add(accident, "the primary refuses the note", w.happens(NoteRefused, false))
		} else if w.life.Stream == Attached {
			to.noting = parking
			add(process, "the refused destination is to be parked", to.happens(NotingBegun, false))
		}
	case parking:
		to.noting, to.database = parkingNoted, lacking
		add(process, "the primary notes the parking", to)
	case removing:
		to.noting, to.database = removingNoted, lacking
		add(process, "the primary notes the removal", to)
	case parkingNoted:
		to.noting = nothing
		add(process, "the destination is parked", to.raised().happens(Parked, false))
	case parkingKnown:
		to.noting = nothing
		add(process, "the parking is given up for the new reading", to.happens(NotingFailed, false))
	case removingNoted:
		to.noting, to.asked = nothing, false
		add(process, "the destination is removed", to.happens(Leaving, false))
	}
	if w.noting != nothing {
		to := w
		to.noting = nothing
		to.asked = w.asked || w.noting == parkingNoted || w.noting == removingNoted // the answer was lost, and the next checkpoint finds the epoch
		add(accident, "the note fails", to.happens(NotingFailed, false))
	}
}

func (w world) personMoves(add func(by mover, what string, to world)) {
	to := w
	to.asked, to.database = true, lacking
	add(outside, "a copy is asked for", to)
	if w.asked && w.noting == nothing {
		to := w
		to.asked = false
		add(process, "the request for a copy is found", to.raised().happens(Unhalted, false).happens(CopyAsked, false))
	}
	add(person, "a try is asked for", w.happens(TryAsked, false))
	if w.life.Paused {
		add(person, "resumed", w.happens(Resumed, false))
	} else {
		add(outside, "paused", w.happens(PausedByPerson, false))
	}
	to = w
	to.spec = usable
	add(person, "another specification", to.happens(Replaced, false))
	to.spec = unusable
	add(outside, "an unusable specification", to.happens(Replaced, false))
	if w.noting == nothing {
		to := w
		to.noting = removing
		add(outside, "taken out of the configuration", to.happens(NotingBegun, false))
	}
}

func (w world) restingMoves(add func(by mover, what string, to world)) {
	l := w.life
	add(process, "nudged", w.happens(Nudged, false))
	if l.Work != Resting {
		return
	}
	add(accident, "a goroutine panics", w.happens(Panicked, false))
	if w.session != none {
		if w.unflushed {
			add(process, "the flush is to be asked", w.happens(FlushDue, false))
		}
		to := w
		to.session = none
		add(process, "the idle connection is closed", to)
	}
	if (!l.Met || l.Current) && !l.Visiting && !l.Unusable && !l.Paused && !w.queued && !w.unflushed {
		add(process, "the external database is visited", w.happens(Visited, false))
	}
}

func (w world) workerMoves(add func(by mover, what string, to world)) {
	if w.life.Stream != Removed {
		to := w
		if to.late = false; w.session == opening { // the worker connects behind this
			to.session = current
		}
		add(process, "the next piece of work", to.happens(Stepped, true))
		if w.session != none {
			add(accident, "the connection is for others", w.happens(TurnedOver, true).happens(Stepped, true))
		}
	}
	w.failureMoves(add)
	if w.session == none {
		w.connectMoves(add)
	} else {
		w.sessionMoves(add)
	}
	if w.life.MayRest(w.queued, w.stopped) {
		to := w
		if w.life.Paused {
			to.session = none
		}
		add(process, "nothing to do", to.happens(Rested, true))
		if w.life.Health == Halted && w.life.Current && !w.life.Paused && !w.stopped && w.session != none && w.life.Stream == Attached && !w.queued {
			add(process, "nothing to do, and a noted halt", to.happens(RestedUnsettled, true))
		}
	}
}

func (w world) failureMoves(add func(by mover, what string, to world)) {
	if w.cancelled && w.stopped {
		add(process, "interrupted", w.happens(Interrupted, true))
	}
	by := accident
	if w.cancelled || w.session == none {
		by = process
	}
	if w.queued || w.unflushed {
		add(by, "the work fails", w.happens(Failed, true))
	} else {
		add(by, "the work fails", w.happens(FailedIdle, true))
	}
	add(accident, "the work is refused", w.happens(FailedForGood, true))
	if w.life.Stream == Removed || w.session == none {
		return
	}
	if w.queued {
		add(accident, "the rest of a transaction does not come", w.happens(Postponed, true))
		if w.noting == nothing {
			to := w
			to.database = lacking
			add(accident, "the changes are outgrown", to.raised().happens(EpochRaised, true).happens(Outgrown, true).happens(Failed, true))
		}
	}
}

// connectMoves connect. A session of an earlier epoch than the primary's leaves the database as it is, as far as the primary knows.
func (w world) connectMoves(add func(by mover, what string, to world)) {
	if w.life.Unusable || w.life.Stream == Removed || w.stopped {
		return
	}
	to := w
	if to.life.Refused {
		to = to.happens(NoteTriedAgain, true)
	}
	if w.late {
		to := to
		to.session, to.late = late, false
		add(healthy, "connects, and the epoch was raised meanwhile", to.happens(OpenedLate, true))
	}
	switch {
	case w.asked || w.noting == parkingNoted || w.noting == removingNoted:
		if to.session = late; w.life.Stream != Detached {
			add(healthy, "connects, before the raised epoch is known", to.happens(Opened, true))
		}
		add(healthy, "connects to copy, before the raised epoch is known", to.happens(OpenedToCopy, true))
	case w.database == complete:
		to.session = opening
		add(healthy, "connects", to.happens(Opened, true))
	default:
		if to.session = opening; w.database != copying {
			to.database = begun
		}
		add(healthy, "connects to copy", to.happens(OpenedToCopy, true))
	}
}

func (w world) sessionMoves(add func(by mover, what string, to world)) {
	if w.queued {
		to := w
		to.queued, to.unflushed = false, true
		add(healthy, "a batch is committed", to)
		add(healthy, "a batch is committed, which ends a time of failures", to.happens(Succeeded, true))
	}
	if w.unflushed {
		to := w
		to.unflushed = false
		add(healthy, "the commits are flushed", to)
	}
	if (w.database == copying || w.database == begun) && w.session == current {
		to := w
		to.database = copying
		add(healthy, "a chunk is committed", to.happens(ChunkCopied, true).happens(Succeeded, true))
		to.database = complete
		add(healthy, "the last chunk is committed", to.happens(CopyFinished, true).happens(Succeeded, true))
	}
	if w.life.Current && !w.queued {
		add(healthy, "the external database is well", w.happens(Succeeded, true))
	}
}

// history is how a world was reached first.
type history struct {
	from world
	what string
	n    int32
}

// edge is a move from one world to another, by their numbers.
type edge struct {
	from, to int32
	by       mover
}

// atlas is all worlds that can be reached, and the moves between them.
type atlas struct {
	seen   map[world]history
	worlds []world
	edges  []edge
}

// reach visits all worlds, breadth first, and fails at the first broken invariant with the shortest way there.
func reach(t *testing.T) *atlas {
	t.Helper()
	a := &atlas{seen: map[world]history{}}
	for _, db := range []database{complete, lacking, swapped} {
		for _, unusable := range []bool{false, true} {
			a.add(world{life: Life{Unusable: unusable}, database: db}, history{})
		}
	}
	for n := 0; n < len(a.worlds); n++ {
		w := a.worlds[n]
		var all []move
		if broken := attempt(func() { all = w.moves() }); broken != "" {
			t.Fatalf("%s\n%s", broken, a.way(w))
		}
		for _, m := range all {
			before, known := a.seen[m.to]
			if !known {
				before = a.add(m.to, history{from: w, what: m.what})
				if broken := attempt(m.to.check); broken != "" {
					t.Fatalf("%s\n%s", broken, a.way(m.to))
				}
			}
			a.edges = append(a.edges, edge{int32(n), before.n, m.by})
		}
	}
	return a
}

func (a *atlas) add(w world, h history) history {
	h.n = int32(len(a.worlds))
	a.seen[w] = h
	a.worlds = append(a.worlds, w)
	return h
}

func attempt(f func()) (broken string) {
	defer func() {
		if cause, is := recover().(fault); is {
			broken = string(cause)
		}
	}()
	f()
	return ""
}

// way is the shortest way to a world.
func (a *atlas) way(w world) string {
	var lines []string
	for {
		h := a.seen[w]
		lines = append(lines, fmt.Sprintf("%-60s %s", h.what, w))
		if h.what == "" {
			break
		}
		w = h.from
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// lost are the worlds that from asks for, and from which no allowed moves lead to a world that is good.
func (a *atlas) lost(from, good func(*world) bool, allowed func(mover) bool) (lost []world) {
	first := make([]int32, len(a.worlds)+1) // of the moves into a world
	for _, e := range a.edges {
		first[e.to]++
	}
	for i, n := range first[1:] {
		first[i+1] = first[i] + n
	}
	into := make([]int32, len(a.edges))
	for i, e := range a.edges {
		first[e.to]--
		into[first[e.to]] = int32(i)
	}
	leads := make([]bool, len(a.worlds))
	var queue []int32
	for i := range a.worlds {
		if good(&a.worlds[i]) {
			leads[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		to := queue[0]
		queue = queue[1:]
		for _, i := range into[first[to]:first[to+1]] {
			if e := a.edges[i]; allowed(e.by) && !leads[e.from] {
				leads[e.from] = true
				queue = append(queue, e.from)
			}
		}
	}
	for i := range a.worlds {
		if !leads[i] && from(&a.worlds[i]) {
			lost = append(lost, a.worlds[i])
		}
	}
	return lost
}

// Whatever happens in whatever order: nothing is acknowledged before the transaction is committed or durably passed over, parked means a raised
// epoch, there is one worker or one timer where there is work and neither without, the slot is held for no destination forever, and every state
// has a way out.
func TestAllHistories(t *testing.T) {
	t.Parallel()
	a := reach(t)
	seen.checkTable(t)
	t.Logf("%d worlds, %d moves", len(a.worlds), len(a.edges))
	ends := func(w *world) bool { return w.life.Stream == Removed || w.stopped }
	holds := func(w *world) bool { return w.queued || w.unflushed }
	allWell := func(w *world) bool {
		return w.life.Health == Well && w.life.Stream == Attached && w.life.Current && !w.life.Paused && !holds(w) && !w.life.Due && !w.asked
	}
	for _, c := range []struct {
		what       string
		from, good func(*world) bool
		allowed    func(mover) bool
	}{
		{"holds the slot forever, where neither the external database nor a person does anything", func(w *world) bool { return holds(w) && !ends(w) },
			func(w *world) bool { return !holds(w) }, func(by mover) bool { return by == process }},
		{"does not become well where the external database is", func(w *world) bool {
			return !ends(w) && !w.life.Paused && !w.life.Unusable && w.spec != unusable && !w.life.Refused && w.noting < removing
		}, allWell, func(by mover) bool { return by == process || by == healthy }},
		{"never becomes well again, whatever a person does", func(w *world) bool { return !ends(w) }, allWell, func(by mover) bool { return by != outside }},
		{"leaves a worker, a timer or a session behind", ends,
			func(w *world) bool { return !w.worker && !w.timer && w.session == none }, func(by mover) bool { return by == process }},
	} {
		if lost := a.lost(c.from, c.good, c.allowed); len(lost) > 0 {
			t.Errorf("the destination %s, in %d worlds, such as this:\n%s", c.what, len(lost), a.way(lost[0]))
		}
	}
}
