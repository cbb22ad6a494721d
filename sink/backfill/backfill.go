package backfill

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
	"outflow/sink/limits"
)

// Cursor is the progress of a backfill. The external database keeps the cursor in the metadata of each mapping being filled, and
// the cursor moves in the transaction that applies a chunk.
type Cursor struct {
	Phase   string   `json:"phase"`             // copy, then sweep
	Table   string   `json:"table,omitempty"`   // "" is before the first table
	Mapping string   `json:"mapping,omitempty"` // whose keys are swept
	Done    bool     `json:"done,omitempty"`    // the table is copied whole
	After   []string `json:"after,omitempty"`   // key of the last row that is done, less the tenant
	Sort    string   `json:"sort,omitempty"`    // the order of rows in which After is a place
	Rows    int64    `json:"rows,omitempty"`    // copied so far
	Remove  bool     `json:"remove,omitempty"`  // the sweep has counted the rows gone from the primary, and removes such rows

	Copied map[string]int64 `json:"copied,omitempty"` // rows by table
	Keys   map[string]tally `json:"keys,omitempty"`   // by mapping and table

	// A pass is a copy and a sweep of everything: see putOff.
	Pass   int    `json:"pass,omitempty"`    // from 0
	PutOff int64  `json:"put_off,omitempty"` // rows that the pass has put off to the next pass
	Before int64  `json:"before,omitempty"`  // rows that the pass before put off
	Strict bool   `json:"strict,omitempty"`  // the pass puts nothing off
	Order  string `json:"order,omitempty"`   // the order of mappings and tables followed by the cursor
}

const (
	phaseCopy  = "copy"
	phaseSweep = "sweep"
)

// First is the cursor of a copy that has not begun.
var First = Cursor{Phase: phaseCopy}

// String is the form of the cursor in the metadata.
func (c Cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(b)
}

// copied is how many rows of each table are copied with so many more rows of a single table.
func (c Cursor) copied(table string, rows int) map[string]int64 {
	all := maps.Clone(c.Copied)
	if all == nil {
		all = map[string]int64{}
	}
	if c.Table != table || c.After == nil {
		all[table] = 0
	}
	all[table] += int64(rows)
	return all
}

// Chunks adapt in size so that a chunk takes about chunkTime to read and apply: see [Pace].
const (
	chunkRows    = 1000 // the first
	chunkMin     = 50
	chunkMax     = 20000
	chunkTime    = 250 * time.Millisecond
	horizonPause = 5 * time.Millisecond // between looks at whether the stream has passed a chunk's horizon
)

// Backfill copies the tenant's rows from the tables into mappings that are new, changed or cannot go on from the stream, while
// live changes keep flowing through the same worker. A backfill belongs to the session's worker.
//
// The order of steps makes the copy right: first keys are tracked, then snapshots are taken, then a chunk waits until the stream
// has passed the chunk's horizon, and then the chunk is merged (see [fold.Merge]).
type Backfill struct {
	shared   *Shared
	owner    Destination
	s        *external.Session
	tenant   string
	mappings []*mapping.Mapping // the session's: the destination may be given others while a chunk is read
	reads    map[string]bool    // source tables that the mappings read
	group    []bool             // which of the mappings are being filled
	slot     *limits.SlotUser
	pace     *Pace
	log      *zap.Logger
	cursor   Cursor
	stored   string // the cursor as the metadata has it

	active  bool // the backfill has a slot, and tracks keys
	tracker tracker
	hand    hand
	found   map[string]*wal.Relation // tables as the last chunks found the tables
	wait    wait                     // for a transaction on the primary
}

// Shared is what all backfills of a process share.
type Shared struct {
	Tables        *tableread.Tables // of the primary
	Schemas       external.Tables
	Relearn       func(ctx context.Context, table string) (*wal.Relation, error) // reads from the primary which columns a table has now
	Memory        *limits.Memory
	XIDs          *fold.XIDs
	Intake        context.Context     // ends the wait for memory, and reads
	Start         func(func()) bool   // runs a read, unless no work begins any more
	SequenceID    func(wal.LSN) int64 // the sequence id of a commit at a place
	CheckpointID  func() string       // the id of the newest checkpoint
	AnswerTimeout time.Duration       // bounds a question to the primary beside a read
	Quarantine    bool                // a refused row goes to the quarantine
}

// appliedAt is the highest id possible below a horizon, when the stream has passed the horizon. The next commit record may begin
// at the horizon itself.
func (c *Shared) appliedAt(horizon wal.LSN) int64 { return c.SequenceID(horizon) - 1 }

