package verify

import (
	"context"
	"fmt"
	"os"
	"slices"
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
	"outflow/sink/ledger"
	"outflow/sql"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const itemsYAML = `name: items
target: items
schema: CREATE TABLE IF NOT EXISTS items (id integer PRIMARY KEY, v text CHECK (v <> 'refused'))
steps:
  - {from: item, when: delete, sql: 'DELETE FROM items t USING item r WHERE t.id = r.id'}
  - {from: item, when: upsert, sql: 'INSERT INTO items (id, v) SELECT r.id, r.v FROM item r ON CONFLICT (id) DO UPDATE SET v = excluded.v'}
keys:
  item: SELECT id FROM items
`

// world is a primary with a table of items, and an external database of the tenant "t1" that was filled before. No stream runs: the metadata says
// that the stream has brought everything.
type world struct {
	t        *testing.T
	primary  *pgx.Conn
	external *pgx.Conn
	spec     external.DestinationSpec
	v        *Verifier
}

func newWorld(t *testing.T, yaml string) *world {
	t.Helper()
	w := &world{t: t}
	cluster := pgtest.Shared(t)
	source, target := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	w.primary, w.external = w.connect(source), w.connect(target)
	w.must(sql.Migrate(t.Context(), w.primary.Config()))
	w.on(w.primary, `INSERT INTO outflow.source (slot, system_identifier, timeline) VALUES ('one', '1', 1);
		INSERT INTO outflow.destination_state (slot, tenant_id, name, epoch, state, reason, updated_at) VALUES ('one', 't1', 'main', 7, 'streaming', '', now());
		CREATE TABLE item (tenant text, id integer, v text, PRIMARY KEY (tenant, id));
		INSERT INTO item SELECT 't1', n, 'v' || n FROM generate_series(1, 20) AS n; INSERT INTO item VALUES ('t2', 1, 'another tenant')`)
	server, err := primary.New(source)
	w.must(err)
	table, err := primary.LoadTable(t.Context(), w.primary, "public", "item")
	w.must(err)
	store := &ledger.Store{Slot: "one", Connect: server.Connect}
	t.Cleanup(store.Close)
	m, err := mapping.Load("m.yaml", []byte(yaml))
	w.must(err)
	w.spec = external.DestinationSpec{Tenant: "t1", Name: "main", DSN: target, Mappings: []*mapping.Mapping{m}}
	w.v = &Verifier{SourceID: "source", Tables: external.SourceTables{{Relation: table.Relation, Tenant: "tenant"}}, Primary: tableread.NewTables(server), Ledger: store,
		Options:    external.Options{MaxConnections: 1, StatementTimeout: 10 * time.Second, LockTimeout: 10 * time.Second, ConnectTimeout: 5 * time.Second},
		SequenceID: func(lsn wal.LSN) int64 { return int64(lsn) }, Log: zap.NewNop()}
	w.fill(m)
	return w
}

// streamed is an id above all ids that the primary can have given.
const streamed = 1 << 60

// fill makes the external database as a destination leaves it.
func (w *world) fill(m *mapping.Mapping) {
	w.t.Helper()
	ctx := w.t.Context()
	db, err := external.NewDatabase(&external.Owner{SourceID: "source", Tenant: "t1", Name: "main"}, w.spec, w.v.Options, w.v.Tables, zap.NewNop())
	w.must(err)
	s, err := db.DialAlone(ctx)
	w.must(err)
	defer s.Close()
	w.must(s.Begin(ctx))
	w.must(s.CreateMetadata(ctx))
	w.must(s.RunSchema(ctx, m))
	w.must(s.Fill(ctx, m, external.Fill{Epoch: 7, Cursor: "{}", Least: streamed, Given: streamed}))
	w.must(s.Own(ctx))
	w.must(s.Commit(ctx))
	w.on(w.external, `UPDATE _stack_sync_metadata SET backfill = NULL; INSERT INTO items (id, v) SELECT n, 'v' || n FROM generate_series(1, 20) AS n`)
}

func (w *world) connect(dsn string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), dsn)
	w.must(err)
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
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

func (w *world) text(conn *pgx.Conn, sql string) (text string) {
	w.t.Helper()
	w.must(conn.QueryRow(w.t.Context(), sql).Scan(&text))
	return text
}

// items is the content of the external table as one text.
func (w *world) items() string {
	w.t.Helper()
	return w.text(w.external, `SELECT coalesce(string_agg(i::text, ' ' ORDER BY i::text), '') FROM items AS i`)
}

