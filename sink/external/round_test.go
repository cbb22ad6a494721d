package external

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"outflow/internal/pgerror"
	"outflow/mapping"
)

const ids = `SELECT mapping_name, last_synced_sequence_id FROM _stack_sync_metadata ORDER BY 1`

// Rows and the id move together, or not at all.
func TestRoundMovesRowsAndMetadata(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	w.must(w.batch(s, upserts(row(tenant, 1, "a"), row(tenant, 2, "b")), 20))
	w.has(`SELECT * FROM items ORDER BY 1`, "1|a", "2|b")
	w.has(ids, "items|20")
	w.must(w.batch(s, deletes(row(tenant, 1, nil)), 21))
	w.has(`SELECT * FROM items ORDER BY 1`, "2|b")
	w.has(`SELECT last_synced_sequence_id, mark FROM _stack_sync_metadata`, "21|1 2")
	e := w.failed(w.batch(s, upserts(row(tenant, 3, "c"), row(tenant, 4, "refused")), 22), RowFault, "mapping items", "items_v_check", "23514")
	if e.Table != "item" || e.Class() != "23514" {
		t.Errorf("the table is %q, the class %s", e.Table, e.Class())
	}
	w.has(`SELECT * FROM items ORDER BY 1`, "2|b")
	w.has(ids, "items|21")
	if !s.Usable() || s.Held[0] != 21 || s.expected[0] != 21 {
		t.Errorf("after a refused row the session is usable: %v; it holds %v and expects %v", s.Usable(), s.Held, s.expected)
	}
	w.must(w.batch(s, upserts(row(tenant, 3, "c")), 22))
	w.has(`SELECT * FROM items ORDER BY 1`, "2|b", "3|c")
}

// The compare-and-set finds each way in which the metadata may not be as this process left the metadata.
func TestRoundComparesTheMetadata(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"another id":          `UPDATE _stack_sync_metadata SET last_synced_sequence_id = 11`,
		"another epoch":       `UPDATE _stack_sync_metadata SET epoch = 8`,
		"another fingerprint": `UPDATE _stack_sync_metadata SET fingerprint = 'x'`,
		"another tenant":      `UPDATE _stack_sync_metadata SET tenant = 't2'`,
		"another source":      `UPDATE _stack_sync_metadata SET source = 'other'`,
		"no row":              `DELETE FROM _stack_sync_metadata`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			s := w.ready()
			w.exec(change)
			e := w.failed(w.batch(s, upserts(row(tenant, 1, "a")), 20), Conflict, "the metadata has changed")
			if e.Class() != ClassConflict {
				t.Errorf("the class is %s", e.Class())
			}
			w.has(`SELECT * FROM items`)
			if !s.Usable() {
				t.Error("the session is not usable")
			}
		})
	}
}

// A mapping that ends the transaction moves no id.
func TestRoundFindsAnEndedTransaction(t *testing.T) {
	t.Parallel()
	const ending = `name: items
target: items
schema: |
  CREATE TABLE IF NOT EXISTS items (id integer PRIMARY KEY, v text);
  CREATE OR REPLACE FUNCTION items_moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('outflow.xid', '1', true); RETURN NEW; END $$;
  DROP TRIGGER IF EXISTS moved ON items;
  CREATE TRIGGER moved BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION items_moved()
steps:
  - {from: item, when: upsert, sql: 'INSERT INTO items (id, v) SELECT r.id, r.v FROM item r ON CONFLICT (id) DO UPDATE SET v = excluded.v'}
  - {from: item, when: delete, sql: 'DELETE FROM items t USING item r WHERE t.id = r.id'}
`
	w := newWorld(t, ending)
	s := w.ready()
	w.failed(w.batch(s, upserts(row(tenant, 1, "a")), 20), Conflict, "a mapping ended the transaction")
	w.has(`SELECT * FROM items`)
	w.has(ids, "items|10")
}

