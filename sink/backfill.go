package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/fold"
)

// cursor is the progress of a backfill. The external database keeps the cursor in the metadata of each mapping being filled, and
// the cursor moves in the transaction that applies a chunk.
type cursor struct {
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

var firstCursor = cursor{Phase: phaseCopy}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(b)
}

// copied is how many rows of each table are copied with so many more rows of a single table.
func (c cursor) copied(table string, rows int) map[string]int64 {
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

// Chunks adapt in size so that a chunk takes about chunkTime to read and apply.
const (
	chunkRows    = 1000 // the first
	chunkMin     = 50
	chunkMax     = 20000
	chunkTime    = 250 * time.Millisecond
	horizonPause = 5 * time.Millisecond // between looks at whether the stream has passed a chunk's horizon
)

// backfill copies the tenant's rows from the tables into mappings that are new, changed or cannot go on from the stream, while
// live changes keep flowing through the same worker. A backfill belongs to the session's worker; only ready is set from outside,
// under the destination's mu.
//
// The order of steps makes the copy right: first keys are tracked, then snapshots are taken, then a chunk waits until the stream
// has passed the chunk's horizon, and then the chunk is merged (see [fold.Merge]).
type backfill struct {
	d        *Destination
	s        *session
	mappings []*mapping.Mapping // the session's: the destination may be given others while a chunk is read
	group    []bool             // which of the mappings are being filled
	cursor   cursor
	stored   string // the cursor as the metadata has it

	active   bool // the backfill has a place among the backfills, and tracks keys
	tracked  []fold.Tracked
	bytes    int64           // of tracked
	tracking int             // counts the beginnings of tracking: a chunk read for an earlier tracking is of no use
	suspects map[uint32]bool // may have been applied before keys were tracked, and were not visible then; nil is not known yet
	reading  bool
	ready    *chunk
	ended    bool                     // the session was closed: a chunk that comes now is given up
	endRead  context.CancelFunc       // of the read under way; nil before the first
	page     *page                    // the page to be swept next
	from     cursor                   // the cursor when the read began: live changes move PutOff of cursor during the read
	known    map[string]*wal.Relation // tables as the last chunks found them
	wait     wait                     // for a transaction on the primary
	started  time.Time                // of the chunk in hand
	limit    int                      // rows of the chunk
	lane     int                      // of the memory for the chunk
}

// maxTracked is how many bytes the tracked keys may have at the most, see [fold.Tracked.Bytes]. A transaction that changes more has the chunk
// in hand read again, when the transaction is visible.
const (
	maxTracked = 48 << 20
)

// chunk is a part of the primary's data that waits to be merged.
type chunk struct {
	tableread.Chunk
	table    string
	relation *wal.Relation
	swept    *page // the page whose keys are not on the primary; nil: the rows are
	gone     []key // those of the page
	removed  []key // the keys of gone that rows.Deletes are
	next     cursor
	done     bool // nothing is left after the chunk
	err      error

	held     grant           // the memory of the rows, until the chunk is merged or given up
	tracking int             // the backfill's when the read began
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
		return c.removed[i].here
	}
	return c.KeyOf(rows.Upserts[i].Tuple)
}

