package destination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/faultproxy"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
)

// connects opens a session that has nothing to copy; the test is the worker.
func (o *openTest) connects() {
	o.t.Helper()
	o.must(o.opens())
	o.on(o.external, `UPDATE _stack_sync_metadata SET backfill = NULL`)
	o.must(o.d.connect(o.t.Context()))
	o.t.Cleanup(o.end)
}

// end closes the session of the test.
func (o *openTest) end() {
	o.d.shared.Workers.Drain(time.Second)
	o.d.mu.Lock()
	s := o.d.session
	o.d.session = nil
	o.d.mu.Unlock()
	if s != nil {
		s.close()
	}
	o.d.Stop()
}

// put is an INSERT into the source table; the text "~" is a value left in TOAST.
func (o *openTest) put(id int, v string) wal.Change {
	rel := o.d.shared.Schemas.Relation("item")
	value := wal.Value{Presence: wal.Text, Text: []byte(v)}
	if v == "~" {
		value = wal.Value{Presence: wal.Unchanged}
	}
	return wal.Change{Kind: wal.Insert, Relation: rel, New: wal.NewTuple([]wal.Value{{Presence: wal.Text, Text: []byte("t")},
		{Presence: wal.Text, Text: []byte(strconv.Itoa(id))}, value})}
}

func (o *openTest) removal(id int) wal.Change {
	c := o.put(id, "")
	c.Kind, c.Old, c.New = wal.Delete, c.New, wal.Tuple{}
	return c
}

