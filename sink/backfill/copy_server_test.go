package backfill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/pgcluster/pgtest"
	"outflow/mapping"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/fold"
	"outflow/sink/limits"
	"outflow/sink/schema"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// world is a copy from one database into another, without a stream: the test is the worker, and the destination.
type world struct {
	t                *testing.T
	source, external *pgx.Conn
	db               *external.Database
	shared           *Shared
	slot             *limits.SlotUser
	s                *external.Session
	pace             Pace
	nudged           chan struct{}
	chunks           int
	finished         *Cursor
	expected         int64
}

func (w *world) Nudge() {
	select {
	case w.nudged <- struct{}{}:
	default:
	}
}
func (w *world) After(wait time.Duration, f func()) *time.Timer { return time.AfterFunc(wait, f) }
func (w *world) Panicked(cause any) *external.Error             { return external.Panicked(cause) }
func (w *world) Passed(wal.LSN) bool                            { return true }
func (w *world) AskFlush(context.Context) error                 { return nil }
func (w *world) Expects(rows int64)                             { w.expected = rows }
func (w *world) Waits(string) bool                              { return true }
func (w *world) ChunkCopied(Cursor)                             { w.chunks++ }
func (w *world) CopyFinished(at Cursor)                         { w.finished = &at }
func (w *world) Exchange(ctx context.Context, fill func(context.Context, *external.Round) error) error {
	_, err := w.s.Exchange(ctx, fill)
	return err
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) on(conn *pgx.Conn, sql string) {
	w.t.Helper()
	if _, err := conn.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// newWorld is a copy of the table item, of tenant, id and v, by a mapping.
func newWorld(t *testing.T, yaml string) *world {
	t.Helper()
	w := &world{t: t, nudged: make(chan struct{}, 1)}
	cluster := pgtest.Shared(t)
	source, target := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	connect := func(dsn string) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), dsn)
		w.must(err)
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	w.source, w.external = connect(source), connect(target)
	w.on(w.source, `CREATE TABLE item (tenant text, id text, v text, PRIMARY KEY (tenant, id))`)
	table, err := primary.LoadTable(t.Context(), w.source, "public", "item")
	w.must(err)
	server, err := primary.New(source)
	w.must(err)
	m, err := mapping.Load("m.yaml", []byte(yaml))
	w.must(err)
	tables, workers := tableread.NewTables(server), limits.NewWorkers()
	schemas := schema.New(external.SourceTables{{Relation: table.Relation, Tenant: "tenant"}}, tables, zap.NewNop())
	w.shared = &Shared{Tables: tables, Schemas: schemas, Relearn: schemas.Relearn, Memory: limits.NewMemory(1<<20, 2, 4), XIDs: fold.NewXIDs(), Intake: workers.Intake,
		Start: workers.Start, SequenceID: func(l wal.LSN) int64 { return int64(l) }, CheckpointID: func() string { return "1 1" }, AnswerTimeout: 5 * time.Second}
	w.slot = limits.NewSlots(1, time.Second).User(w.Nudge, w.After)
	options := external.Options{MaxConnections: 1, StatementTimeout: 10 * time.Second, LockTimeout: 5 * time.Second, ConnectTimeout: 5 * time.Second}
	w.db, err = external.NewDatabase(&external.Owner{SourceID: "source", Tenant: "t", Name: "main"},
		external.DestinationSpec{Tenant: "t", Name: "main", DSN: target, Mappings: []*mapping.Mapping{m}}, options, schemas, zap.NewNop())
	w.must(err)
	t.Cleanup(func() { workers.Drain(5 * time.Second); workers.RollBack() })
	w.install(m)
	return w
}

// install makes the external database ready for a copy.
func (w *world) install(m *mapping.Mapping) {
	w.t.Helper()
	s, ctx := w.dial(), w.t.Context()
	defer s.Close()
	w.must(s.Begin(ctx))
	w.must(s.CreateMetadata(ctx))
	w.must(s.CreateQuarantine(ctx))
	w.must(s.RunSchema(ctx, m))
	w.must(s.Fill(ctx, m, external.Fill{Epoch: 7, Cursor: First.String(), Least: -1, Given: 1 << 60, CheckpointID: "1 1"}))
	w.must(s.Own(ctx))
	w.must(s.Commit(ctx))
}

func (w *world) dial() *external.Session {
	w.t.Helper()
	s, err := w.db.DialAlone(w.t.Context())
	w.must(err)
	return s
}