// Two rounds are in flight: the second expects the result of the first, and fails with the first.
func TestPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	send := func(p *Pipeline, id int64, rows map[string]*mapping.Rows) *Round {
		r := p.Round()
		r.Async = true
		w.must(r.Begin())
		w.must(r.Steps(t.Context(), w.every(), rows))
		w.must(r.Advance(w.every(), id, ""))
		s.Expect(w.every(), id)
		w.must(r.Flush())
		return r
	}
	w.must(s.Compile(t.Context(), upserts(row(tenant, 1, "a"))))
	p := s.Pipeline(t.Context())
	first := send(p, 20, upserts(row(tenant, 1, "a")))
	second := send(p, 21, upserts(row(tenant, 2, "b")))
	if slices.ContainsFunc(second.sent, func(q sent) bool { return q.params != nil }) {
		t.Error("a round in flight keeps its parameters")
	}
	w.must(first.Read())
	s.Applied(w.every(), 20)
	w.must(second.Read())
	s.Applied(w.every(), 21)
	w.must(p.Close())
	if first.Positions.Insert == 0 || second.Positions.Insert < first.Positions.Insert {
		t.Errorf("the server's positions are %v, then %v", first.Positions, second.Positions)
	}
	w.has(ids, "items|21")

	p = s.Pipeline(t.Context())
	first = send(p, 22, upserts(row(tenant, 3, "refused")))
	second = send(p, 23, upserts(row(tenant, 4, "d")))
	w.failed(first.Read(), RowFault, "items_v_check")
	_ = p.Close()
	first.Failed()
	second.Failed()
	w.has(ids, "items|21")
	w.has(`SELECT * FROM items ORDER BY 1`, "1|a", "2|b")
	w.must(w.batch(s, upserts(row(tenant, 4, "d")), 22)) // the statements are still known to both sides
	w.has(ids, "items|22")
}

// A pooler in transaction mode gives each transaction another session of the server, whose prepared statements are others.
func TestRoundBehindAPooler(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	w.must(w.batch(s, upserts(row(tenant, 1, "a")), 20))
	w.must(s.Exec(t.Context(), "DEALLOCATE ALL"))
	w.failed(w.batch(s, upserts(row(tenant, 2, "b")), 21), Retry, "a pooler does not keep prepared statements")
	if !w.db.Unnamed {
		t.Fatal("the next session would prepare statements again")
	}
	w.must(w.batch(s, upserts(row(tenant, 2, "b")), 21))
	w.has(`SELECT * FROM items ORDER BY 1`, "1|a", "2|b")

	w.db.Unnamed = false
	w.must(s.Exec(t.Context(), "PREPARE outflow_begin AS SELECT 1")) // another client of the pooler has used the name
	s.prepared = map[string]bool{}
	w.failed(w.batch(s, upserts(row(tenant, 3, "c")), 22), Retry, "a pooler does not keep prepared statements")
}

// Rows new on the source are inserted without ON CONFLICT, where the round says so; a row that is there is a fault of the row then.
func TestPlainInsert(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	w.exec(`INSERT INTO items VALUES (1, 'there')`)
	insert := func(plain bool) error {
		rows := upserts(row(tenant, 1, "a"))
		rows["item"].New = true
		w.must(s.Compile(t.Context(), rows))
		_, err := s.Exchange(t.Context(), func(ctx context.Context, r *Round) error {
			r.PlainInsert = plain
			if err := r.Begin(); err != nil {
				return err
			}
			if err := r.Steps(ctx, w.every(), rows); err != nil {
				return err
			}
			return r.Advance(w.every(), 20, "")
		})
		return err
	}
	if e := w.failed(insert(true), RowFault); e.SQLState != pgerror.UniqueViolation {
		t.Errorf("SQLSTATE %s", e.SQLState)
	}
	w.must(insert(false))
	w.has(`SELECT * FROM items`, "1|a")
}

// COMMIT waits for the disk unless the round is asynchronous, whatever the role's own setting is.
func TestDurability(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.exec(fmt.Sprintf(`ALTER DATABASE %s SET synchronous_commit = 'remote_apply'`, QuoteIdentifier(w.db.Config.Database)))
	s := w.ready()
	for async, want := range map[bool]string{false: "on", true: "off"} {
		var got string
		_, err := s.Exchange(t.Context(), func(_ context.Context, r *Round) error {
			r.Async = async
			if err := r.Begin(); err != nil {
				return err
			}
			r.Assert("setting", `SELECT 1 / (current_setting('synchronous_commit') = $1)::int`, &Error{Err: errTest}, want)
			return r.commit()
		})
		if err != nil {
			t.Errorf("asynchronous %v: synchronous_commit is not %q: %v%s", async, want, err, got)
		}
	}
}

