package lifecycle

// Life is the state of a destination without the data of the state: a small value, which only [Life.Next] changes. The zero Life is a destination
// of a process that has not had the slot yet.
//
// Three phases are independent of one another: what the worker does, whether the stream holds changes for the destination, and whether the
// external database takes them. The rest are facts that decide about the next move.
type Life struct {
	Work   WorkPhase
	Stream StreamPhase
	Health HealthPhase
	Renew  Renewal

	Due      bool // there is something to do beside the queue
	Paused   bool // by a person
	Current  bool // as far as is known, the stream alone keeps the external database up to date; else rows are copied
	Noting   bool // a goroutine writes to the primary that the stream goes on without the destination
	Again    bool // the worker was stopped to take another specification, and goes on at once
	Met      bool // the external database was reached since the process started, or since the last visit began
	Visiting bool // a visit waits for an answer
	Refused  bool // the primary refuses the note of the destination
	Unusable bool // the configuration of the destination has a fault
}

// WorkPhase is what the worker does.
type WorkPhase uint8

// The phases of the work.
const (
	Resting WorkPhase = iota // there is no worker
	Working                  // a goroutine works for the destination; the session and the front of the queue are its own
	Waiting                  // a timer runs, and then the worker tries again
)

// StreamPhase is whether the slot waits for the destination.
type StreamPhase uint8

// The phases at the stream.
const (
	Unread   StreamPhase = iota // the process has not had the slot yet: no worker starts
	Attached                    // changes are queued, and the slot waits for them
	Detached                    // parked: the primary has noted a higher epoch, changes are passed by, and all rows are copied on the return
	Removed                     // no longer in the configuration: the destination takes nothing, and no worker starts
)

// HealthPhase is whether the external database takes changes.
type HealthPhase uint8

// The phases of the health.
const (
	Well    HealthPhase = iota // takes changes, as far as is known
	Failing                    // tries again
	Halted                     // a person is needed
)

// Renewal is what has to be done about the session before the next piece of work.
type Renewal uint8

// The renewals, in the order of their weight.
const (
	Keep      Renewal = iota // nothing
	Reconnect                // the session is given up: its epoch, its specification or its connection is out of date
	Discard                  // the queue is dropped too: all rows are copied in an epoch that the primary has noted
)

// Actions are what an event asks of the destination.
type Actions uint16

// The actions. They are carried out in this order.
const (
	StopWait  Actions = 1 << iota // stop the timer of the next try
	HangUp                        // give up the session
	Rewind                        // take the queue from its front again
	Drop                          // drop the queue, and release its tickets
	Respecify                     // take over the specification that was set meanwhile
	Record                        // record the failure: the error, the number of failures, the length of the pause
	Wait                          // start the timer of the next try
	Cancel                        // cancel the worker's work: the worker then fails, and goes on from there
	Start                         // start the worker
)

// Has reports whether one of some actions is asked for.
func (a Actions) Has(some Actions) bool { return a&some != 0 }

// Next is the life after an event, and what is to be done about the event.
func (l Life) Next(e Event) (Life, Actions) { return rules[e].next(l) }

// wake starts the worker where there is none, and nothing speaks against one. There is work.
func (l Life) wake() (Life, Actions) {
	if l.Work != Resting || l.Paused || l.Stream == Unread || l.Stream == Removed {
		return l, 0
	}
	l.Work = Working
	return l, Start
}

// hurry ends a wait, and wakes.
func (l Life) hurry() (Life, Actions) {
	stop := Actions(0)
	if l.Work == Waiting {
		l.Work, stop = Resting, StopWait
	}
	l.Due = true
	l, acts := l.wake()
	return l, acts | stop
}

// MayRest reports whether a worker without work may end. ready says that the queue has work, stopping that the process ends. What is to be
// renewed is renewed first, or a paused destination would hold the slot that was to go on without it. A detached destination connects until the
// external database answers.
func (l Life) MayRest(ready, stopping bool) bool {
	if l.Stream == Removed || stopping {
		return l.Stream != Removed
	}
	return l.Renew == Keep && (l.Paused || !l.Due && !ready && l.Stream != Detached)
}

// Idle reports whether a failure keeps no work waiting, with a queue that is empty or not: the next visit, or the next change, tries again.
func (l Life) Idle(empty bool) bool {
	return empty && !l.Met && l.Current && l.Stream != Detached && l.Health != Halted
}

// ends is the end of the worker's work with a failure or by a stop: the session is given up, and the queue is taken from its front again, or
// dropped where the stream goes on without its transactions.
func (l Life) ends() (Life, Actions) {
	acts := HangUp | Rewind
	if l.Stream == Detached || l.Stream == Removed || l.Renew == Discard {
		acts |= Drop
	}
	if l.Renew == Discard {
		l.Renew = Reconnect
	}
	l.Work, l.Visiting = Resting, false
	return l, acts
}

// fails is the end of the worker's work with a failure. empty says that the queue holds nothing.
func (l Life) fails(to HealthPhase, empty bool) (Life, Actions) {
	l, acts := l.ends()
	switch {
	case l.Stream == Removed:
		return l, acts
	case l.Again: // no failure: the destination goes on with its other specification
		l.Again = false
		l, more := l.hurry()
		return l, acts | more
	}
	if l.Health != Halted {
		l.Health = to
	}
	if acts |= Record; !l.Idle(empty) {
		l.Work, acts = Waiting, acts|Wait
	}
	return l, acts
}