// newBackfill finds the incomplete mappings; nil where all are complete.
func newBackfill(s *session, known Metadata) (*backfill, error) {
	bf := &backfill{d: s.d, s: s, mappings: s.d.mappings, group: make([]bool, len(s.d.mappings))}
	for i, m := range s.d.mappings {
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
	if bf.cursor.Order != s.order.print { // the cursor's place says nothing of another order
		bf.cursor = cursor{Phase: phaseCopy, Pass: bf.cursor.Pass, PutOff: bf.cursor.PutOff, Before: bf.cursor.Before, Strict: bf.cursor.Strict, Order: s.order.print}
	}
	return bf, nil
}

// track notes the keys changed by a committed batch.
func (bf *backfill) track(transactions []*transaction) {
	if bf == nil || !bf.active {
		return
	}
	for _, t := range transactions {
		bf.trackChanges(t.xid, t.changes)
	}
}

func (bf *backfill) trackChanges(xid uint32, changes []wal.Change) {
	if bf == nil || !bf.active {
		return
	}
	var keys fold.Keyer
	for i := range changes {
		c := &changes[i]
		table := c.Relation.Table
		if !bf.d.reads[table] {
			continue
		}
		if c.Kind == wal.Truncate {
			bf.follow(fold.Tracked{XID: xid, Table: table, Key: "", Relation: c.Relation})
			continue
		}
		for _, row := range []wal.Tuple{c.Old, c.New} {
			if !row.IsZero() {
				bf.follow(fold.Tracked{XID: xid, Table: table, Key: keys.Key(c.Relation, row), Relation: c.Relation})
			}
		}
		if bf.bytes > maxTracked {
			bf.forget()
		}
	}
}

func (bf *backfill) follow(t fold.Tracked) {
	bf.tracked = append(bf.tracked, t)
	bf.bytes += t.Bytes()
}

// standDown ends the work reserved to a backfill with a place; the cursor stays.
func (bf *backfill) standDown() {
	if bf.active {
		bf.active = false
		bf.forget()
	}
}

// forget begins tracking again, as if the backfill had just been taken up at its cursor: the chunks read so far are of no use,
// and every transaction invisible to the next snapshot may have been applied before.
func (bf *backfill) forget() {
	bf.tracking++
	bf.tracked, bf.bytes, bf.suspects = nil, 0, nil
	bf.goesOn()
	bf.d.mu.Lock()
	defer bf.d.mu.Unlock()
	bf.giveUpLocked()
}

// giveUpLocked lets go of the chunk in hand. The lock is the destination's.
func (bf *backfill) giveUpLocked() {
	if bf.ready != nil {
		bf.ready.held.free()
		bf.ready = nil
	}
}

// end gives up the chunk in hand and the chunk being read: the session is closed.
func (bf *backfill) end() {
	bf.d.mu.Lock()
	defer bf.d.mu.Unlock()
	bf.ended = true
	bf.giveUpLocked()
	if bf.endRead != nil { // or reads would gather on the primary, of sessions that come and go
		bf.endRead()
	}
}

// mergeable reports whether a chunk is here and the stream has passed the chunk's horizon: every transaction that committed
// before the horizon was applied.
func (bf *backfill) mergeable() bool {
	d := bf.d
	position := d.router.Reader.Position() // before the queue is looked at
	d.mu.Lock()
	defer d.mu.Unlock()
	if bf.ready == nil {
		return false
	}
	if bf.ready.err != nil {
		return true
	}
	if position < bf.ready.Horizon {
		return false
	}
	return d.queue.has(d.router.SequenceID(bf.ready.Horizon))
}

// advance does the work possible without a chunk in hand: take a place among the backfills, or begin to read.
func (bf *backfill) advance(ctx context.Context) error {
	d := bf.d
	if !d.router.backfillSlots.take(d, d.slowCopy) {
		bf.standDown() // backfills were switched off
		return nil     // the end of another backfill wakes us
	}
	if !bf.active {
		bf.active = true
		d.log.Info("copying rows from the primary", zap.String("cursor", bf.stored))
		if err := failpoint.Fail(failpoint.BackfillBegun); err != nil {
			return err
		}
	}
	d.mu.Lock()
	waiting := bf.ready != nil // for the stream
	idle := !waiting && !bf.reading
	d.mu.Unlock()
	if waiting {
		d.after(horizonPause, d.nudge)
	}
	if !idle || time.Now().Before(bf.wait.until) {
		return nil
	}
	done := d.router.backfillSlots.asks(d, false)
	err := bf.ask(ctx)
	if done(); err != nil {
		d.slowCopy = d.router.backfillSlots.taken(d)
		if timedOut(err) && bf.smaller(bf.size()) {
			d.nudge()
			return nil
		}
		return err
	}
	bf.started, bf.limit, bf.from = time.Now(), bf.size(), bf.cursor
	if bf.lane = quick; d.slowCopy {
		bf.lane = slow
	}
	reading, end := context.WithCancel(d.router.workers.intake)
	d.mu.Lock()
	bf.reading, bf.endRead = true, end
	d.mu.Unlock()
	tracking, settle, awaited := bf.tracking, bf.suspects == nil, bf.wait.xid
	if !d.router.workers.start(func() { bf.read(reading, tracking, settle, awaited) }) {
		end()
	}
	return nil
}

// ask is the worker's question to the external database before a chunk is read: the connection belongs to the worker.
func (bf *backfill) ask(ctx context.Context) (err error) {
	if bf.cursor.Phase == phaseSweep {
		if bf.page, err = bf.readPage(ctx); err != nil {
			return err
		}
		return failpoint.Fail(failpoint.SweepPageRead)
	}
	return bf.countHeld(ctx)
}

// read gets the next chunk. The reading runs beside the worker, which goes on with live changes.
func (bf *backfill) read(ctx context.Context, tracking int, settle bool, awaited *uint32) {
	d := bf.d
	held, err := bf.takeMemory(ctx, d.router.copies.piece)
	var c *chunk
	copier := &tableread.Copier{Tables: d.router.Primary}
	defer copier.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err == nil {
		c, err = bf.nextSafely(ctx, copier, &held, settle, awaited)
	}
	if err != nil {
		if c == nil {
			c = &chunk{}
		}
		c.err = err
	}
	if c.tracking, c.held = tracking, held; len(c.Rows) == 0 {
		c.held.free()
	}
	d.mu.Lock()
	if bf.reading, bf.ready = false, c; bf.ended {
		bf.giveUpLocked()
	}
	d.mu.Unlock()
	d.nudge()
}

// nextSafely turns a panic, which would end the process, into an error: the cursor comes from the external database.
func (bf *backfill) nextSafely(ctx context.Context, copier *tableread.Copier, held *grant, settle bool, awaited *uint32) (c *chunk, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = bf.d.panicked(cause)
		}
	}()
	if c, err = bf.awaits(ctx, copier, awaited); c != nil || err != nil {
		return c, err
	}
	if c, err = bf.next(ctx, copier, held, settle); err == nil {
		err = failpoint.Fail(failpoint.ChunkRead)
	}
	if router := bf.d.router; err == nil && c.Relation != nil && len(c.Relation.Columns) < len(router.schemas.Relation(c.table).Columns) { // a known column is gone
		_, err = router.relearn(ctx, c.table)
	}
	return c, err
}

