package lifecycle

// Event is something that happens to a destination.
type Event uint8

// The events, each with its meaning in the table of the package.
const (
	BegunCurrent Event = iota
	BegunBehind
	BegunHalted
	BegunAgain
	BegunLater
	Arrived
	Nudged
	Visited
	FlushDue
	Panicked
	Unstarted
	Stepped
	TurnedOver
	Opened
	OpenedToCopy
	OpenedLate
	Succeeded
	ChunkCopied
	CopyFinished
	Rested
	RestedUnsettled
	Failed
	FailedIdle
	FailedForGood
	Postponed
	Interrupted
	PauseOver
	TryAsked
	EpochRaised
	CopyAsked
	Outgrown
	Unhalted
	PausedByPerson
	Resumed
	Replaced
	Respecified
	RespecifiedUnusable
	NotingBegun
	NotingFailed
	Parked
	NoteRefused
	NoteTriedAgain
	Leaving
	Ended

	events = int(Ended) + 1
)

// rule is what an event means and does.
type rule struct {
	name, means string
	next        func(Life) (Life, Actions)
}

// String is the name of the event.
func (e Event) String() string { return rules[e].name }

var rules = [events]rule{
	BegunCurrent: {"begunCurrent", "the process has the slot, and the primary notes that the stream alone keeps the destination up to date",
		func(l Life) (Life, Actions) {
			l.Stream, l.Current = Attached, true
			return l, 0
		}},
	BegunBehind: {"begunBehind", "the process has the slot, and the primary does not note so",
		func(l Life) (Life, Actions) {
			l.Stream, l.Due = Attached, true
			return l.wake()
		}},
	BegunHalted: {"begunHalted", "the process has the slot, and the primary notes that a person is needed",
		func(l Life) (Life, Actions) {
			l.Stream, l.Health, l.Due = Attached, Halted, true
			return l.wake()
		}},
	BegunAgain: {"begunAgain", "the process reads the slot again: a destination that was parked misses nothing from here on",
		func(l Life) (Life, Actions) {
			if l.Stream == Detached {
				return l.begunLater()
			}
			if l.Due = l.Due || !l.Current || l.Renew != Keep; !l.Due {
				return l, 0
			}
			return l.wake()
		}},
	BegunLater: {"begunLater", "the process reads the slot again, and another process has raised the epoch meanwhile", Life.begunLater},

	Arrived:  {"arrived", "there is work in the queue", Life.wake},
	Nudged:   {"nudged", "there may be work beside the queue", Life.nudged},
	Visited:  {"visited", "the external database without work is to be looked at", Life.visited},
	FlushDue: {"flushDue", "commits of an idle destination may be flushed by now", Life.startAnyhow},
	Panicked: {"panicked", "a goroutine beside the worker has panicked: the worker fails in its place", Life.startAnyhow},
	Unstarted: {"unstarted", "the process ends, and no worker starts any more",
		func(l Life) (Life, Actions) {
			l.Work = Resting
			return l, 0
		}},

	Stepped: {"stepped", "the worker begins the next piece of work", Life.stepped},
	TurnedOver: {"turnedOver", "the worker's connection is for another destination",
		func(l Life) (Life, Actions) {
			l.Renew = max(l.Renew, Reconnect)
			return l, 0
		}},
	Opened:       {"opened", "the worker has connected, in the noted epoch; every mapping is complete", func(l Life) (Life, Actions) { return l.opened(true) }},
	OpenedToCopy: {"openedToCopy", "the same, and rows are to be copied", func(l Life) (Life, Actions) { return l.opened(false) }},
	OpenedLate: {"openedLate", "the worker has connected, and the epoch was raised meanwhile",
		func(l Life) (Life, Actions) {
			l.Met, l.Visiting, l.Due = true, false, true
			return l, 0
		}},
	Succeeded: {"succeeded", "the external database has taken what it refused before",
		func(l Life) (Life, Actions) {
			l.Health = Well
			return l, 0
		}},
	ChunkCopied: {"chunkCopied", "a chunk is committed, and more rows are to be copied",
		func(l Life) (Life, Actions) {
			l.Current, l.Due = false, true
			return l, 0
		}},
	CopyFinished: {"copyFinished", "the last chunk is committed",
		func(l Life) (Life, Actions) {
			l.Current, l.Due = true, true
			return l, 0
		}},
	Rested: {"rested", "the worker has nothing to do: see MayRest",
		func(l Life) (Life, Actions) {
			l.Work, l.Again, l.Visiting = Resting, false, false
			return l, 0
		}},
	RestedUnsettled: {"restedUnsettled", "the same, and the stream may still bring the change behind a noted halt",
		func(l Life) (Life, Actions) {
			l.Work, l.Again, l.Visiting = Waiting, false, false
			return l, Wait
		}},

	Failed:        {"failed", "the work has failed, and the queue holds transactions", func(l Life) (Life, Actions) { return l.fails(Failing, false) }},
	FailedIdle:    {"failedIdle", "the work has failed, and the queue holds nothing", func(l Life) (Life, Actions) { return l.fails(Failing, true) }},
	FailedForGood: {"failedForGood", "the work has failed, and a person is needed", func(l Life) (Life, Actions) { return l.fails(Halted, false) }},
	Postponed: {"postponed", "the work was rolled back, and the stream brings it again",
		func(l Life) (Life, Actions) {
			l.Again = true
			return l.fails(Failing, false)
		}},
	Interrupted: {"interrupted", "the work was rolled back, since the process ends", Life.ends},
	PauseOver: {"pauseOver", "the timer of the next try has run out",
		func(l Life) (Life, Actions) {
			l.Work, l.Due = Resting, true
			return l.wake()
		}},
	TryAsked: {"tryAsked", "a person asks for a try, or the cause of the failure may have gone", Life.hurry},

	EpochRaised: {"epochRaised", "the primary has noted a higher epoch: all rows are to be copied",
		func(l Life) (Life, Actions) {
			l.Current = false
			return l, 0
		}},
	CopyAsked: {"copyAsked", "the same, for a copy that a person asks for: the copy begins at once",
		func(l Life) (Life, Actions) {
			l.Current, l.Renew = false, Discard
			return l.hurry()
		}},
	Outgrown: {"outgrown", "queued changes no longer fit their tables, and the primary has noted a higher epoch",
		func(l Life) (Life, Actions) {
			l.Renew = Discard
			return l, 0
		}},
	Unhalted: {"unhalted", "a person has changed the cause of a halt, or says so", func(l Life) (Life, Actions) { return l.unhalted(), 0 }},
	PausedByPerson: {"pausedByPerson", "a person pauses the destination: the worker rests, without a connection",
		func(l Life) (Life, Actions) {
			l.Paused = true
			return l.startAnyhow()
		}},
	Resumed: {"resumed", "the person lets the destination go on",
		func(l Life) (Life, Actions) {
			l.Paused, l.Due = false, true
			return l.wake()
		}},
	Replaced: {"replaced", "the configuration has another specification for the destination", Life.replaced},
	Respecified: {"respecified", "the destination has taken over its other specification: the next connection shows the new state",
		func(l Life) (Life, Actions) {
			l.Current, l.Unusable = false, false
			return l.unhalted(), 0
		}},
	RespecifiedUnusable: {"respecifiedUnusable", "the same, and the other specification cannot be used",
		func(l Life) (Life, Actions) {
			l.Current, l.Unusable = false, true
			return l.unhalted(), 0
		}},

	NotingBegun: {"notingBegun", "a goroutine begins to write to the primary that the stream goes on without the destination",
		func(l Life) (Life, Actions) {
			l.Noting = true
			return l, 0
		}},
	NotingFailed: {"notingFailed", "the primary has not noted so",
		func(l Life) (Life, Actions) {
			l.Noting = false
			return l, 0
		}},
	Parked: {"parked", "the primary has noted so, with a higher epoch", Life.parked},
	NoteRefused: {"noteRefused", "the primary refuses the note of the destination",
		func(l Life) (Life, Actions) {
			l.Refused, l.Health = true, Halted
			return l, 0
		}},
	NoteTriedAgain: {"noteTriedAgain", "the refused note is tried again",
		func(l Life) (Life, Actions) {
			l.Refused = false
			return l, 0
		}},
	Leaving: {"leaving", "the destination is no longer in the configuration, and the primary has noted so", Life.leaving},
	Ended: {"ended", "the process ends: the last worker has ended",
		func(l Life) (Life, Actions) {
			acts := HangUp
			if l.Work == Waiting {
				l.Work, acts = Resting, acts|StopWait
			}
			return l, acts
		}},
}

