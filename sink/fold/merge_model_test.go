package fold

import (
	"fmt"
	"strings"

	"outflow/mapping"
	"outflow/replication/wal"
)

// The model: two keys; a table says of each whether it has a row and of which version. Transactions commit in the WAL, are
// read from the stream and applied in the order of the WAL, and become visible to others, in every order that Postgres allows.
// Beside that a destination copies the table and sweeps, as backfill does, in every possible place.

const (
	absent  = int8(0)
	initial = int8(1) // the version of rows that were there before; transaction i writes version i+2
	stale   = int8(9) // what a target that was away may still hold
)

type contents [2]int8

// operation is what a transaction does. A key change is a delete of one key and an insert of the other.
type operation struct {
	name string
	from int // the key that must have a row and loses it, or keeps it with a new version; -1 is none
	to   int // the key that gets the transaction's version; -1 is none
}

var operations = []operation{
	{"insert a", -1, 0}, {"insert b", -1, 1}, {"update a", 0, 0}, {"update b", 1, 1},
	{"delete a", 0, -1}, {"delete b", 1, -1}, {"move a to b", 0, 1}, {"move b to a", 1, 0},
}

func (o operation) keys() (keys []int) {
	for _, k := range []int{o.from, o.to} {
		if k >= 0 {
			keys = append(keys, k)
		}
	}
	return keys
}

func (o operation) possible(t contents) bool {
	if o.from >= 0 && t[o.from] == absent {
		return false
	}
	return o.to < 0 || o.to == o.from || t[o.to] == absent
}

func (o operation) apply(t *contents, version int8) {
	if o.from >= 0 {
		t[o.from] = absent
	}
	if o.to >= 0 {
		t[o.to] = version
	}
}

// write is a mapping's step: an upsert of that key, or with absent its delete. Where the steps know less than the key, the target
// has one place for both, and a delete of either empties it.
func (p *program) write(target *contents, key int, version int8) {
	if p.partial {
		*target = contents{}
	}
	target[key] = version
}

// stream applies what the stream brings of an operation: the delete of the old key, then the row.
func (p *program) stream(o operation, target *contents, version int8) {
	if o.from >= 0 && o.from != o.to {
		p.write(target, o.from, absent)
	}
	if o.to >= 0 {
		p.write(target, o.to, version)
	}
}

func (o operation) conflicts(with operation) bool {
	for _, a := range o.keys() {
		for _, b := range with.keys() {
			if a == b {
				return true
			}
		}
	}
	return false
}

// program is one case: what there is, what happens, and how ids lie. The last id belongs to a transaction that changes
// nothing of ours: its end alone moves the snapshots' end.
type program struct {
	before, target contents
	ops            []operation
	xids           []uint32
	dropped        bool // what comes before keys are tracked is not applied: the destination was parked
	partial        bool // the mapping knows the rows by less than the key: both keys are one to its steps
}

func (p *program) String() string {
	var names []string
	for i, o := range p.ops {
		names = append(names, fmt.Sprintf("%s (xid %d)", o.name, p.xids[i]))
	}
	return fmt.Sprintf("table %v, target %v, parked before %v, partial %v: %s", p.before, p.target, p.dropped, p.partial, strings.Join(names, ", "))
}

// Where the backfill is.
const (
	idle = iota
	tracking
	settled
	paged // a sweep has read the target's keys
	taken // the snapshot is taken
	read  // the rows are read, by a snapshot of their own
	horizon
	done
)

// state is everything at one moment. It is comparable, so that no state is looked at twice.
type state struct {
	committed [3]int8 // place in the WAL, 0 is not yet
	applied   [2]bool
	lost      [2]bool // passed by while the destination was parked
	tracked   [2]bool
	since     [2]bool // tracked, and after the page was read
	visible   [3]bool
	wal       int8
	table     contents // as everybody sees it
	target    contents

	step     int8
	sweep    bool
	suspects [3]bool // by transaction
	seen     [3]bool // by the chunk's snapshot
	low, top int8    // ends of the WAL before and after the read
	page     contents
	rows     contents // what the chunk holds
}

const firstXID = 4294967294 // so that ids come round in the middle

// rule is what is to be tested: how suspects are found and how a chunk is merged.
type rule struct {
	suspects func(x *XIDs, s wal.Snapshot) map[uint32]bool
	blind    bool // a sweep does not ask the target again which keys it still holds
	merge    func(m *model, s *state, rows []mapping.Row, snapshot wal.Snapshot, changes []Tracked, since int) []mapping.Row
}

var theRule = rule{
	suspects: (*XIDs).Unseen,
	merge: func(_ *model, _ *state, rows []mapping.Row, snapshot wal.Snapshot, changes []Tracked, since int) []mapping.Row {
		return Merge(rows, keyOfRow, "t", snapshot, changes, since)
	},
}