// fails fails unless the comparison ends with an error that has all the parts.
func (w *world) fails(parts ...string) *external.Error {
	w.t.Helper()
	found, err := w.v.Verify(w.t.Context(), w.spec)
	if err == nil {
		w.t.Fatalf("no error, but %+v", found)
	}
	e := external.AsError(err)
	for _, part := range parts {
		if !strings.Contains(e.Error(), part) {
			w.t.Errorf("%q is not in %q", part, e.Error())
		}
	}
	return e
}

func TestEqual(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	rows := 0
	w.v.Progress = func(n int) { rows += n }
	w.v.Waiting = func(what string) { t.Errorf("waiting: %s", what) }
	found, err := w.v.Verify(t.Context(), w.spec)
	w.must(err)
	if diff := cmp.Diff(Comparison{Tables: []TableComparison{{Mapping: "items", Table: "items", Rows: 20}}, Looks: 1}, found); diff != "" || rows != 20 {
		t.Errorf("%d rows were read (-expected +found):\n%s", rows, diff)
	}
}

// Missing, extra and changed rows are told apart, and what is compared is left as it was.
func TestDifferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.on(w.external, `DELETE FROM items WHERE id IN (3, 4); UPDATE items SET v = 'other' WHERE id = 5; INSERT INTO items VALUES (100, 'x')`)
	before := w.items()
	found, err := w.v.Verify(t.Context(), w.spec)
	w.must(err)
	want := TableComparison{Mapping: "items", Table: "items", Rows: 20, Missing: 2, Extra: 1, Changed: 1, First: []Difference{
		{"extra", "id=100"}, {"missing", "id=3"}, {"missing", "id=4"}, {"changed", "id=5"}}}
	if diff := cmp.Diff(Comparison{Tables: []TableComparison{want}, Looks: 2}, found); diff != "" {
		t.Errorf("(-expected +found):\n%s", diff)
	}
	if found.Different() != 4 {
		t.Errorf("%d rows differ", found.Different())
	}
	if after := w.items(); after != before {
		t.Errorf("the comparison has changed the table from %s to %s", before, after)
	}
	if n := w.text(w.external, `SELECT count(*)::text FROM pg_class WHERE relpersistence = 't'`); n != "0" {
		t.Errorf("%s temporary tables are left", n)
	}
}

// Rows of a table without a primary key are compared as a multiset.
func TestDifferencesWithoutPrimaryKey(t *testing.T) {
	t.Parallel()
	yaml := strings.NewReplacer(" PRIMARY KEY", "", " ON CONFLICT (id) DO UPDATE SET v = excluded.v", "").Replace(itemsYAML)
	w := newWorld(t, yaml)
	w.on(w.external, `INSERT INTO items VALUES (1, 'v1'), (1, 'v1'); DELETE FROM items WHERE id = 2`)
	found, err := w.v.Verify(t.Context(), w.spec)
	w.must(err)
	if c := found.Tables[0]; c.Extra != 1 || c.Missing != 1 || c.Changed != 0 {
		t.Errorf("%+v", c)
	}
	keys := []string{}
	for _, d := range found.Tables[0].First {
		keys = append(keys, d.Kind+" "+d.Key)
	}
	slices.Sort(keys)
	if !slices.Equal(keys, []string{"extra (1,v1)", "missing (2,v2)"}) {
		t.Errorf("%v", keys)
	}
}

// A repair makes the rows equal, through the mapping, and moves no id.
func TestRepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	equal := w.items()
	w.on(w.external, `DELETE FROM items WHERE id IN (3, 4); UPDATE items SET v = 'other' WHERE id = 5; INSERT INTO items VALUES (100, 'x')`)
	w.v.Repair = true
	found, err := w.v.Verify(t.Context(), w.spec)
	w.must(err)
	if c := found.Tables[0]; c.Different() != 0 || c.Repaired != 4 {
		t.Errorf("%+v", c)
	}
	if got := w.items(); got != equal {
		t.Errorf("repaired: %s, expected %s", got, equal)
	}
	if id := w.text(w.external, `SELECT last_synced_sequence_id::text FROM _stack_sync_metadata`); id != fmt.Sprint(streamed) {
		t.Errorf("the id is %s", id)
	}
}

// A repair of many rows takes several transactions.
func TestRepairOfManyRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.on(w.primary, fmt.Sprintf(`INSERT INTO item SELECT 't1', n, 'v' || n FROM generate_series(1000, %d) AS n`, 1000+2*repairRows+10))
	w.v.Repair = true
	found, err := w.v.Verify(t.Context(), w.spec)
	w.must(err)
	if c := found.Tables[0]; c.Different() != 0 || c.Repaired != 2*repairRows+11 {
		t.Errorf("%+v", c)
	}
}

