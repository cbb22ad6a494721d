package destination

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/pgcluster/pgtest"
	"outflow/mapping"
	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/backfill"
	"outflow/sink/external"
	"outflow/sink/fold"
	"outflow/sink/ledger"
	"outflow/sink/limits"
	"outflow/sink/queue"
	"outflow/sink/schema"
	"outflow/sql"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// idleReader is a stream that has come far, and brings nothing.
type idleReader struct{}

func (idleReader) Position() wal.LSN        { return 1 << 40 }
func (idleReader) Restart()                 {}
func (idleReader) State() replication.State { return replication.Streaming }

const openedYAML = `name: items
target: items
schema: CREATE TABLE IF NOT EXISTS items (id integer PRIMARY KEY, v text CHECK (v <> 'refused'))
steps:
  - {from: item, when: delete, sql: 'DELETE FROM items t USING item r WHERE t.id = r.id'}
  - {from: item, when: upsert, sql: 'INSERT INTO items (id, v) SELECT r.id, r.v FROM item r ON CONFLICT (id) DO UPDATE SET v = excluded.v'}
keys:
  item: SELECT id FROM items
`

// openTest is a destination that has begun, and whose worker is paused: the test opens the sessions.
type openTest struct {
	t        *testing.T
	store    *ledger.Store
	source   string // the primary
	other    string // the tenant's other destination
	d        *Destination
	external *pgx.Conn
}

// openRouter is the router of the destination.
type openRouter struct {
	alone
	o *openTest
}

func (r openRouter) Configured(_, name string) bool { return name == r.o.other }

func (r openRouter) Checkpoint(ctx context.Context) error {
	note, _, _ := r.o.d.Note()
	_, err := r.o.store.Checkpoint(ctx, 1, []ledger.Note{note})
	r.o.d.Wrote(note)
	return err
}

func newOpenTest(t *testing.T) *openTest {
	t.Helper()
	o := &openTest{t: t}
	cluster := pgtest.Shared(t)
	source, target := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	server, err := primary.New(source)
	o.must(err)
	conn := o.connect(source)
	o.must(sql.Migrate(t.Context(), conn.Config()))
	o.on(conn, `INSERT INTO outflow.source (slot, system_identifier, timeline) VALUES ('one', '1', 1); CREATE TABLE item (tenant text, id integer, v text, PRIMARY KEY (tenant, id))`)
	table, err := primary.LoadTable(t.Context(), conn, "public", "item")
	o.must(err)
	store := &ledger.Store{Slot: "one", Connect: server.Connect}
	t.Cleanup(store.Close)
	_, err = store.BeginReading(t.Context())
	o.must(err)
	m, err := mapping.Load("m.yaml", []byte(openedYAML))
	o.must(err)
	o.source, o.store, o.other = source, store, "none"
	schemas, workers, tables := schema.New(external.SourceTables{{Relation: table.Relation, Tenant: "tenant"}}, nil, zap.NewNop()), limits.NewWorkers(), tableread.NewTables(server)
	id := func(lsn wal.LSN) int64 { return int64(lsn) }
	options := WorkOptions{QueueBytes: 1 << 20, BatchRows: 100, RetryMin: time.Second, RetryMax: time.Minute, OnError: Halt}
	options.MaxConnections, options.ConnectTimeout, options.StatementTimeout, options.LockTimeout = 1, 5*time.Second, 10*time.Second, 5*time.Second
	o.d, err = New(&Shared{Options: options, SourceID: "source", Log: zap.NewNop(), Acks: replication.NewAckTracker(0), Ledger: store, Reader: idleReader{},
		SequenceID: id, Workers: workers, Gate: &queue.Gate{Limit: 1 << 30}, Connections: external.NewConnections(1), Lookups: limits.NewMemory(1<<20, 2, 4), BackfillSlots: limits.NewSlots(1, time.Second),
		Schemas: schemas, Router: openRouter{alone{}, o}, Copying: &backfill.Shared{Tables: tables, Schemas: schemas, XIDs: fold.NewXIDs(), Memory: limits.NewMemory(1<<20, 2, 4), Intake: workers.Intake,
			Start: workers.Start, SequenceID: id, CheckpointID: alone{}.CheckpointID, AnswerTimeout: time.Second}},
		external.DestinationSpec{Tenant: "t", Name: "main", DSN: target, Mappings: []*mapping.Mapping{m}})
	o.must(err)
	o.d.Join(ledger.Note{}, &ledger.Switch{Kind: ledger.SwitchDestination, Off: true}, func() {})
	o.external = o.connect(target)
	return o
}