// begin opens a session with the copy where the external database has its cursor; nil where no copy goes on.
func (w *world) begin() *Backfill {
	w.t.Helper()
	w.s = w.dial()
	known, err := w.s.Metadata(w.t.Context())
	w.must(err)
	w.s.Epoch = 7
	w.s.Know(known)
	w.must(w.s.PrepareSteps(w.t.Context()))
	bf, err := New(w.shared, w, w.s, w.db, w.slot, &w.pace, known)
	w.must(err)
	return bf
}

// step does the copy's next work, and waits until there is more.
func (w *world) step(bf *Backfill) error {
	var err error
	if bf.Mergeable() {
		err = bf.Merge(w.t.Context())
	} else {
		err = bf.Advance(w.t.Context())
	}
	if err == nil && w.finished == nil && bf.Busy() && !bf.Mergeable() {
		select {
		case <-w.nudged:
		case <-time.After(10 * time.Second):
			err = errors.New("no chunk comes")
		}
	}
	return err
}

// copies runs the copy to its end, or to an error.
func (w *world) copies() error {
	bf := w.begin()
	defer func() {
		bf.End()
		w.s.Close()
	}()
	for range 1000 {
		if err := w.step(bf); err != nil || w.finished != nil {
			return err
		}
	}
	return errors.New("the copy does not end")
}

func (w *world) holds(want ...string) {
	w.t.Helper()
	rows, err := w.external.Query(w.t.Context(), `SELECT id || ' ' || coalesce(v, '-') FROM items ORDER BY id`)
	w.must(err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	w.must(err)
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("the rows (-expected +found):\n%s", diff)
	}
}

// A copy brings the tenant's rows, and its sweep removes the rows that the primary does not have, in small chunks.
func TestCopyAndSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.on(w.source, `INSERT INTO item SELECT tenant, 'k' || n, 'v' || n FROM generate_series(1, 9) AS n, unnest(ARRAY['t', 'u']) AS tenant`)
	w.on(w.external, `INSERT INTO items SELECT 'gone' || n, 'x' FROM generate_series(1, 3) AS n; INSERT INTO items VALUES ('k5', 'old')`)
	w.pace.rows = 2
	w.must(w.copies())
	w.holds("k1 v1", "k2 v2", "k3 v3", "k4 v4", "k5 v5", "k6 v6", "k7 v7", "k8 v8", "k9 v9")
	if w.finished.Rows != 9 || w.finished.Pass != 0 || w.chunks < 4 {
		t.Errorf("the cursor is %s, behind %d chunks", w.finished, w.chunks)
	}
	if bf := w.begin(); bf != nil {
		t.Error("the metadata says that a copy goes on")
	}
	w.s.Close()
}