// An assertion that does not hold is the round's error, and nothing is committed.
func TestAssert(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	refusal := &Error{Verdict: NeedsHuman, Err: errTest}
	assert := func(sql string) error {
		_, err := s.Exchange(t.Context(), func(_ context.Context, r *Round) error {
			if err := r.Begin(); err != nil {
				return err
			}
			r.Exec("insert", "test_insert", `INSERT INTO items VALUES (1, 'a')`)
			r.Assert("keys", sql, refusal, "1")
			return r.Advance(w.every(), 20, "")
		})
		return err
	}
	if err := assert(`SELECT 1 / (count(*) > $1::bigint)::int FROM items`); err != refusal { //nolint:errorlint // the very error
		t.Errorf("the error is %v", err)
	}
	w.failed(assert(`SELECT $1::int FROM absent`), NeedsHuman, "keys:", "absent")
	w.has(`SELECT * FROM items`)
	w.must(assert(`SELECT 1 / (count(*) = $1::bigint)::int FROM items`))
	w.has(`SELECT * FROM items`, "1|a")
}

// A savepoint lets a large transaction go on behind a refused round.
func TestSavepoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	ctx := t.Context()
	w.must(s.Begin(ctx))
	w.must(s.Exec(ctx, "SAVEPOINT test"))
	s.KeepOpen = true
	rows := upserts(row(tenant, 1, "refused"))
	w.must(s.Compile(ctx, rows))
	_, err := s.Exchange(ctx, func(ctx context.Context, r *Round) error { return r.Steps(ctx, w.every(), rows) })
	w.failed(err, RowFault)
	if !s.Refused() || s.InTransaction() {
		t.Fatalf("refused: %v, in a transaction: %v", s.Refused(), s.InTransaction())
	}
	w.must(s.Exec(ctx, "ROLLBACK TO SAVEPOINT test"))
	s.KeepOpen = false
	rows = upserts(row(tenant, 1, "a"))
	_, err = s.Exchange(ctx, func(ctx context.Context, r *Round) error { return r.Steps(ctx, w.every(), rows) })
	w.must(err)
	if !s.InTransaction() {
		t.Error("the transaction is not open")
	}
	w.must(s.Commit(ctx))
	w.has(`SELECT * FROM items`, "1|a")
}

// The cursor of a copy moves with the rows, from the value that this process has; the ids move up with the cursor.
func TestMoveCursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	move := func(from, to string, id int64) error {
		rows := upserts(row(tenant, id, "copied"))
		w.must(s.Compile(t.Context(), rows))
		_, err := s.Exchange(t.Context(), func(ctx context.Context, r *Round) error {
			if err := r.Begin(); err != nil {
				return err
			}
			if err := r.Steps(ctx, w.every(), rows); err != nil {
				return err
			}
			return r.MoveCursor(w.every(), from, to, id, "1 3")
		})
		if err == nil {
			s.Reached(w.every(), id)
		}
		return err
	}
	const cursors = `SELECT backfill, last_synced_sequence_id, mark FROM _stack_sync_metadata`
	w.must(move(`{"phase": "copy"}`, `{"phase": "sweep"}`, 30))
	w.has(cursors, `{"phase": "sweep"}|30|1 3`)
	w.failed(move(`{"phase": "copy"}`, `{"phase": "copy", "done": true}`, 31), Conflict)
	w.has(cursors, `{"phase": "sweep"}|30|1 3`)
	w.must(move(`{"phase": "sweep"}`, "", 29)) // a lower id does not take the database back
	w.has(cursors, `NULL|30|1 3`)
	if s.Held[0] != 30 || s.Lowest() != 30 {
		t.Errorf("the session holds %v", s.Held)
	}
	w.has(`SELECT id FROM items ORDER BY 1`, "29", "30")
}

