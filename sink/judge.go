package sink

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"outflow/internal/strictyaml"
	"outflow/sink/queue"
)

// A destination is parked because of the transactions which the destination holds: for how long without progress, and how much WAL the
// slot keeps because of the transactions. The state of the destination does not count, nor the number of changes of its configuration. A destination
// which waits for others is not at fault: the time of the destination does not run.

// judgeLimits are the limits of what a destination may cost the others. The zero limits are not valid.
type judgeLimits struct {
	ParkAfter time.Duration `yaml:"park_after" default:"5m" range:"1ms..168h"` // a destination that fails for so long is parked
	// SlowAfter: a destination that keeps all others waiting for so long is parked; a backfill lets others go first.
	SlowAfter   time.Duration       `yaml:"slow_after" default:"10s" range:"1ms..168h"`
	RetainedWAL strictyaml.ByteSize `yaml:"retained_wal" default:"1GiB" range:"1MiB..1048576GiB"` // WAL that the slot may retain before the destination holding the slot back is parked
}

// parkGrace is how long a destination that fails with a full queue may keep the reader waiting: a restart of its server, or one broken
// connection, is over sooner than a copy of all its rows.
const parkGrace = 2 * time.Second

// observation is a destination at one look.
type observation struct {
	oldest  int64          // sequence id of the oldest transaction that the destination holds; -1 is none
	reached queue.Position // how far the destination has come with the held transactions
	open    bool           // the reader holds the oldest transaction too: the rest of the transaction has not come
	bytes   int64          // in the queue
	over    bool           // the queue is over its bound, and the reader waits
	paused  bool
	unable  bool          // failed, or was given another specification, and does not work since; or paused
	waits   bool          // for others: for a connection that others have, or for the primary
	queued  bool          // waits for a connection that others have
	starved bool          // has a connection, and waits for the rest of a large transaction
	others  time.Duration // since another destination last committed
	replays int           // how often the stream was read again for the destination since its last commit
	leaving bool          // is being parked: what the destination holds will be let go of
}

// hold is how long a destination has held transactions, in time in which the destination could have made progress.
type hold struct {
	oldest  int64
	reached queue.Position
	held    time.Duration // the oldest transaction
	stood   time.Duration // without progress
	unable  time.Duration // without progress, and not at work
	waited  time.Duration // for others, without progress
	over    time.Duration // the queue was over its bound, less the time within the bound
	left    time.Duration // since the parking began
}

// after is the hold a while after the last look. A replay of earlier work is no progress.
func (h hold) after(o observation, d time.Duration) hold {
	if o.oldest < 0 {
		return hold{oldest: -1}
	}
	further := o.reached.ID > h.reached.ID || o.reached.ID == h.reached.ID && o.reached.Ordinal > h.reached.Ordinal
	if further {
		h.reached = o.reached
	}
	if o.over {
		h.over += d
	} else {
		h.over = max(h.over-d, 0)
	}
	if o.oldest != h.oldest {
		h.oldest, h.held, further, d = o.oldest, 0, true, 0
	}
	if further {
		h.stood, h.unable, h.waited = 0, 0, 0
	}
	switch {
	case o.waits:
		h.waited += d
	case !o.open || o.over:
		h.held += d
		h.stood += d
	}
	if o.unable && !o.waits {
		h.unable += d
	}
	if o.leaving {
		h.left += d
	} else {
		h.left = 0
	}
	return h
}

// retention is how long the slot has retained more WAL than allowed, without a new least: while a backlog shrinks, nobody is at fault.
type retention struct {
	least int64
	still time.Duration
}

func (t retention) after(retained, limit int64, d time.Duration) retention {
	switch {
	case retained <= limit:
		return retention{}
	case t.least == 0 || retained < t.least:
		return retention{least: retained}
	}
	t.still += d
	return t
}

// situation is shared by all destinations at a look.
type situation struct {
	read    int64         // sequence id up to which the stream was read
	written int64         // sequence id at the end of the primary's WAL, as last known
	still   time.Duration // the slot has retained too much WAL, and never less: see retention
	excess  int64         // bytes to be freed until the reader goes on, where the memory for all queues is used up; else 0
	jam     time.Duration // for how long the reader, the connections, and the queues have waited for one another: see jammed
}

// jamGrace is how long a jam lasts at the least before a destination is parked: a jam does not end by itself.
const jamGrace = time.Second

// jammed reports whether the reader waits for the queues, the queues for connections, and those who have the connections for the reader: a
// transaction has changes of more destinations than there are connections, and more changes than the queues hold. An external transaction
// is not given up in its middle, so a destination without a connection has to make room.
func jammed(all []suspect) bool {
	starved := false
	for _, s := range all {
		if !s.queued && !s.starved && !s.observation.unable && !s.leaving {
			return false
		}
		starved = starved || s.starved
	}
	return starved
}

