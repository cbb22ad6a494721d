// Package lifecycle is the state machine of a destination: its phases, the events that move it, and what each event asks of the destination. The
// package is pure: no lock, no clock, no server. A destination holds one [Life], tells [Life.Next] of every event, and carries out the [Actions];
// so every order of events can be played without a server, and is (model_test.go).
//
// # Phases
//
// Three phases are independent of one another. The work is what the worker does:
//
//	resting   no goroutine, and often no connection
//	working   a goroutine works; the session and the queue are the worker's alone
//	waiting   a timer runs, after which a worker tries again
//
// The stream is whether the slot waits for the destination:
//
//	unread    the process has not had the slot yet
//	attached  changes are queued, and their tickets are held
//	detached  parked: the primary has noted a higher epoch, changes are passed by, and all rows are copied when the destination is back
//	removed   no longer in the configuration
//
// The health is whether the external database takes changes:
//
//	well      as far as is known
//	failing   tries again
//	halted    a person is needed; the worker tries again seldom, and a halt ends only when the failed work is done
//
// The renewal says what the worker does before the next piece of work: keep the session, reconnect, or discard the queue too, since all rows are
// copied. The other fields of [Life] are facts: what they mean is said there.
//
// # What is shown
//
// The state in the API, in the metrics and on the primary is derived from the life alone (StateOf in package status); the first line that holds counts:
//
//	unusable           halted
//	paused             paused
//	halted             halted
//	detached           parked
//	failing            retrying
//	not current        backfilling
//	reading is off     paused
//	else               streaming
//
// # Guarantees
//
// Whatever happens in whatever order:
//
//   - a transaction is acknowledged only when the external database has committed the transaction, or the primary has noted that all rows are
//     copied later;
//   - a parked destination has a higher epoch on the primary than in the external database;
//   - where there is work there is one worker or one timer, never two, and a removed destination leaves neither behind;
//   - no destination holds the slot forever, though the external database and all persons stay silent;
//   - every state has a way out.
//
// A test visits every state that events can lead to, together with the queue, the session, the primary's notes and the external database in a few
// bits each, and checks all that.
//
// # Rejected designs
//
// One phase with all combinations as values had some sixty values, most of them for the same reason in three variants. Separate booleans, each set
// where it was convenient, let a state be reached that no line of the code named. Callbacks in the place of actions would hide what an event does,
// and could not be played without a server.
//
// # Events and transitions
//
// An arrow is a phase or a renewal before and after the event, "not" is a fact that no longer holds. Behind the semicolon are the actions, with "?"
// where the event asks for an action in some states only.
//
//	begunCurrent: the process has the slot, and the primary notes that the stream alone keeps the destination up to date
//		unread→attached, current
//	begunBehind: the process has the slot, and the primary does not note so
//		resting→working, unread→attached, due; start
//	begunHalted: the process has the slot, and the primary notes that a person is needed
//		resting→working, unread→attached, well→halted, due; start
//	begunAgain: the process reads the slot again: a destination that was parked misses nothing from here on
//		resting→working, detached→attached, keep→reconnect, due; start?
//	begunLater: the process reads the slot again, and another process has raised the epoch meanwhile
//		resting→working, detached→attached, keep→reconnect, due; start?
//	arrived: there is work in the queue
//		resting→working; start?
//	nudged: there may be work beside the queue
//		resting→working, due; start?
//	visited: the external database without work is to be looked at
//		resting→working, keep→reconnect, due, not met, visiting; start
//	flushDue: commits of an idle destination may be flushed by now
//		resting→working; start
//	panicked: a goroutine beside the worker has panicked: the worker fails in its place
//		resting→working; start
//	unstarted: the process ends, and no worker starts any more
//		working→resting
//	stepped: the worker begins the next piece of work
//		reconnect→keep, discard→keep, not due; hangUp? rewind? drop? respecify?
//	turnedOver: the worker's connection is for another destination
//		keep→reconnect
//	opened: the worker has connected, in the noted epoch; every mapping is complete
//		current, met, not visiting
//	openedToCopy: the same, and rows are to be copied
//		detached→attached, due, met, not current, not visiting
//	openedLate: the worker has connected, and the epoch was raised meanwhile
//		due, met, not visiting
//	succeeded: the external database has taken what it refused before
//		failing→well, halted→well
//	chunkCopied: a chunk is committed, and more rows are to be copied
//		due
//	copyFinished: the last chunk is committed
//		current, due
//	rested: the worker has nothing to do: see MayRest
//		working→resting, not again, not visiting
//	restedUnsettled: the same, and the stream may still bring the change behind a noted halt
//		working→waiting, not again; wait
//	failed: the work has failed, and the queue holds transactions
//		working→resting, working→waiting, well→failing, discard→reconnect, due, not again, not visiting; hangUp rewind drop? record? wait? start?
//	failedIdle: the work has failed, and the queue holds nothing
//		working→resting, working→waiting, well→failing, discard→reconnect, due, not again, not visiting; hangUp rewind drop? record? wait? start?
//	failedForGood: the work has failed, and a person is needed
//		working→resting, working→waiting, well→halted, failing→halted, discard→reconnect, due, not again, not visiting; hangUp rewind drop? record? wait? start?
//	postponed: the work was rolled back, and the stream brings it again
//		working→resting, discard→reconnect, due, not again, not visiting; hangUp rewind drop? start?
//	interrupted: the work was rolled back, since the process ends
//		working→resting, discard→reconnect, not visiting; hangUp rewind drop?
//	pauseOver: the timer of the next try has run out
//		waiting→resting, waiting→working, due; start?
//	tryAsked: a person asks for a try, or the cause of the failure may have gone
//		resting→working, waiting→resting, waiting→working, due; stopWait? start?
//	epochRaised: the primary has noted a higher epoch: all rows are to be copied
//		not current
//	copyAsked: the same, for a copy that a person asks for: the copy begins at once
//		resting→working, waiting→resting, waiting→working, keep→discard, reconnect→discard, due, not current; stopWait? start?
//	outgrown: queued changes no longer fit their tables, and the primary has noted a higher epoch
//		keep→discard, reconnect→discard
//	unhalted: a person has changed the cause of a halt, or says so
//		halted→well
//	pausedByPerson: a person pauses the destination: the worker rests, without a connection
//		resting→working, paused; start?
//	resumed: the person lets the destination go on
//		resting→working, due, not paused; start?
//	replaced: the configuration has another specification for the destination
//		resting→working, waiting→resting, waiting→working, keep→reconnect, again, due; stopWait? cancel? start?
//	respecified: the destination has taken over its other specification: the next connection shows the new state
//		halted→well, not current, not unusable
//	respecifiedUnusable: the same, and the other specification cannot be used
//		halted→well, not current, unusable
//	notingBegun: a goroutine begins to write to the primary that the stream goes on without the destination
//		noting
//	notingFailed: the primary has not noted so
//		not noting
//	parked: the primary has noted so, with a higher epoch
//		resting→waiting, attached→detached, well→failing, well→halted, failing→halted, keep→reconnect, not noting; drop? record? wait? cancel?
//	noteRefused: the primary refuses the note of the destination
//		well→halted, failing→halted, refused
//	noteTriedAgain: the refused note is tried again
//		not refused
//	leaving: the destination is no longer in the configuration, and the primary has noted so
//		waiting→resting, attached→removed, detached→removed; stopWait? hangUp? drop? cancel?
//	ended: the process ends: the last worker has ended
//		waiting→resting; stopWait? hangUp
package lifecycle