// A repair waits for the transactions that are open on the primary, for a while.
func TestRepairBesideAnOpenTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.v.Options.LockTimeout = 200 * time.Millisecond
	w.on(w.external, `DELETE FROM items WHERE id = 3`)
	tx, err := w.primary.Begin(t.Context())
	w.must(err)
	_, err = tx.Exec(t.Context(), `UPDATE item SET v = 'later' WHERE tenant = 't1' AND id = 3`)
	w.must(err)
	w.v.Repair = true
	w.fails("run for longer than a repair can wait")
	w.must(tx.Commit(t.Context()))
	w.v.Options.LockTimeout = 10 * time.Second
	found, err := w.v.Verify(t.Context(), w.spec)
	w.must(err)
	if c := found.Tables[0]; c.Different() != 0 || w.text(w.external, `SELECT v FROM items WHERE id = 3`) != "later" {
		t.Errorf("%+v", c)
	}
}

// Differences that prove nothing are an error that says why.
func TestDifferencesThatProveNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		primary, external string
		parts             []string
	}{
		"copied":          {`UPDATE outflow.destination_state SET state = 'backfilling'`, ``, []string{"the destination is being copied from the primary", "wait until its state is streaming"}},
		"copied by now":   {``, `UPDATE _stack_sync_metadata SET backfill = '{"phase": "copy"}'`, []string{"the destination is being copied from the primary"}},
		"halted":          {`UPDATE outflow.destination_state SET state = 'halted', reason = 'a cause'`, ``, []string{"the destination is halted: a cause", "remove that cause first"}},
		"no process":      {``, `UPDATE _stack_sync_metadata SET last_synced_sequence_id = 5`, []string{"rows differ, and no process reads the slot", "start outflow run"}},
		"another owner":   {``, `UPDATE _stack_sync_metadata SET tenant = 't2'`, []string{"the database holds the rows of tenant"}},
		"never filled":    {``, `DELETE FROM _stack_sync_metadata`, []string{"mapping items: the mapping was never filled here, or has changed since"}},
		"another mapping": {``, `UPDATE _stack_sync_metadata SET fingerprint = 'x'`, []string{"the mapping was never filled here, or has changed since"}},
		"no table":        {``, `DROP TABLE items`, []string{"making a temporary table like items", "outflow resync"}},
		"a refused row":   {`UPDATE item SET v = 'refused' WHERE tenant = 't1' AND id = 7`, ``, []string{"row of item with tenant=t1, id=7", "correct the row on the primary"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			w.on(w.external, `DELETE FROM items WHERE id = 3`)
			w.on(w.primary, test.primary)
			w.on(w.external, test.external)
			waited := ""
			w.v.Waiting = func(what string) { waited = what }
			w.fails(test.parts...)
			if (name == "no process") != strings.Contains(waited, "t1/main: rows differ so far; waiting") {
				t.Errorf("it said %q", waited)
			}
		})
	}
}

// A mapping whose rows are not a function of the primary's rows cannot be compared.
func TestMappingThatDependsOnTheChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(itemsYAML, "SELECT r.id, r.v FROM", "SELECT r.id, r._sequence_id::text FROM", 1))
	w.fails("the rows depend on _sequence_id, which does not follow from the primary's rows")
}

// A step that writes elsewhere than to the mapping's tables writes nothing during a comparison.
func TestStepThatDrawsFromASequence(t *testing.T) {
	t.Parallel()
	yaml := strings.NewReplacer("CREATE TABLE IF NOT EXISTS items", "CREATE SEQUENCE IF NOT EXISTS drawn; CREATE TABLE IF NOT EXISTS items",
		"SELECT r.id, r.v FROM", "SELECT r.id, nextval(''drawn'')::text FROM").Replace(itemsYAML)
	w := newWorld(t, yaml)
	w.fails("use no sequences")
	if called := w.text(w.external, `SELECT is_called::text FROM drawn`); called != "false" {
		t.Error("a number was drawn")
	}
}

// A destination with a fault, or whose database cannot be reached, is an error and no finding.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	dsn := w.spec.DSN
	w.spec.Fault = external.NewFault(external.ClassConfiguration, fmt.Errorf("a fault"), "a remedy")
	w.fails("a fault", "a remedy")
	w.spec.Fault, w.spec.DSN = nil, "postgres://u@127.0.0.1:1/d"
	if e := w.fails("connecting:"); e.Class() != external.ClassRefused {
		t.Errorf("the class is %s", e.Class())
	}
	w.spec.DSN = "postgres://h:port/d"
	w.fails("the connection string cannot be read")
	w.spec.DSN = dsn
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.v.Verify(ctx, w.spec); err == nil {
		t.Error("a canceled comparison has no error")
	}
}