// next finds the suspects, where settle is set, and reads the chunk behind the cursor.
func (bf *backfill) next(ctx context.Context, copier *tableread.Copier, held *grant, settle bool) (*chunk, error) {
	if !settle {
		return bf.chunk(ctx, copier, held)
	}
	bf.estimate(ctx, copier)
	now, err := copier.Now(ctx)
	if err != nil {
		return nil, err
	}
	suspects := bf.d.router.xids.Unseen(now.Snapshot)
	if len(suspects) > 0 {
		elsewhere, err := copier.Elsewhere(ctx)
		if err != nil {
			return nil, err
		}
		for _, xid := range elsewhere {
			delete(suspects, xid)
		}
	}
	c, err := bf.chunk(ctx, copier, held)
	if err == nil {
		c.suspects = suspects
	}
	return c, err
}

// estimate tells the status how many rows there are to copy. The estimate is for people only: where estimating fails the number
// is not known.
func (bf *backfill) estimate(ctx context.Context, copier *tableread.Copier) {
	total := int64(0)
	for _, table := range bf.tables() {
		n, err := copier.Estimate(ctx, bf.part(table))
		if err != nil {
			return
		}
		total += n
	}
	bf.d.mu.Lock()
	defer bf.d.mu.Unlock()
	bf.d.status.CopyTotal = total
}