// Destination is the destination that a backfill copies for.
type Destination interface {
	// Nudge wakes the worker.
	Nudge()
	// After runs f after a time; a panic of f is the destination's.
	After(wait time.Duration, f func()) *time.Timer
	// Panicked is the error of a panic beside the worker.
	Panicked(cause any) *external.Error
	// Passed reports whether the stream has passed a place in the WAL, and every transaction up to there was applied.
	Passed(horizon wal.LSN) bool
	// Exchange is one round trip of the session.
	Exchange(ctx context.Context, fill func(context.Context, *external.Round) error) error
	// AskFlush asks the external server, not too often, whether the last commits are flushed.
	AskFlush(ctx context.Context) error
	// Expects says how many rows there are to copy, by the planner's estimate.
	Expects(rows int64)
	// Waits says what the copy waits for, "" for nothing any more. said reports whether the reason was the same before.
	Waits(reason string) (said bool)
	// ChunkCopied says how far a committed chunk has brought the copy, and CopyFinished that the chunk was the last.
	ChunkCopied(at Cursor)
	CopyFinished(at Cursor)
}

// hand is what a backfill has read, or reads: a read puts its chunk there, beside the worker. The lock of the hand comes after the
// destination's.
type hand struct {
	mu      sync.Mutex
	reading bool
	ready   *chunk
	ended   bool               // the session was closed: a chunk that comes now is given up
	endRead context.CancelFunc // of the read under way; nil before the first
}

// chunk is a part of the primary's data that waits to be merged.
type chunk struct {
	tableread.Chunk
	table    string
	relation *wal.Relation
	swept    *page          // the page whose keys are not on the primary; nil: the rows are
	gone     []external.Key // those of the page
	removed  []external.Key // the keys of gone that rows.Deletes are
	next     Cursor
	done     bool // nothing is left after the chunk
	err      error

	read     *chunkRead
	held     limits.Grant    // the memory of the rows, until the chunk is merged or given up
	suspects map[uint32]bool // set by the first read of a tracking
	holder   string          // nothing was read: the transaction that the read waits for
}

// since is the place among the tracked keys from which on every change counts: see [fold.Merge].
func (c *chunk) since() int {
	if c.swept == nil {
		return math.MaxInt
	}
	return c.swept.since
}

// behind is the place behind one of the chunk's rows.
func (c *chunk) behind(rows *mapping.Rows, i int) []string {
	if c.swept != nil {
		return c.removed[i].External
	}
	return c.KeyOf(rows.Upserts[i].Tuple)
}

// New finds the incomplete mappings of a session's database; nil where all are complete.
func New(shared *Shared, owner Destination, s *external.Session, db *external.Database, slot *limits.SlotUser, p *Pace, known external.Metadata) (*Backfill, error) {
	bf := &Backfill{shared: shared, owner: owner, s: s, tenant: db.Tenant, mappings: db.Mappings, reads: mapping.Reads(db.Mappings),
		group: make([]bool, len(db.Mappings)), slot: slot, pace: p, log: db.Log}
	for i, m := range db.Mappings {
		text := known[m.Name].Backfill
		if text == "" {
			continue
		}
		bf.group[i] = true
		bf.stored = text
		if err := json.Unmarshal([]byte(text), &bf.cursor); err != nil {
			return nil, fmt.Errorf("the backfill cursor in _stack_sync_metadata: %w", err)
		}
	}
	if bf.stored == "" {
		return nil, nil
	}
	if bf.cursor.Order != s.Order.Fingerprint { // the cursor's place says nothing of another order
		bf.cursor = Cursor{Phase: phaseCopy, Pass: bf.cursor.Pass, PutOff: bf.cursor.PutOff, Before: bf.cursor.Before, Strict: bf.cursor.Strict, Order: s.Order.Fingerprint}
	}
	return bf, nil
}

// Track tracks the keys of changes that the external database has committed, or is about to commit. A nil backfill tracks nothing.
func (bf *Backfill) Track(xid uint32, changes []wal.Change) {
	if bf == nil || !bf.active {
		return
	}
	for i := range changes {
		if !bf.reads[changes[i].Relation.Table] {
			continue
		}
		if bf.tracker.add(xid, &changes[i]); bf.tracker.full() {
			bf.trackAgain()
		}
	}
}

// standDown ends the work reserved to a backfill with a slot; the cursor stays.
func (bf *Backfill) standDown() {
	if bf.active {
		bf.active = false
		bf.trackAgain()
	}
}

// trackAgain begins tracking again, as if the backfill had just been taken up at its cursor: the chunks read so far are of no use.
func (bf *Backfill) trackAgain() {
	bf.tracker.begin()
	bf.goesOn()
	bf.hand.mu.Lock()
	defer bf.hand.mu.Unlock()
	bf.hand.giveUpLocked()
}

// giveUpLocked lets go of the chunk in hand.
func (h *hand) giveUpLocked() {
	if h.ready != nil {
		h.ready.held.Free()
		h.ready = nil
	}
}

// Busy reports whether a chunk is being read, or waits to be merged.
func (bf *Backfill) Busy() bool {
	bf.hand.mu.Lock()
	defer bf.hand.mu.Unlock()
	return bf.hand.reading || bf.hand.ready != nil
}

// End gives up the chunk in hand and the chunk being read: the session is closed.
func (bf *Backfill) End() {
	bf.hand.mu.Lock()
	defer bf.hand.mu.Unlock()
	bf.hand.ended = true
	bf.hand.giveUpLocked()
	if bf.hand.endRead != nil { // or reads would gather on the primary, of sessions that come and go
		bf.hand.endRead()
	}
}