func (l Life) begunLater() (Life, Actions) {
	if l.Stream == Detached {
		l.Stream = Attached
	}
	l.Renew, l.Due = max(l.Renew, Reconnect), true
	return l.wake()
}

func (l Life) nudged() (Life, Actions) {
	l.Due = true
	return l.wake()
}

// visited gives up an idle connection, which has compared the metadata long ago.
func (l Life) visited() (Life, Actions) {
	l.Due, l.Met, l.Renew = true, false, max(l.Renew, Reconnect)
	l, acts := l.wake()
	l.Visiting = l.Work == Working
	return l, acts
}

// startAnyhow starts a worker where there is none, also for a paused destination.
func (l Life) startAnyhow() (Life, Actions) {
	if l.Work != Resting || l.Stream == Unread || l.Stream == Removed {
		return l, 0
	}
	l.Work = Working
	return l, Start
}

func (l Life) stepped() (Life, Actions) {
	l.Due = false
	if l.Renew == Keep {
		return l, 0
	}
	acts := HangUp | Rewind | Respecify
	if l.Stream == Detached || l.Renew == Discard {
		acts |= Drop
	}
	l.Renew = Keep
	return l, acts
}

// opened attaches a parked destination: a server that answers the login and hangs then holds nothing. The first snapshot of the copy is taken
// later.
func (l Life) opened(complete bool) (Life, Actions) {
	if l.Stream == Detached {
		l.Stream = Attached
	}
	l.Met, l.Visiting, l.Current = true, false, complete
	l.Due = l.Due || !complete
	return l, 0
}