// A row of another tenant is never sent.
func TestForeignRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	for name, rows := range map[string]map[string]*mapping.Rows{
		"an upsert":  upserts(row(tenant, 1, "a"), row("t2", 2, "b")),
		"a delete":   deletes(row("t2", 2, nil)),
		"no tenant":  upserts(row(nil, 1, "a")),
		"no column":  {"item": {Relation: relation(9, "other", "x text", "id integer", "v text"), Upserts: []mapping.Row{row(tenant, 1, "a")}}},
		"unlike one": upserts(row(tenant+" ", 1, "a")),
	} {
		_, err := s.Exchange(t.Context(), func(ctx context.Context, r *Round) error { return r.Steps(ctx, w.every(), rows) })
		e := w.failed(err, NeedsHuman, "1 rows of item", "were refused")
		foreign, ok := e.Err.(*ForeignRowsError) //nolint:errorlint // not wrapped
		if !ok || foreign.Rows != 1 || foreign.Table != "item" || foreign.Tenant != tenant {
			t.Errorf("%s: %#v", name, e.Err)
		}
		if strings.Contains(e.Error(), "t2") {
			t.Errorf("%s: the error has the other tenant's name: %v", name, e)
		}
	}
	w.has(`SELECT * FROM items`)
	if !s.Usable() {
		t.Error("the session is not usable")
	}
}

// Many rows that are joined with something are planned for their number; a plan made for few rows takes every array for ten elements.
func TestPlanForManyRows(t *testing.T) {
	t.Parallel()
	const joined = `name: items
target: items
schema: CREATE TABLE IF NOT EXISTS items (id integer PRIMARY KEY, v text)
steps:
  - {from: item, when: delete, sql: 'DELETE FROM items t USING item r WHERE t.id = r.id'}
  - {from: item, when: upsert, sql: 'INSERT INTO items (id, v) SELECT r.id, coalesce(t.v, r.v) FROM item r LEFT JOIN items t ON t.id = r.id ON CONFLICT (id) DO NOTHING'}
`
	w := newWorld(t, joined)
	s := w.ready()
	for n, want := range map[int]string{1: genericPlan, manyRows: genericPlan, manyRows + 1: customPlan} {
		var rows []mapping.Row
		for i := range n {
			rows = append(rows, row(tenant, 1000*n+i, "v"))
		}
		w.must(w.batch(s, upserts(rows...), s.Held[0]+1))
		if s.plan != want {
			t.Errorf("%d rows: the plan is %s", n, s.plan)
		}
	}
}

// Where fill fails, nothing is committed; where the server is lost, the error says so and the session is not usable.
func TestExchangeThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	_, err := s.Exchange(t.Context(), func(_ context.Context, r *Round) error {
		r.Exec("insert", "test_insert", `INSERT INTO items VALUES (1, 'a')`)
		return errTest
	})
	if err != errTest { //nolint:errorlint // the very error
		t.Errorf("the error is %v", err)
	}
	w.has(`SELECT * FROM items`)
	if s.Usable() {
		t.Error("the session is usable with half a round in its pipeline")
	}
	w.db.Mappings = nil
	s = w.dial()
	pid := s.conn.PID()
	w.exec(fmt.Sprintf(`SELECT pg_terminate_backend(%d, 5000)`, pid))
	_, err = s.Exchange(t.Context(), func(_ context.Context, r *Round) error {
		r.Exec("insert", "test_insert2", `INSERT INTO items VALUES (2, 'a')`)
		return nil
	})
	w.failed(err, Retry)
	if s.Usable() {
		t.Error("the session is usable")
	}
}

// The error of a request names the request, and no value of a row.
func TestErrorsNameNoValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	e := w.failed(w.batch(s, upserts(row(tenant, 1, "refused")), 20), RowFault)
	if strings.Contains(e.Error(), "refused") && !strings.Contains(e.Error(), "items_v_check") || strings.Contains(e.Error(), "Failing row") {
		t.Errorf("the error has values: %v", e)
	}
	e = w.failed(w.batch(s, upserts(row(tenant, "secret", "a")), 20), RowFault)
	if strings.Contains(e.Error(), "secret") {
		t.Errorf("the error has values: %v", e)
	}
	if file, line, _, ok := e.Place(); !ok || file != "m.yaml" || line == 0 {
		t.Errorf("the place is %s:%d", file, line)
	}
	if server := serverError(e); server != nil && strings.Contains(fmt.Sprintf("%+v", *server), "secret") {
		t.Errorf("the error keeps values: %+v", *server)
	}
}
