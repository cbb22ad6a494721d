package judge

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"outflow/internal/strictyaml"
	"outflow/sink/queue"
)

// Limits are the limits of what a destination may cost the others. The zero limits are not valid.
type Limits struct {
	ParkAfter time.Duration `yaml:"park_after" default:"5m" range:"1ms..168h"` // a destination that fails for so long is parked
	// SlowAfter: a destination that keeps all others waiting for so long is parked; a backfill lets others go first.
	SlowAfter   time.Duration       `yaml:"slow_after" default:"10s" range:"1ms..168h"`
	RetainedWAL strictyaml.ByteSize `yaml:"retained_wal" default:"1GiB" range:"1MiB..1048576GiB"` // WAL that the slot may retain before the destination holding the slot back is parked
}

// ParkGrace is how long a destination that fails with a full queue may keep the reader waiting: a restart of its server, or one broken
// connection, is over sooner than a copy of all its rows.
const ParkGrace = 2 * time.Second

// Observation is a destination at one look.
type Observation struct {
	Oldest  int64          // sequence id of the oldest transaction that the destination holds; -1 is none
	Reached queue.Position // how far the destination has come with the held transactions
	Open    bool           // the reader holds the oldest transaction too: the rest of the transaction has not come
	Bytes   int64          // in the queue
	Over    bool           // the queue is over its bound, and the reader waits
	Paused  bool
	Unable  bool          // failed, or was given another specification, and does not work since; or paused
	Waits   bool          // for others: for a connection that others have, or for the primary
	Queued  bool          // waits for a connection that others have
	Starved bool          // has a connection, and waits for the rest of a large transaction
	Others  time.Duration // since another destination last committed
	Replays int           // how often the stream was read again for the destination since its last commit
	Leaving bool          // is being parked: what the destination holds will be let go of
}

// Hold is how long a destination has held transactions, in time in which the destination could have made progress.
type Hold struct {
	oldest  int64
	reached queue.Position
	held    time.Duration // the oldest transaction
	stood   time.Duration // without progress
	unable  time.Duration // without progress, and not at work
	waited  time.Duration // for others, without progress
	over    time.Duration // the queue was over its bound, less the time within the bound
	left    time.Duration // since the parking began
}

// After is the hold a while after the last look. A replay of earlier work is no progress.
func (h Hold) After(o Observation, d time.Duration) Hold {
	if o.Oldest < 0 {
		return Hold{oldest: -1}
	}
	further := o.Reached.ID > h.reached.ID || o.Reached.ID == h.reached.ID && o.Reached.Ordinal > h.reached.Ordinal
	if further {
		h.reached = o.Reached
	}
	if o.Over {
		h.over += d
	} else {
		h.over = max(h.over-d, 0)
	}
	if o.Oldest != h.oldest {
		h.oldest, h.held, further, d = o.Oldest, 0, true, 0
	}
	if further {
		h.stood, h.unable, h.waited = 0, 0, 0
	}
	switch {
	case o.Waits:
		h.waited += d
	case !o.Open || o.Over:
		h.held += d
		h.stood += d
	}
	if o.Unable && !o.Waits {
		h.unable += d
	}
	if o.Leaving {
		h.left += d
	} else {
		h.left = 0
	}
	return h
}

// Retention is how long the slot has retained more WAL than allowed, without a new least: while a backlog shrinks, no destination is at fault.
type Retention struct {
	least int64
	Still time.Duration
}

// After is the retention a while (d) after the last look. retained and limit are bytes.
func (t Retention) After(retained, limit int64, d time.Duration) Retention {
	switch {
	case retained <= limit:
		return Retention{}
	case t.least == 0 || retained < t.least:
		return Retention{least: retained}
	}
	t.Still += d
	return t
}

// Situation is shared by all destinations at a look.
type Situation struct {
	Read    int64         // sequence id up to which the stream was read
	Written int64         // sequence id at the end of the primary's WAL, as last known
	Still   time.Duration // the slot has retained too much WAL, and never less: see [Retention]
	Excess  int64         // bytes to be freed until the reader goes on, where the memory for all queues is used up; else 0
	Jam     time.Duration // for how long the reader, the connections, and the queues have waited for one another: see [Jammed]
}

// jamGrace is how long a jam lasts at least before a destination is parked: a jam does not end by itself.
const jamGrace = time.Second

// Jammed reports whether the reader waits for the queues, the queues for connections, and those who have the connections for the reader: a
// transaction has changes of more destinations than there are connections, and more changes than the queues hold. An external transaction
// is not given up in its middle, so a destination without a connection has to make room.
func Jammed(all []Suspect) bool {
	starved := false
	for _, s := range all {
		if !s.Queued && !s.Starved && !s.Observation.Unable && !s.Leaving {
			return false
		}
		starved = starved || s.Starved
	}
	return starved
}