// chunk reads the rows behind the cursor, as many as fit in the held memory.
func (bf *backfill) chunk(ctx context.Context, copier *tableread.Copier, held *grant) (*chunk, error) {
	if bf.from.Phase == phaseSweep {
		return bf.nextSwept(ctx, copier)
	}
	table, place, ok := bf.nextTable(&bf.from)
	if !ok {
		next := bf.from
		next.Phase, next.Table, next.Done, next.After, next.Sort = phaseSweep, "", false, nil, ""
		return bf.emptyChunk(ctx, copier, next, false)
	}
	read, err := bf.readRows(ctx, copier, held, tableread.Range{Part: bf.part(table), Place: place, Limit: bf.limit})
	if err != nil {
		return nil, err
	}
	c := &chunk{Chunk: read, table: table, relation: read.Relation, next: bf.from}
	c.next.Table, c.next.Done, c.next.After, c.next.Sort = table, false, read.Next.After, read.Next.Order
	c.next.Rows += int64(len(read.Rows))
	from := bf.from
	if place.Order != read.Next.Order { // the table is begun again
		from.After = nil
	}
	c.next.Copied = from.copied(table, len(read.Rows))
	if read.Last {
		c.next.After, c.next.Done = nil, true
	}
	return c, nil
}

// readRows reads a chunk. Where the first row alone is larger than the held memory, the memory is given back, and taken as the row needs.
func (bf *backfill) readRows(ctx context.Context, copier *tableread.Copier, held *grant, r tableread.Range) (tableread.Chunk, error) {
	for {
		r.Bytes = held.rows
		read, err := copier.Read(ctx, r)
		large := (*tableread.Large)(nil)
		if !errors.As(err, &large) {
			return read, err
		}
		held.free()
		if *held, err = bf.takeMemory(ctx, tableread.Enough(large.Bytes)); err != nil {
			return read, err
		}
	}
}

// takeMemory waits for memory of copies. The wait ends with the session, and when the process stops.
func (bf *backfill) takeMemory(ctx context.Context, rows int64) (grant, error) {
	return bf.d.router.copies.take(ctx, rows, bf.lane)
}

// relation is the table as the last chunk found the table, or as described by the stream.
func (bf *backfill) relation(table string) *wal.Relation {
	if rel := bf.known[table]; rel != nil {
		return rel
	}
	return bf.d.router.schemas.Relation(table)
}

func (bf *backfill) part(table string) tableread.Part {
	return bf.d.part(bf.d.router.schemas.Relation(table))
}

// part are the rows of the destination's tenant.
func (d *Destination) part(rel *wal.Relation) tableread.Part {
	return tableread.Part{Relation: rel, Tenant: d.router.schemas.TenantColumn(rel), Value: d.Tenant}
}

// tables are the source tables read by the group, in the order of copying.
func (bf *backfill) tables() []string {
	var tables []string
	for _, table := range bf.s.order.tables {
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
func (bf *backfill) nextTable(at *cursor) (table string, place tableread.Place, ok bool) {
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

// emptyChunk only moves the cursor.
func (bf *backfill) emptyChunk(ctx context.Context, copier *tableread.Copier, next cursor, done bool) (*chunk, error) {
	now, err := copier.Now(ctx)
	return &chunk{Chunk: now, next: next, done: done}, err
}

// finish ends the backfill: from here on the stream alone keeps the database up to date.
func (bf *backfill) finish() {
	d := bf.d
	bf.s.backfill = nil
	d.router.backfillSlots.leave(d)
	d.log.Info("copied all rows; the stream alone goes on", zap.Int64("rows", bf.cursor.Rows))
}