// model walks through all states of a program.
type model struct {
	program
	rule    rule
	final   contents
	been    map[state]bool
	states  int
	merges  int
	again   int
	failure string
}

func keyOfRow(row mapping.Row) string { return string(row.Tuple.Value(0).Text) }

var keyNames = [2]string{"a", "b"}

// snapshot is what pg_current_snapshot says: it ends behind the newest transaction that is visible, and lists only the
// running ones before its end.
func (m *model) snapshot(s *state) wal.Snapshot {
	end := uint64(firstXID)
	for i, xid := range m.xids {
		if s.seen[i] {
			end = max(end, full(xid)+1)
		}
	}
	var running []string
	for i, xid := range m.xids {
		if !s.seen[i] && full(xid) < end {
			running = append(running, fmt.Sprint(full(xid)))
		}
	}
	text := fmt.Sprintf("%d:%d:%s", uint64(firstXID), end, strings.Join(running, ","))
	if known, ok := snapshots[text]; ok {
		return known
	}
	snapshot, err := wal.ParseSnapshot(text)
	if err != nil {
		panic(err)
	}
	snapshots[text] = snapshot
	return snapshot
}

var snapshots = map[string]wal.Snapshot{}

// full is a transaction id with its epoch.
func full(xid uint32) uint64 { return firstXID + uint64(xid-uint32(firstXID%(1<<32))) }

// next are the states that may follow.
func (m *model) next(s state, visit func(state)) {
	for i := range m.xids {
		if n, ok := m.commit(s, i); ok {
			visit(n)
		}
		if n, ok := m.show(s, i); ok {
			visit(n)
		}
		if n, ok := m.apply(s, i); ok {
			visit(n)
		}
	}
	if n, ok := m.backfill(s); ok {
		visit(n)
	}
}

// commit writes a transaction's commit to the WAL. One that changes a key of an earlier one has waited for its lock,
// which is held until the earlier one is visible.
func (m *model) commit(s state, i int) (state, bool) {
	if s.committed[i] > 0 {
		return s, false
	}
	if i == 1 && len(m.ops) == 2 && (m.partial || m.ops[0].conflicts(m.ops[1])) && !s.visible[0] {
		return s, false
	}
	s.wal++
	s.committed[i] = s.wal
	return s, true
}

func (m *model) show(s state, i int) (state, bool) {
	if s.committed[i] == 0 || s.visible[i] {
		return s, false
	}
	s.visible[i] = true
	if i < len(m.ops) {
		m.ops[i].apply(&s.table, int8(i)+2)
	}
	return s, true
}

// apply reads a transaction and applies it, in the order of the WAL.
func (m *model) apply(s state, i int) (state, bool) {
	if i >= len(m.ops) || s.committed[i] == 0 || s.applied[i] {
		return s, false
	}
	for o := range m.ops {
		if s.committed[o] > 0 && s.committed[o] < s.committed[i] && !s.applied[o] {
			return s, false
		}
	}
	s.applied[i] = true
	if m.dropped && s.step == idle {
		s.lost[i] = true
		return s, true
	}
	m.stream(m.ops[i], &s.target, int8(i)+2)
	s.tracked[i] = s.step > idle && s.step < done
	s.since[i] = s.tracked[i] && s.step >= paged
	return s, true
}

// backfill makes the next move of the backfill.
func (m *model) backfill(s state) (state, bool) {
	switch s.step {
	case idle:
		s.step = tracking
	case tracking:
		s.step, s.seen = settled, s.visible
		found := m.rule.suspects(m.streamed(&s), m.snapshot(&s))
		for i, xid := range m.xids {
			s.suspects[i] = found[xid]
		}
		s.seen = [3]bool{}
	case settled:
		s.step, s.since = paged, [2]bool{}
		if s.sweep {
			s.page = s.target
		}
	case paged:
		s.step, s.seen, s.low = taken, s.visible, s.wal
	case taken:
		s.step, s.rows = read, s.table
	case read:
		s.step, s.top = horizon, s.wal
	case horizon:
		return m.mergeChunk(s)
	default:
		return s, false
	}
	return s, true
}

// streamed is what the router remembers of the stream.
func (m *model) streamed(s *state) *XIDs {
	key := s.applied
	if x, ok := streams[[3]any{key, m.xids[0], len(m.ops)}]; ok {
		return x
	}
	x := NewXIDs()
	for i := range m.ops {
		if s.applied[i] {
			x.Add(m.xids[i])
		}
	}
	streams[[3]any{key, m.xids[0], len(m.ops)}] = x
	return x
}