// suspect is a destination before the judge. The index belongs to the caller.
type suspect struct {
	observation
	hold
	index int
}

// sentence has a destination parked.
type sentence struct {
	index  int
	reason string
}

// judge names the destinations to park now. Destinations parked for their own standstill go at once: no others depend on them. Where the
// slot retains too much WAL, or memory is used up, the destination that holds the oldest transaction goes first, and the next when more
// is needed.
func judge(all []suspect, now situation, limit judgeLimits) []sentence {
	slices.SortStableFunc(all, func(a, b suspect) int { return cmp.Compare(a.observation.oldest, b.observation.oldest) })
	var parked []sentence
	short, leaving := now.excess > 0, false
	for _, s := range all {
		leaving = leaving || s.leaving && s.left < limit.SlowAfter
	}
	last := int64(-1) // the oldest transaction of the destination parked for the sake of others
	for _, s := range all {
		if s.leaving {
			continue
		}
		reason := s.standstill(limit)
		if reason == "" && !leaving {
			if reason = s.blocks(now); reason == "" && short && now.excess > 0 {
				reason = s.hoards(limit)
			}
			if reason != "" {
				now.excess -= s.bytes
			}
		}
		if reason == "" && !leaving && (last < 0 || last == s.observation.oldest && s.hold.unable > parkGrace) {
			if reason = s.retains(now, short, limit); reason != "" {
				last = s.observation.oldest
			}
		}
		if reason != "" {
			parked = append(parked, sentence{s.index, reason})
		}
	}
	return parked
}

// maxReplays is how often the stream is read again for a destination that does not take a large transaction: all others wait each time.
const maxReplays = 3

// standstill is the reason to park a destination for its own doing; "" is none.
func (s suspect) standstill(limit judgeLimits) string {
	switch {
	case s.paused && s.observation.over:
		return "the destination is paused and its queue is full"
	case s.observation.over && s.hold.unable > parkGrace:
		return "the destination fails and its queue is full"
	case s.replays > maxReplays:
		return fmt.Sprintf("the stream was read again %d times for a transaction that the destination did not take", s.replays)
	case s.paused && s.stood > limit.ParkAfter:
		return fmt.Sprintf("the destination has been paused for %s, and its queue holds the slot back", limit.ParkAfter)
	case s.observation.unable && s.stood > limit.ParkAfter:
		return fmt.Sprintf("the destination has failed for %s", limit.ParkAfter)
	case s.stood > limit.ParkAfter:
		return fmt.Sprintf("the destination has held the slot back for %s without progress", limit.ParkAfter)
	case s.observation.over && s.hold.over > limit.SlowAfter && s.others < s.hold.over+time.Minute: // without others a destination may take long
		return fmt.Sprintf("the destination has kept all others waiting for %s", limit.SlowAfter)
	}
	return ""
}

// blocks is the reason to park a destination in a jam; "" is none.
func (s suspect) blocks(now situation) string {
	if now.jam <= jamGrace || !s.queued || s.bytes == 0 || now.excess <= 0 && !s.observation.over {
		return ""
	}
	return "a transaction has more changes than the queues hold, for more destinations than sink.max_connections"
}

// hoards is the reason to park an idle destination while all others wait for memory; "" is none.
func (s suspect) hoards(limit judgeLimits) string {
	switch {
	case s.bytes == 0:
	case s.paused:
		return "the destination is paused and the memory for all queues is used up"
	case s.hold.unable > parkGrace:
		return "the destination fails and the memory for all queues is used up"
	case s.stood > limit.SlowAfter:
		return fmt.Sprintf("the destination has made no progress for %s, and the memory for all queues is used up", limit.SlowAfter)
	}
	return ""
}

// retains is the reason to park a destination because of the WAL that the slot keeps for it; "" is none. Unread WAL is kept
// for a destination only where the reader waits for the destination.
func (s suspect) retains(now situation, short bool, limit judgeLimits) string {
	end := now.read
	if s.observation.over || short {
		end = max(now.written, end)
	}
	if s.open && !s.observation.over || end-s.observation.oldest <= int64(limit.RetainedWAL) {
		return ""
	}
	slow := s.held > limit.SlowAfter || s.hold.over > limit.SlowAfter
	if s.paused || s.hold.unable > parkGrace || slow && now.still > parkGrace || s.waited > limit.ParkAfter {
		return "the primary retains more WAL for the destination than sink.retained_wal"
	}
	return ""
}
