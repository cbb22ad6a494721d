package e2e

import (
	"fmt"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// encodedWorld is a world whose primary database has that encoding, with a table of two tenants.
func encodedWorld(t *testing.T, encoding string) *world {
	t.Helper()
	w := newWorld(t, pgtest.Shared(t))
	name := "encoded_" + w.cfg.Source.Slot
	w.exec(fmt.Sprintf(`CREATE DATABASE %s ENCODING '%s' LOCALE 'C' TEMPLATE template0`, name, encoding))
	t.Cleanup(func() { _ = w.cluster.DropDatabase(t.Context(), name) })
	w.source = strings.Replace(w.source, pathOf(t, w.source), "/"+name, 1)
	w.db = connect(t, w.source)
	w.cfg.Source.DSN = secret.New(w.source)
	t.Cleanup(func() { w.dropSlot() })
	w.exec(`CREATE TABLE items (tenant text, id int, v text, doc text, PRIMARY KEY (tenant, id)); ALTER TABLE items ALTER doc SET STORAGE EXTERNAL`)
	w.tables("items")
	w.mapping("items", mirror("items", 1, "id int", "v text", "doc text"))
	return w
}

// A byte that is no UTF-8 in a primary of SQL_ASCII is the fault of one row: in the stream, in a copy and in a look-up.
func TestBytesThatAreNoUTF8(t *testing.T) {
	t.Parallel()
	w := encodedWorld(t, "SQL_ASCII")
	one, two := w.destination("t1", "one", "items"), w.destination("t2", "two", "items")
	w.exec(`INSERT INTO items VALUES ('t1', 1, 'fine ä'), ('t2', 1, 'fine')`)
	r := w.start()
	r.caughtUp()
	w.checked(pipeline.Selection{}).says(t, "primary", primary.Warning, "encoding", "SQL_ASCII", "ENCODING 'UTF8'")
	w.exec(`INSERT INTO items VALUES ('t1', 2, 'bad ' || chr(233)), ('t2', 2, 'good'); INSERT INTO items VALUES ('t2', 3, 'more')`)
	contains(t, becomes(t, r.destination("one"), ledger.Halted), "row of items with tenant=t1, id=2", "22021")
	waitFor(t, "the other tenant's rows", func() error {
		if got := query(t, two, `SELECT id, v FROM items_copy ORDER BY 1`); len(got) != 3 {
			return fmt.Errorf("found %v", got)
		}
		return nil
	})
	same(t, one, `SELECT id, v FROM items_copy`, `"1"|"fine ä"`)
}

// With on_error: quarantine the row is set aside, and the rest goes on.
func TestBytesThatAreNoUTF8InQuarantine(t *testing.T) {
	t.Parallel()
	w := encodedWorld(t, "SQL_ASCII")
	w.cfg.Sink.OnError = "quarantine"
	dsn := w.destination("t1", "one", "items")
	w.exec(`INSERT INTO items SELECT 't1', n, CASE WHEN n = 7 THEN 'bad ' || chr(233) ELSE 'fine' END, repeat('long ', 2000) FROM generate_series(1, 20) n`)
	r := w.start()
	r.caughtUp() // the copy
	same(t, dsn, `SELECT count(*) FROM items_copy`, `"19"`)
	same(t, dsn, `SELECT operation, row->>'id', sqlstate FROM _stack_sync_quarantine`, `"upsert"|"7"|"22021"`)
	report, code := w.verify(pipeline.Selection{})
	if code != 2 { // could not compare
		t.Errorf("verify: exit code %d", code)
	}
	contains(t, report.Destinations[0].Error, "row of items with tenant=t1, id=7", "22021")
	contains(t, report.Destinations[0].Remedy, "correct the row on the primary")
	w.exec(`INSERT INTO items VALUES ('t1', 21, chr(255)), ('t1', 22, 'fine'); UPDATE items SET doc = repeat(chr(200), 5000) WHERE id = 3`)
	w.exec(`UPDATE items SET v = 'changed' WHERE id IN (3, 4)`) // their long values are looked up
	w.synced()
	same(t, dsn, `SELECT row->>'id', sqlstate FROM _stack_sync_quarantine WHERE id > 1 AND row->>'id' <> '3'`, `"21"|"22021"`)
	same(t, dsn, `SELECT id, v FROM items_copy WHERE id IN (4, 21, 22) ORDER BY 1`, `"4"|"changed"`, `"22"|"fine"`)
}

// A character that the primary's own encoding does not have in UTF-8 ends the stream with its cause, and is not a lost connection.
func TestCharactersWithoutUTF8(t *testing.T) {
	t.Parallel()
	w := encodedWorld(t, "WIN1252")
	w.destination("t1", "one", "items")
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO items VALUES ('t1', 1, 'fine ' || chr(228))`)
	w.synced()
	w.exec(`INSERT INTO items VALUES ('t1', 2, chr(129))`)
	err := <-r.done
	r.done <- nil
	contains(t, fmt.Sprint(err), "a character without a counterpart in UTF-8", "22P05", "correct the rows", "--slot-reset")
}