var streams = map[[3]any]*XIDs{}

// mergeChunk applies the chunk in hand, when the stream has passed its horizon.
func (m *model) mergeChunk(s state) (state, bool) {
	for i := range m.ops {
		if s.committed[i] > 0 && s.committed[i] <= s.top && !s.applied[i] {
			return s, false
		}
	}
	for i := range m.xids {
		if s.suspects[i] && !s.seen[i] { // the chunk is read again
			m.again++
			return m.chunkOver(s, settled), true
		}
	}
	changes, since := m.changes(&s)
	var rows []mapping.Row
	for k, version := range s.rows {
		if s.sweep && s.page[k] != absent && version == absent || !s.sweep && version != absent {
			text := func(s string) wal.Value {
				return wal.Value{Presence: wal.Text, Text: []byte(s)}
			}
			rows = append(rows, mapping.Row{SequenceID: int64(version),
				Tuple: wal.NewTuple([]wal.Value{text(keyNames[k])})})
		}
	}
	for _, row := range m.rule.merge(m, &s, rows, m.snapshot(&s), changes, since) {
		k, version := strings.Index("ab", keyOfRow(row)), absent
		if !s.sweep {
			version = int8(row.SequenceID)
		} else if s.target[k] == absent && !m.rule.blind {
			continue // it is held no longer
		}
		m.write(&s.target, k, version)
	}
	m.merges++
	if s.sweep {
		m.check(&s)
		return m.chunkOver(s, done), true
	}
	s.sweep = true
	return m.chunkOver(s, settled), true
}

// changes are the tracked keys in the order in which they were applied. From since on they came after the page was read; what
// reads rows has no such place.
func (m *model) changes(s *state) (changes []Tracked, since int) {
	for _, late := range []bool{false, true} {
		for i, o := range m.ops {
			if !s.tracked[i] || s.since[i] != late {
				continue
			}
			for _, k := range o.keys() {
				changes = append(changes, Tracked{XID: m.xids[i], Table: "t", Key: keyNames[k]})
			}
		}
		if !late {
			since = len(changes)
		}
	}
	if !s.sweep {
		since = len(changes)
	}
	return changes, since
}

func (m *model) chunkOver(s state, step int8) state {
	s.step, s.seen, s.low, s.top, s.page, s.rows, s.since = step, [3]bool{}, 0, 0, contents{}, contents{}, [2]bool{}
	return s
}

// check is what must hold from the moment at which the backfill ends: the target has, key by key, what the stream has
// brought so far or something newer.
func (m *model) check(s *state) {
	for k := range s.target {
		if got, want := m.age(k, s.target[k]), m.age(k, m.streamState(s)[k]); got < want {
			m.fail("after the backfill the target holds %v, and the stream had brought %v", s.target, m.streamState(s))
		}
	}
}

// streamState is the table as the stream alone would have made it by now.
func (m *model) streamState(s *state) contents {
	t := m.before
	first, second := 0, 1
	if s.committed[1] > 0 && s.committed[1] < s.committed[0] {
		first, second = 1, 0
	}
	for _, i := range []int{first, second} {
		if i < len(m.ops) && s.applied[i] {
			m.ops[i].apply(&t, int8(i)+2)
		}
	}
	return t
}

// age orders what a key may hold over the program's history: later is higher. What never was is -1.
func (m *model) age(key int, version int8) int {
	history := []int8{m.before[key]}
	for i, o := range m.ops {
		for _, k := range o.keys() {
			if k == key {
				t := contents{}
				o.apply(&t, int8(i)+2)
				history = append(history, t[key])
			}
		}
	}
	for i := len(history) - 1; i >= 0; i-- {
		if history[i] == version {
			return i
		}
	}
	return -1
}

func (m *model) fail(format string, args ...any) {
	if m.failure == "" {
		m.failure = m.String() + "\n" + fmt.Sprintf(format, args...)
	}
}

// run visits all states and checks the last ones.
func (m *model) run() {
	m.been = map[state]bool{}
	m.final = m.before
	for i, o := range m.ops {
		o.apply(&m.final, int8(i)+2)
	}
	var visit func(state)
	visit = func(s state) {
		if m.been[s] || m.failure != "" {
			return
		}
		m.been[s] = true
		m.states++
		if s.step == done && m.over(&s) && s.target != m.final {
			m.fail("at the end the target holds %v, and the primary %v; %+v", s.target, m.final, s)
		}
		m.next(s, visit)
	}
	visit(state{table: m.before, target: m.target})
}

func (m *model) over(s *state) bool {
	for i := range m.ops {
		if !s.applied[i] || !s.visible[i] {
			return false
		}
	}
	return true
}