// Mergeable reports whether a chunk is here and the stream has passed the chunk's horizon: every transaction that committed
// before the horizon was applied.
func (bf *Backfill) Mergeable() bool {
	if !bf.active {
		return false
	}
	bf.hand.mu.Lock()
	c := bf.hand.ready
	bf.hand.mu.Unlock()
	return c != nil && (c.err != nil || bf.owner.Passed(c.Horizon))
}

// Advance does the work possible without a chunk in hand: take a backfill slot, or begin to read.
func (bf *Backfill) Advance(ctx context.Context) error {
	if !bf.slot.Take() {
		bf.standDown() // backfills were switched off
		return nil     // a free slot wakes the worker
	}
	if !bf.active {
		bf.active = true
		bf.log.Info("copying rows from the primary", zap.String("cursor", bf.stored))
		if err := failpoint.Fail(failpoint.BackfillBegun); err != nil {
			return err
		}
	}
	bf.hand.mu.Lock()
	waiting := bf.hand.ready != nil // for the stream
	idle := !waiting && !bf.hand.reading
	bf.hand.mu.Unlock()
	if waiting {
		bf.owner.After(horizonPause, bf.owner.Nudge)
	}
	if !idle || time.Now().Before(bf.wait.until) {
		return nil
	}
	done := bf.slot.Asks()
	page, err := bf.ask(ctx)
	if done(); err != nil {
		bf.slot.ChunkDone()
		if external.TimedOut(err) && bf.pace.smaller(bf.pace.size()) {
			bf.owner.Nudge()
			return nil
		}
		return err
	}
	read := &chunkRead{bf: bf, from: bf.cursor, page: page, limit: bf.pace.size(), lane: limits.Quick, began: time.Now(), number: bf.tracker.number,
		settle: bf.tracker.suspects == nil, awaited: bf.wait.xid}
	if bf.slot.Slow() {
		read.lane = limits.Slow
	}
	reading, end := context.WithCancel(bf.shared.Intake)
	bf.hand.mu.Lock()
	bf.hand.reading, bf.hand.endRead = true, end
	bf.hand.mu.Unlock()
	if !bf.shared.Start(func() { read.run(reading) }) {
		end()
	}
	return nil
}

// ask is the worker's question to the external database before a chunk is read: the connection belongs to the worker. The page is nil where
// rows are copied.
func (bf *Backfill) ask(ctx context.Context) (*page, error) {
	if bf.cursor.Phase != phaseSweep {
		return nil, bf.countHeld(ctx)
	}
	page, err := bf.readPage(ctx)
	if err == nil {
		err = failpoint.Fail(failpoint.SweepPageRead)
	}
	return page, err
}

// handOver puts a chunk into the hand, for the worker.
func (bf *Backfill) handOver(c *chunk) {
	bf.hand.mu.Lock()
	defer bf.hand.mu.Unlock()
	if bf.hand.reading, bf.hand.ready = false, c; bf.hand.ended {
		bf.hand.giveUpLocked()
	}
}

// relation is the table as the last chunk found the table, or as described by the stream.
func (bf *Backfill) relation(table string) *wal.Relation {
	if rel := bf.found[table]; rel != nil {
		return rel
	}
	return bf.shared.Schemas.Relation(table)
}

func (bf *Backfill) part(table string) tableread.Part {
	rel := bf.shared.Schemas.Relation(table)
	return tableread.Part{Relation: rel, Tenant: bf.shared.Schemas.TenantColumn(rel), Value: bf.tenant}
}

// tables are the source tables read by the group, in the order of copying.
func (bf *Backfill) tables() []string {
	var tables []string
	for _, table := range bf.s.Order.Tables {
		for i, m := range bf.mappings {
			if bf.group[i] && slices.Contains(m.Tables(), table) {
				tables = append(tables, table)
				break
			}
		}
	}
	return tables
}

// nextTable is the table that the cursor is in; not ok when all tables are copied.
func (bf *Backfill) nextTable(at *Cursor) (table string, place tableread.Place, ok bool) {
	tables := bf.tables()
	i := slices.Index(tables, at.Table)
	if i >= 0 && !at.Done {
		return tables[i], tableread.Place{After: at.After, Order: at.Sort}, true
	}
	if i++; i < len(tables) { // from before the first one too
		return tables[i], tableread.Place{}, true
	}
	return "", tableread.Place{}, false
}

// finish ends the backfill: from here on the stream alone keeps the database up to date.
func (bf *Backfill) finish() {
	bf.slot.Leave()
	bf.log.Info("all rows are copied; the stream alone continues", zap.Int64("rows", bf.cursor.Rows))
}

// HoldsSlot reports whether the backfill has a slot: a chunk is read, or waits, or will be read. The worker calls HoldsSlot.
func (bf *Backfill) HoldsSlot() bool { return bf.active }

// Rows is how many rows are copied so far, by all sessions of the copy.
func (bf *Backfill) Rows() int64 { return bf.cursor.Rows }