// Suspect is a destination before the judge. The index belongs to the caller.
type Suspect struct {
	Observation
	Hold
	Index int
}

// Sentence has a destination parked, for a reason for people. The index is the caller's, of the [Suspect].
type Sentence struct {
	Index  int
	Reason string
}

// Judge names the destinations to park now. Destinations parked for their own standstill go at once: no others depend on them. Where the
// slot retains too much WAL, or memory is used up, the destination that holds the oldest transaction goes first, and the next when more
// is needed.
func Judge(all []Suspect, now Situation, limit Limits) []Sentence {
	slices.SortStableFunc(all, func(a, b Suspect) int { return cmp.Compare(a.Observation.Oldest, b.Observation.Oldest) })
	var parked []Sentence
	short, leaving := now.Excess > 0, false
	for _, s := range all {
		leaving = leaving || s.Leaving && s.left < limit.SlowAfter
	}
	last := int64(-1) // the oldest transaction of the destination parked for the sake of others
	for _, s := range all {
		if s.Leaving {
			continue
		}
		reason := s.standstill(limit)
		if reason == "" && !leaving {
			if reason = s.blocks(now); reason == "" && short && now.Excess > 0 {
				reason = s.hoards(limit)
			}
			if reason != "" {
				now.Excess -= s.Bytes
			}
		}
		if reason == "" && !leaving && (last < 0 || last == s.Observation.Oldest && s.Hold.unable > ParkGrace) {
			if reason = s.retains(now, short, limit); reason != "" {
				last = s.Observation.Oldest
			}
		}
		if reason != "" {
			parked = append(parked, Sentence{s.Index, reason})
		}
	}
	return parked
}

// maxReplays is how often the stream is read again for a destination that does not take a large transaction: all others wait each time.
const maxReplays = 3

// standstill is the reason to park a destination for its own doing; "" is none.
func (s Suspect) standstill(limit Limits) string {
	switch {
	case s.Paused && s.Observation.Over:
		return "the destination is paused and its queue is full"
	case s.Observation.Over && s.Hold.unable > ParkGrace:
		return "the destination fails and its queue is full"
	case s.Replays > maxReplays:
		return fmt.Sprintf("the stream was read again %d times for a transaction that the destination did not take", s.Replays)
	case s.Paused && s.stood > limit.ParkAfter:
		return fmt.Sprintf("the destination has been paused for %s, and its queue holds the slot back", limit.ParkAfter)
	case s.Observation.Unable && s.stood > limit.ParkAfter:
		return fmt.Sprintf("the destination has failed for %s", limit.ParkAfter)
	case s.stood > limit.ParkAfter:
		return fmt.Sprintf("the destination has held the slot back for %s without progress", limit.ParkAfter)
	case s.Observation.Over && s.Hold.over > limit.SlowAfter && s.Others < s.Hold.over+time.Minute: // without others a destination may take long
		return fmt.Sprintf("the destination has kept all others waiting for %s", limit.SlowAfter)
	}
	return ""
}

// blocks is the reason to park a destination in a jam; "" is none.
func (s Suspect) blocks(now Situation) string {
	if now.Jam <= jamGrace || !s.Queued || s.Bytes == 0 || now.Excess <= 0 && !s.Observation.Over {
		return ""
	}
	return "a transaction has more changes than the queues hold, for more destinations than sink.max_connections"
}

// hoards is the reason to park an idle destination while all others wait for memory; "" is none.
func (s Suspect) hoards(limit Limits) string {
	switch {
	case s.Bytes == 0:
	case s.Paused:
		return "the destination is paused and the memory for all queues is used up"
	case s.Hold.unable > ParkGrace:
		return "the destination fails and the memory for all queues is used up"
	case s.stood > limit.SlowAfter:
		return fmt.Sprintf("the destination has made no progress for %s, and the memory for all queues is used up", limit.SlowAfter)
	}
	return ""
}

// retains is the reason to park a destination because of the WAL that the slot keeps for it; "" is none. Unread WAL is kept
// for a destination only where the reader waits for the destination.
func (s Suspect) retains(now Situation, short bool, limit Limits) string {
	end := now.Read
	if s.Observation.Over || short {
		end = max(now.Written, end)
	}
	if s.Open && !s.Observation.Over || end-s.Observation.Oldest <= int64(limit.RetainedWAL) {
		return ""
	}
	slow := s.held > limit.SlowAfter || s.Hold.over > limit.SlowAfter
	if s.Paused || s.Hold.unable > ParkGrace || slow && now.Still > ParkGrace || s.waited > limit.ParkAfter {
		return "the primary retains more WAL for the destination than sink.retained_wal"
	}
	return ""
}