func (l Life) unhalted() Life {
	if l.Health == Halted {
		l.Health = Well
	}
	return l
}

// replaced has the worker take another specification. Work in flight is rolled back, and done again there.
func (l Life) replaced() (Life, Actions) {
	l.Renew = max(l.Renew, Reconnect)
	if l.Work == Working {
		l.Again, l.Due = true, true
		return l, Cancel
	}
	return l.hurry()
}

// parked lets the stream go on. The queue of a destination with a worker is the worker's, which drops the queue when it fails.
func (l Life) parked() (Life, Actions) {
	if l.Noting = false; l.Stream == Removed {
		return l, 0
	}
	l.Stream, l.Renew = Detached, max(l.Renew, Reconnect)
	switch {
	case l.Work == Working:
		return l, Cancel
	case l.Work == Waiting, l.Paused:
		return l, Drop
	}
	switch {
	case l.Refused:
		l.Health = Halted
	case l.Health == Well:
		l.Health = Failing
	}
	l.Work = Waiting
	return l, Drop | Wait | Record
}

// leaving ends the destination for good. The queue of a destination with a worker is the worker's.
func (l Life) leaving() (Life, Actions) {
	l.Stream = Removed
	if l.Work == Working {
		return l, Cancel
	}
	acts := HangUp | Drop
	if l.Work == Waiting {
		l.Work, acts = Resting, acts|StopWait
	}
	return l, acts
}