// A copy goes on where the last committed chunk has left it, with another session.
func TestCopyGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.on(w.source, `INSERT INTO item SELECT 't', 'k' || n, 'v' FROM generate_series(1, 6) AS n`)
	w.on(w.external, `CREATE TABLE copied (id text); CREATE FUNCTION copied() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO copied VALUES (new.id); RETURN NULL; END$$;
		CREATE TRIGGER copied AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION copied()`)
	w.pace.rows = 2
	bf := w.begin()
	for w.chunks < 1 {
		w.must(w.step(bf))
	}
	rows := bf.Rows()
	bf.End()
	w.s.Close()
	if rows != 2 {
		t.Fatalf("the first chunk has %d rows", rows)
	}
	w.must(w.copies())
	var n, different int
	w.must(w.external.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT id) FROM copied`).Scan(&n, &different))
	if n != 6 || different != 6 || w.finished.Rows != 6 {
		t.Errorf("%d rows were copied, %d different; the cursor is %s", n, different, w.finished)
	}
}

// A row whose unique value another row still has is put off: the sweep removes the other row, and the next pass copies the row.
func TestRowsOfTheNextPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.on(w.source, `INSERT INTO item VALUES ('t', 'k1', 'one'), ('t', 'k2', 'two')`)
	w.on(w.external, `ALTER TABLE items ADD UNIQUE (v); INSERT INTO items VALUES ('gone', 'one')`)
	w.must(w.copies())
	w.holds("k1 one", "k2 two")
	if w.finished.Pass != 1 {
		t.Errorf("the cursor is %s", w.finished)
	}
}

// A refused row that no pass ends is named, and the rows around it are copied; with a quarantine the row is set aside.
func TestRefusedRowsOfACopy(t *testing.T) {
	t.Parallel()
	for _, quarantine := range []bool{false, true} {
		w := newWorld(t, itemsYAML)
		w.shared.Quarantine = quarantine
		w.on(w.source, `INSERT INTO item SELECT 't', 'k' || n, CASE n WHEN 5 THEN 'refused' ELSE 'v' END FROM generate_series(1, 8) AS n`)
		w.on(w.external, `ALTER TABLE items ADD CHECK (v <> 'refused')`)
		err := w.copies()
		if quarantine {
			w.must(err)
			w.holds("k1 v", "k2 v", "k3 v", "k4 v", "k6 v", "k7 v", "k8 v")
			var aside int
			w.must(w.external.QueryRow(t.Context(), `SELECT count(*) FROM _stack_sync_quarantine`).Scan(&aside))
			if aside != 1 {
				t.Errorf("%d rows are set aside", aside)
			}
			continue
		}
		if e := external.AsError(err); err == nil || e.Verdict != external.RowFault || e.Key != "tenant=t, id=k5" {
			t.Errorf("%v", err)
		}
		w.holds("k1 v", "k2 v", "k3 v", "k4 v")
	}
}

// A mapping that stores another form of the keys would lose every row to the sweep: the sweep is refused.
func TestSweepOfKeysInAnotherForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.ReplaceAll(strings.ReplaceAll(itemsYAML, "SELECT r.id, r.v", "SELECT upper(r.id), r.v"), "t.id = r.id", "t.id = upper(r.id)"))
	w.on(w.source, `INSERT INTO item SELECT 't', 'k' || n, 'v' FROM generate_series(1, 4) AS n`)
	err := w.copies()
	if e := external.AsError(err); err == nil || e.Verdict != external.NeedsHuman || e.Table != "item" || e.Mapping != "items" || !strings.Contains(e.Error(), "Nothing was removed") {
		t.Errorf("%v", err)
	}
	w.holds("K1 v", "K2 v", "K3 v", "K4 v")
}

// A live change beats the row that a chunk has read before the change.
func TestLiveChangesDuringACopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.on(w.source, `INSERT INTO item SELECT 't', 'k' || n, 'v' FROM generate_series(1, 3) AS n`)
	bf := w.begin()
	defer func() {
		bf.End()
		w.s.Close()
	}()
	for !bf.Mergeable() {
		w.must(w.step(bf))
	}
	// The stream brings, and the external database takes, a change behind the chunk's snapshot.
	var xid uint32
	w.must(w.source.QueryRow(t.Context(), `WITH u AS (UPDATE item SET v = 'live' WHERE id = 'k2') SELECT pg_current_xact_id()::xid::text::bigint`).Scan(&xid))
	w.on(w.external, `INSERT INTO items VALUES ('k2', 'live')`)
	c := insertOf("t", "k2")
	c.Relation = w.shared.Schemas.Relation("item")
	c.New = wal.NewTuple(append(c.New.Values(nil), wal.Value{Presence: wal.Text, Text: []byte("live")}))
	bf.Track(xid, []wal.Change{c})
	for w.finished == nil {
		w.must(w.step(bf))
	}
	w.holds("k1 v", "k2 live", "k3 v")
	if len(bf.tracker.changes) != 0 {
		t.Errorf("tracked is still %+v", bf.tracker.changes)
	}
}

// A cursor that cannot be read ends the opening, and a cursor of another order begins again with what the passes have counted.
func TestStoredCursors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	stored := Cursor{Phase: phaseSweep, Table: "item", Mapping: "items", After: []string{"k1"}, Pass: 2, PutOff: 3, Before: 4, Strict: true, Order: "another"}
	w.on(w.external, fmt.Sprintf(`UPDATE _stack_sync_metadata SET backfill = '%s'`, stored))
	bf := w.begin()
	same(t, "of another order", Cursor{Phase: phaseCopy, Pass: 2, PutOff: 3, Before: 4, Strict: true, Order: w.s.Order.Fingerprint}, bf.cursor)
	stored.Order = w.s.Order.Fingerprint
	w.s.Close()
	w.on(w.external, fmt.Sprintf(`UPDATE _stack_sync_metadata SET backfill = '%s'`, stored))
	bf = w.begin()
	same(t, "of the same order", stored, bf.cursor)
	w.s.Close()
	known := external.Metadata{"items": external.MappingMetadata{Backfill: `{"phase": 1}`}}
	if _, err := New(w.shared, w, w.s, w.db, nil, &w.pace, known); err == nil || !strings.Contains(err.Error(), "cursor") {
		t.Errorf("a cursor that cannot be read: %v", err)
	}
}
