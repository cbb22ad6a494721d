package external

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"outflow/internal/pgcluster/pgtest"
	"outflow/mapping"
	"outflow/replication/wal"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const tenant = "t1"

// item is a source table with a key of two columns.
var item = relation(1, "item", "tenant text", "id integer", "v text")

// relation is a source table. The columns are "name type"; the first two are the key.
func relation(oid uint32, name string, columns ...string) *wal.Relation {
	rel := &wal.Relation{OID: oid, Schema: "public", Name: name, Table: name, Identity: 'd', Key: []int{0, 1}}
	for i, c := range columns {
		name, typ, _ := strings.Cut(c, " ")
		rel.Columns = append(rel.Columns, wal.Column{Name: name, Type: typ, Identity: i < 2})
	}
	return rel
}

// row is a row of texts; nil is NULL.
func row(values ...any) mapping.Row {
	tuple := make([]wal.Value, len(values))
	for i, v := range values {
		if v == nil {
			tuple[i].Presence = wal.Null
			continue
		}
		tuple[i] = wal.Value{Presence: wal.Text, Text: []byte(fmt.Sprint(v))}
	}
	return mapping.Row{Tuple: wal.NewTuple(tuple), SequenceID: 100, CommittedAt: time.Unix(1e9, 0)}
}

// upserts and deletes are the rows of the table item.
func upserts(rows ...mapping.Row) map[string]*mapping.Rows {
	return map[string]*mapping.Rows{"item": {Relation: item, Upserts: rows}}
}

func deletes(rows ...mapping.Row) map[string]*mapping.Rows {
	return map[string]*mapping.Rows{"item": {Relation: item, Deletes: rows}}
}

// load makes a mapping of a YAML text.
func load(t *testing.T, yaml string) *mapping.Mapping {
	t.Helper()
	m, err := mapping.Load("m.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const itemsYAML = `name: items
target: items
schema: |
  CREATE TABLE IF NOT EXISTS items (id integer PRIMARY KEY, v text CHECK (v <> 'refused'))
steps:
  - from: item
    when: delete
    sql: DELETE FROM items t USING item r WHERE t.id = r.id
  - from: item
    when: upsert
    sql: INSERT INTO items (id, v) SELECT r.id, r.v FROM item r ON CONFLICT (id) DO UPDATE SET v = excluded.v
keys:
  item: SELECT id FROM items
`

// world is an external database of a test.
type world struct {
	t    *testing.T
	dsn  string
	db   *Database
	conn *pgconn.PgConn // beside the session
}

// newWorld is an empty external database with mappings.
func newWorld(t *testing.T, mappings ...string) *world {
	t.Helper()
	w := &world{t: t, dsn: pgtest.Database(t, pgtest.Shared(t))}
	w.db = w.database(w.dsn, mappings...)
	conn, err := pgconn.Connect(t.Context(), w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	w.conn = conn
	return w
}

var options = Options{MaxConnections: 10, StatementTimeout: 10 * time.Second, LockTimeout: 5 * time.Second, ConnectTimeout: 5 * time.Second}

func (w *world) database(dsn string, mappings ...string) *Database {
	w.t.Helper()
	spec := DestinationSpec{Tenant: tenant, Name: "main", DSN: dsn}
	for _, yaml := range mappings {
		spec.Mappings = append(spec.Mappings, load(w.t, yaml))
	}
	tables := SourceTables{{Relation: item, Tenant: "tenant"}}
	db, err := NewDatabase(&Owner{SourceID: "source", Tenant: tenant, Name: "main"}, spec, options, tables, zap.NewNop())
	if err != nil {
		w.t.Fatal(err)
	}
	return db
}

// dial opens a session that the test closes.
func (w *world) dial() *Session {
	w.t.Helper()
	s, err := w.db.DialAlone(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// ready opens a session and installs everything, as a destination does at its first connection.
func (w *world) ready() *Session {
	w.t.Helper()
	s := w.dial()
	ctx := w.t.Context()
	w.must(s.Begin(ctx))
	w.must(s.CreateMetadata(ctx))
	w.must(s.LockMetadata(ctx))
	w.must(s.CreateQuarantine(ctx))
	for _, m := range w.db.Mappings {
		w.must(s.RunSchema(ctx, m))
		w.must(s.Fill(ctx, m, Fill{Epoch: 7, Cursor: `{"phase": "copy"}`, Least: 10, Given: 1000, CheckpointID: "1 1"}))
	}
	w.must(s.Own(ctx))
	w.must(s.Commit(ctx))
	w.know(s)
	w.must(s.PrepareSteps(ctx))
	return s
}

// know has the session read the metadata again.
func (w *world) know(s *Session) {
	w.t.Helper()
	known, err := s.Metadata(w.t.Context())
	w.must(err)
	s.Epoch = 7
	s.Know(known)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// exec runs SQL beside the session.
func (w *world) exec(sql string) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), sql).ReadAll(); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// query gives the rows of a query beside the session, the columns of a row with a bar between.
func (w *world) query(sql string) []string {
	w.t.Helper()
	result := w.conn.ExecParams(w.t.Context(), sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		w.t.Fatalf("%s: %v", sql, result.Err)
	}
	var rows []string
	for _, r := range result.Rows {
		var texts []string
		for _, v := range r {
			if v == nil {
				texts = append(texts, "NULL")
			} else {
				texts = append(texts, string(v))
			}
		}
		rows = append(rows, strings.Join(texts, "|"))
	}
	return rows
}

// has fails unless a query gives the rows.
func (w *world) has(sql string, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.query(sql)); diff != "" {
		w.t.Errorf("%s (-expected +found):\n%s", sql, diff)
	}
}

// every chooses all mappings of the world's database.
func (w *world) every() []bool {
	all := make([]bool, len(w.db.Mappings))
	for i := range all {
		all[i] = true
	}
	return all
}

// batch applies rows and moves all mappings to an id, in one round trip.
func (w *world) batch(s *Session, rows map[string]*mapping.Rows, id int64) error {
	w.t.Helper()
	w.must(s.Compile(w.t.Context(), rows))
	_, err := s.Exchange(w.t.Context(), func(ctx context.Context, r *Round) error {
		if err := r.Begin(); err != nil {
			return err
		}
		if err := r.Steps(ctx, w.every(), rows); err != nil {
			return err
		}
		return r.Advance(w.every(), id, "1 2")
	})
	if err == nil {
		s.Applied(w.every(), id)
	}
	return err
}

// failed fails unless the error has the verdict and its text has all the parts.
func (w *world) failed(err error, verdict Verdict, parts ...string) *Error {
	w.t.Helper()
	if err == nil {
		w.t.Fatal("no error")
	}
	e := AsError(err)
	if e.Verdict != verdict {
		w.t.Errorf("the verdict is %d, expected %d: %v", e.Verdict, verdict, err)
	}
	for _, part := range parts {
		if !strings.Contains(e.Error(), part) {
			w.t.Errorf("%q is not in %q", part, e.Error())
		}
	}
	return e
}

var errTest = errors.New("test")