// holds fails unless the external database has the rows, and has them up to the sequence id.
func (o *openTest) holds(id int64, want ...string) {
	o.t.Helper()
	rows, err := o.external.Query(o.t.Context(), `SELECT id || ' ' || v FROM items ORDER BY id`)
	o.must(err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	o.must(err)
	if diff := cmp.Diff(want, got, cmp.Transformer("none", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
		o.t.Errorf("the rows (-expected +found):\n%s", diff)
	}
	if _, held, _ := o.row(); held != id {
		o.t.Errorf("the external database is at %d, expected %d", held, id)
	}
}

// works advances until nothing is left, or something fails.
func (o *openTest) works() error {
	for {
		if err := o.d.advance(o.t.Context()); err != nil {
			if errors.Is(err, errNothing) {
				return nil
			}
			return err
		}
	}
}

// A batch is applied in one transaction, with its id, and let go of when the server has flushed the commit.
func TestApplyABatch(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.connects()
	o.d.bring(t, 10, o.put(1, "a"), o.put(2, "b"))
	o.d.bring(t, 20, o.put(3, "c"), o.removal(1))
	o.must(o.works())
	o.holds(20, "2 b", "3 c")
	if s := o.d.Status(); s.SequenceID != 20 || s.Transactions != 2 || s.Batches != 1 || s.Err != nil {
		t.Errorf("the status is %+v", s)
	}
	var rows, metadata string
	o.must(o.external.QueryRow(t.Context(), `SELECT string_agg(DISTINCT i.xmin::text, ' '), max(m.xmin::text) FROM items i, _stack_sync_metadata m`).Scan(&rows, &metadata))
	if rows != metadata {
		t.Errorf("the rows are of transactions %s, the metadata of %s", rows, metadata)
	}
	until(t, "the commits to be flushed", func() bool {
		o.must(o.d.askFlush(t.Context()))
		return o.d.queue.Applied() == 0
	})
	if flush := o.d.shared.Acks.Flush(); flush != 21 || o.d.queue.Bytes() != 0 {
		t.Errorf("acknowledged up to %d, with %d bytes queued", flush, o.d.queue.Bytes())
	}
}

// A value that an UPDATE left in TOAST comes from the primary's row.
func TestApplyAValueOfThePrimary(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	var asked []string
	o.d.shared.Rows = func(_ context.Context, look tableread.Look) (tableread.Found, error) {
		found := tableread.Found{Relation: look.Relation}
		for _, k := range look.Tuples {
			id := string(k.Value(1).Text)
			asked = append(asked, id)
			if row := o.put(1, "from the primary").New; id == "1" {
				found.Rows = append(found.Rows, row)
			} else {
				found.Rows = append(found.Rows, wal.Tuple{}) // gone
			}
		}
		return found, nil
	}
	o.connects()
	o.d.bring(t, 10, o.put(1, "~"), o.put(2, "here"), o.put(3, "~"))
	o.must(o.works())
	o.holds(10, "1 from the primary", "2 here")
	if !slices.Equal(asked, []string{"1", "3"}) {
		t.Errorf("the primary was asked for %v", asked)
	}
}

// A transaction larger than a batch is applied in rounds in one external transaction, whatever it does to its own rows; a TRUNCATE in its place.
func TestApplyALargeTransaction(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.connects()
	o.d.bring(t, 10, o.put(1, "before"), o.put(2, "before"))
	o.must(o.works())
	var changes []wal.Change
	for id := range 250 { // of batches of 100
		changes = append(changes, o.put(1000+id, "x"))
	}
	changes = append(changes, o.put(5, "truncated"), wal.Change{Kind: wal.Truncate, Relation: changes[0].Relation}, o.put(1, "after"))
	for id := range 150 {
		changes = append(changes, o.put(2000+id, "y"))
	}
	o.d.bring(t, 20, changes...)
	b := o.d.take(nil)
	if b == nil || b.large == nil {
		t.Fatalf("the batch is %+v", b)
	}
	o.must(o.d.applyInRounds(t.Context(), b))
	o.holds(10, "1 before", "2 before") // nothing is to be seen before the end
	o.must(o.d.commitRounds(t.Context(), b))
	want := []string{"1 after"}
	for id := range 150 {
		want = append(want, fmt.Sprintf("%d y", 2000+id))
	}
	o.holds(20, want...)
	var transactions int
	o.must(o.external.QueryRow(t.Context(), `SELECT count(DISTINCT xmin::text) FROM items`).Scan(&transactions))
	if transactions != 1 || o.d.queue.Applied() != 0 && o.d.Status().Batches != 2 {
		t.Errorf("the rows are of %d transactions", transactions)
	}
	if flush := o.d.shared.Acks.Flush(); flush != 21 { // a large transaction's COMMIT waits for the disk
		t.Errorf("acknowledged up to %d", flush)
	}
}

// A refused row halts the destination behind the transactions before, and the error names the row.
func TestARefusedRowHalts(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.connects()
	o.d.bring(t, 10, o.put(1, "a"))
	o.d.bring(t, 20, o.put(2, "b"), o.put(3, "refused"))
	o.d.bring(t, 30, o.put(4, "d"))
	err := o.works()
	e := external.AsError(err)
	if err == nil || e.Verdict != external.RowFault || e.SQLState != "23514" || e.Table != "item" || e.Key != "tenant=t, id=3" {
		t.Fatalf("%+v", e)
	}
	o.holds(10, "1 a")
	o.d.mu.Lock()
	o.d.life.Work = lifecycle.Working
	o.d.mu.Unlock()
	o.d.settleUp(o.d.giveUp(e))
	if s := o.d.Status(); o.d.life.Health != lifecycle.Halted || s.Queued != 2 || s.SequenceID != 10 {
		t.Errorf("the status is %+v", s)
	}
	// The cause is corrected, and the same transactions are taken from the queue again.
	o.on(o.external, `ALTER TABLE items DROP CONSTRAINT items_v_check`)
	o.must(o.d.connect(t.Context()))
	o.must(o.works())
	o.holds(30, "1 a", "2 b", "3 refused", "4 d")
	if s := o.d.Status(); o.d.life.Health != lifecycle.Well || s.Err != nil {
		t.Errorf("the status is %+v", s)
	}
}

// With a quarantine a refused row is set aside, and all else is applied, of its own transaction too.
func TestARefusedRowInQuarantine(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.d.shared.Options.OnError = Quarantine
	o.connects()
	o.d.bring(t, 10, o.put(1, "a"))
	o.d.bring(t, 20, o.put(2, "b"), o.put(3, "refused"), o.put(5, "e"))
	o.d.bring(t, 30, o.put(4, "d"))
	o.must(o.works())
	o.holds(30, "1 a", "2 b", "4 d", "5 e")
	var n int
	var aside string
	o.must(o.external.QueryRow(t.Context(), `SELECT count(*), max(q::text) FROM _stack_sync_quarantine q`).Scan(&n, &aside))
	if n != 1 {
		t.Errorf("%d rows are set aside: %s", n, aside)
	}
}

// A row that refers to a later row of its transaction waits for the later row; the row that is refused in every order is named.
func TestRowsInAnotherOrder(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.connects()
	o.on(o.external, `ALTER TABLE items DROP CONSTRAINT items_v_check, ADD parent integer GENERATED ALWAYS AS (nullif(v, 'none')::integer) STORED REFERENCES items`)
	o.d.bring(t, 10, o.put(1, "none"))
	o.must(o.works())
	o.d.bring(t, 20, o.put(3, "2"), o.put(2, "1"), o.put(4, "5"))
	err := o.works() // in no order is row 5 there
	if e := external.AsError(err); err == nil || e.Key != "tenant=t, id=4" || e.SQLState != "23503" {
		t.Fatalf("%v", err)
	}
	o.holds(10, "1 none")
}

// Where the answer to a COMMIT is lost the metadata tells that the batch is there, and the batch is not applied again.
func TestALostAnswerToACommit(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	o.connects()
	config := o.d.db.Config.Copy()
	proxy, err := faultproxy.New(fmt.Sprintf("%s:%d", config.Host, config.Port))
	o.must(err)
	defer proxy.Close()
	through, err := pgconn.ParseConfig(proxy.DSN(o.external.Config().ConnString()))
	o.must(err)
	o.d.db.Config.Host, o.d.db.Config.Port = through.Host, through.Port
	o.on(o.external, `CREATE TABLE applied (id integer); CREATE FUNCTION applied() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO applied VALUES (new.id); RETURN NULL; END$$;
		CREATE TRIGGER applied AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION applied()`)
	o.must(o.opensAgain())
	fired := proxy.CutAfterQuery("COMMIT")
	o.d.bring(t, 10, o.put(1, "a"), o.put(2, "b"))
	err = o.works()
	if err == nil {
		t.Fatal("the answer was not lost")
	}
	<-fired
	o.d.mu.Lock()
	o.d.life.Work = lifecycle.Working
	o.d.mu.Unlock()
	o.d.settleUp(o.d.giveUp(external.AsError(err)))
	if flush := o.d.shared.Acks.Flush(); flush != 0 || o.d.queue.Bytes() == 0 {
		t.Errorf("acknowledged up to %d, and the answer was lost", flush)
	}
	until(t, "the server, which goes on without the client, to commit", func() bool {
		_, id, _ := o.row()
		return id == 10
	})
	o.must(o.d.connect(t.Context()))
	o.must(o.works())
	o.holds(10, "1 a", "2 b")
	var applied int
	o.must(o.external.QueryRow(t.Context(), `SELECT count(*) FROM applied`).Scan(&applied))
	if applied != 2 {
		t.Errorf("%d rows were applied", applied)
	}
	o.must(o.d.askFlush(t.Context())) // commits of an earlier session may lag
	until(t, "the commits to be flushed", func() bool {
		o.must(o.d.askFlush(t.Context()))
		return o.d.queue.Applied() == 0
	})
	if flush := o.d.shared.Acks.Flush(); flush != 11 {
		t.Errorf("acknowledged up to %d", flush)
	}
}

// opensAgain gives the session up, and opens another.
func (o *openTest) opensAgain() error {
	o.d.mu.Lock()
	s := o.d.session
	o.d.session = nil
	o.d.mu.Unlock()
	s.close()
	return o.d.connect(o.t.Context())
}

// A new database is copied by the worker's steps, with live changes in between, and is current then.
func TestCopyANewDatabase(t *testing.T) {
	t.Parallel()
	o := newOpenTest(t)
	source := o.connect(o.source)
	o.on(source, `INSERT INTO item SELECT CASE WHEN n % 2 = 0 THEN 't' ELSE 'u' END, n, 'copied' FROM generate_series(1, 20) AS n`)
	o.must(o.d.connect(t.Context()))
	t.Cleanup(o.end)
	o.on(o.external, `INSERT INTO items VALUES (99, 'of another life')`)
	until(t, "the copy to end", func() bool {
		o.must(o.works())
		return o.d.session.backfill == nil
	})
	s := o.d.Status()
	if s.Copied != 10 || s.Copying || s.State != ledger.Paused || !o.d.life.Current || o.d.slot.Take() == false {
		t.Errorf("the status is %+v", s)
	}
	o.d.slot.Leave()
	var rows, others int
	o.must(o.external.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE id % 2 = 1) FROM items`).Scan(&rows, &others))
	if rows != 10 || others != 0 {
		t.Errorf("there are %d rows, %d of others", rows, others)
	}
	if _, _, copying := o.row(); copying {
		t.Error("the metadata says that the copy goes on")
	}
}