func (o *openTest) must(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *openTest) connect(dsn string) *pgx.Conn {
	o.t.Helper()
	conn, err := pgx.Connect(o.t.Context(), dsn)
	o.must(err)
	o.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (o *openTest) on(conn *pgx.Conn, sql string) {
	o.t.Helper()
	if _, err := conn.Exec(o.t.Context(), sql); err != nil {
		o.t.Fatalf("%s: %v", sql, err)
	}
}

// opens connects as the worker does, and closes the session.
func (o *openTest) opens() error {
	err := o.d.connect(o.t.Context())
	o.d.mu.Lock()
	s := o.d.session
	o.d.session = nil
	o.d.mu.Unlock()
	if s != nil {
		s.close()
	}
	return err
}

// row is the metadata's row: epoch, id, and whether a copy has begun.
func (o *openTest) row() (epoch, id int64, copying bool) {
	o.t.Helper()
	o.must(o.external.QueryRow(o.t.Context(), `SELECT epoch, last_synced_sequence_id, backfill IS NOT NULL FROM _stack_sync_metadata WHERE mapping_name = 'items'`).Scan(&epoch, &id, &copying))
	return epoch, id, copying
}

// A new database gets everything that the mappings need, once, and is copied.
func TestOpenANewDatabase(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.must(o.opens())
	epoch, id, copying := o.row()
	if epoch != o.d.wantedEpoch() || id != -1 || !copying {
		t.Errorf("epoch %d, id %d, copied: %v", epoch, id, copying)
	}
	o.on(o.external, `UPDATE _stack_sync_metadata SET backfill = NULL`)
	o.must(o.opens())
	if again, _, copying := o.row(); again != epoch || copying {
		t.Errorf("opened again: epoch %d, copied: %v", again, copying)
	}
}

// What a database holds is compared with what the primary has noted.
func TestOpenAKnownDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change   string
		recorded int64 // the primary knows that the database has this id
		fails    []string
		verdict  external.Verdict
		raised   bool // the database is copied again, in a later epoch
		copied   bool
	}{
		"as it was":           {``, -1, nil, 0, false, false},
		"restored":            {`UPDATE _stack_sync_metadata SET last_synced_sequence_id = 5`, 10, nil, 0, true, true},
		"emptied":             {`DROP TABLE items, _stack_sync_metadata`, 10, nil, 0, true, true},
		"ids ahead":           {`UPDATE _stack_sync_metadata SET last_synced_sequence_id = 9000000000000000000`, -1, []string{"but the primary is at", "--slot-reset"}, external.NeedsHuman, false, false},
		"unknown checkpoint":  {`UPDATE _stack_sync_metadata SET mark = '77/77'`, -1, []string{"was written after checkpoint 77/77", "restored from a backup"}, external.NeedsHuman, false, false},
		"another tenant's":    {`UPDATE _stack_sync_metadata SET tenant = 'u'`, -1, []string{"the database holds the rows of tenant"}, external.NeedsHuman, false, false},
		"of a former name":    {`UPDATE _stack_sync_metadata SET destination = 'former'`, -1, nil, 0, true, true},
		"another mapping":     {`UPDATE _stack_sync_metadata SET fingerprint = 'x'`, -1, nil, 0, false, true},
		"an earlier epoch":    {`UPDATE _stack_sync_metadata SET epoch = 1`, -1, nil, 0, false, true},
		"the tenant's epoch":  {`UPDATE _stack_sync_metadata SET epoch = epoch + 1`, -1, nil, 0, false, true},
		"too large a cursor":  {`UPDATE _stack_sync_metadata SET backfill = to_jsonb(repeat('x', 300000))`, -1, []string{"the backfill cursor in _stack_sync_metadata is"}, external.NeedsHuman, false, false},
		"no target":           {`DROP TABLE items`, -1, []string{"items"}, external.NeedsHuman, false, false},
		"a row is missing":    {`DELETE FROM _stack_sync_metadata`, -1, nil, 0, false, true},
		"an id of the tenant": {`UPDATE _stack_sync_metadata SET last_synced_sequence_id = 9000000000000000000, epoch = 1`, -1, nil, 0, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOpenTest(t)
			o.must(o.opens())
			o.on(o.external, `UPDATE _stack_sync_metadata SET backfill = NULL`)
			before := o.d.wantedEpoch()
			o.on(o.external, test.change)
			o.d.mu.Lock()
			o.d.noted.recordedID = test.recorded
			o.d.mu.Unlock()
			err := o.opens()
			if test.fails != nil {
				if err == nil {
					t.Fatal("no error")
				}
				e := external.AsError(err)
				for _, part := range test.fails {
					if !strings.Contains(e.Error(), part) {
						t.Errorf("%q is not in %q", part, e.Error())
					}
				}
				if e.Verdict != test.verdict {
					t.Errorf("the verdict is %d", e.Verdict)
				}
				return
			}
			o.must(err)
			epoch, id, copying := o.row()
			if raised := o.d.wantedEpoch() > before; raised != test.raised || copying != test.copied || epoch != o.d.wantedEpoch() {
				t.Errorf("raised: %v, copied: %v; epoch %d, wanted %d", raised, copying, epoch, o.d.wantedEpoch())
			}
			if id > 1<<61 {
				t.Errorf("the id is %d, which was not given", id)
			}
		})
	}
}

// Two destinations with one database would undo each other's work: the first keeps the database.
func TestOpenADatabaseOfTwo(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.must(o.opens())
	o.other = "second"
	o.on(o.external, `UPDATE _stack_sync_metadata SET destination = 'second'`)
	err := o.opens()
	if err == nil || !strings.Contains(err.Error(), `destination "second" of the same tenant`) || external.AsError(err).Verdict != external.NeedsHuman {
		t.Errorf("%v", err)
	}
}
