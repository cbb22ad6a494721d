package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// items makes a table of the primary and a destination that mirrors it in a table that the test makes.
func (w *world) items(table string, columns ...string) (dsn string) {
	w.tb.Helper()
	w.table("item", 1, columns...)
	dsn = w.destination(tenant1, "main", "item")
	exec(w.tb, connect(w.tb, dsn), table)
	return dsn
}

// With on_error: quarantine a refused row is set aside wherever it stands: first on a connection, in a transaction of many rounds
// that was let go of in part, with a new key, and where only COMMIT finds it.
func TestRefusedRowsAreSetAside(t *testing.T) {
	t.Parallel()
	for name, constraint := range map[string]string{
		"at once": `ALTER TABLE item_copy ADD CHECK (note <> 'bad')`,
		"at COMMIT": `CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN IF NEW.note = 'bad' THEN RAISE check_violation USING MESSAGE = 'bad is bad'; END IF; RETURN NULL; END $$;
			CREATE CONSTRAINT TRIGGER guard AFTER INSERT OR UPDATE ON item_copy DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.cfg.Sink.OnError, w.cfg.Sink.BatchRows, w.cfg.Sink.IdleClose = "quarantine", 500, 0 // each transaction is the first one of a connection
			w.cfg.Sink.QueueBytes = 64 << 10
			w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
			dsn := w.items(`CREATE TABLE item_copy (id int PRIMARY KEY, note text); `+constraint, "id int", "note text")
			r := w.start()
			r.caughtUp()
			var aside []string
			check := func(id int, operation string) {
				t.Helper()
				w.synced()
				aside = append(aside, fmt.Sprintf(`"%s"|"%d"|"bad"|"23514"`, operation, id))
				same(t, dsn, `SELECT operation, "row"->>'id', "row"->>'note', sqlstate FROM _stack_sync_quarantine ORDER BY id`, aside...)
				want := query(t, w.source, `SELECT id, note FROM item WHERE note <> 'bad' ORDER BY id`)
				same(t, dsn, `SELECT id, note FROM item_copy ORDER BY id`, want...)
			}
			w.exec(`INSERT INTO item VALUES ($1, 1, 'bad')`, tenant1)
			check(1, "insert")
			w.exec(`INSERT INTO item SELECT $1, n, CASE n WHEN 1999 THEN 'bad' ELSE repeat('x', 100) END FROM generate_series(11, 6000) n`, tenant1)
			check(1999, "insert")
			w.exec(`UPDATE item SET id = -id, note = 'bad' WHERE id = 12`)
			check(-12, "update")
			if s := r.destination("main").Status(); s.State != ledger.Streaming || s.Err != nil {
				t.Errorf("it is %s with %v", s.State, s.Err)
			}
		})
	}
}

// Without a quarantine, a deferred constraint that fails at COMMIT halts the destination with the name of the row, also in a
// transaction of many rounds.
func TestDeferredConstraintsNameTheRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.BatchRows = 100
	w.exec(`CREATE TABLE item (tenant uuid, id int, ref int, PRIMARY KEY (tenant, id))`)
	dsn := w.items(`CREATE TABLE known (id int PRIMARY KEY); INSERT INTO known VALUES (1), (2);
		CREATE TABLE item_copy (id int PRIMARY KEY, ref int REFERENCES known DEFERRABLE INITIALLY DEFERRED)`, "id int", "ref int")
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO item SELECT $1, n, CASE n WHEN 777 THEN 3 ELSE 1 END FROM generate_series(1, 1000) n`, tenant1)
	contains(t, becomes(t, r.destination("main"), ledger.Halted), "row of item with", "id=777", "item_copy_ref_fkey")
	same(t, dsn, `SELECT count(*) FROM item_copy`, `"0"`)
	exec(t, connect(t, dsn), `INSERT INTO known VALUES (3)`)
	w.synced()
	w.mirrored(tenant1, dsn, "item", "id, ref")
}

// Rows whose constraints hold at the end of their transaction only are applied, when its folding fails for another reason.
func TestConstraintsThatHoldAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.OnError = "quarantine"
	w.exec(`CREATE TABLE item (tenant uuid, id int, ref int, note text, PRIMARY KEY (tenant, id))`)
	dsn := w.items(`CREATE TABLE item_copy (id int PRIMARY KEY, ref int REFERENCES item_copy DEFERRABLE INITIALLY DEFERRED, note text UNIQUE CHECK (note <> 'bad'))`,
		"id int", "ref int", "note text")
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO item VALUES ($1, 1, 2, 'a'), ($1, 2, 3, 'b'), ($1, 3, 1, 'c'), ($1, 4, 1, 'bad')`, tenant1)
	w.exec(`BEGIN; UPDATE item SET note = 'tmp' WHERE id = 1; UPDATE item SET note = 'a' WHERE id = 2; UPDATE item SET note = 'b' WHERE id = 1; COMMIT`)
	w.synced()
	same(t, dsn, `SELECT id, ref, note FROM item_copy ORDER BY id`, `"1"|"2"|"b"`, `"2"|"3"|"a"`, `"3"|"1"|"c"`)
	same(t, dsn, `SELECT "row"->>'id' FROM _stack_sync_quarantine`, `"4"`)
}

// A key that is equal to the external database's type and another text to the source's: the delete of the old key must not take the
// new row, though the mapping's file has the upsert first.
func TestKeysThatDifferInTheirTextOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE word (tenant uuid, id citext, amount numeric, note text, PRIMARY KEY (tenant, id, amount))`)
	w.addMapping("word", `name: word
target: word_copy
schema: CREATE TABLE IF NOT EXISTS word_copy (id citext, amount numeric, note text, PRIMARY KEY (id, amount))
steps:
  - {from: word, when: upsert, sql: "INSERT INTO word_copy (id, amount, note) SELECT r.id, r.amount, r.note FROM word r ON CONFLICT (id, amount) DO UPDATE SET id = excluded.id, amount = excluded.amount, note = excluded.note"}
  - {from: word, when: delete, sql: "DELETE FROM word_copy t USING word r WHERE t.id = r.id AND t.amount = r.amount"}
keys: {word: "SELECT id, amount FROM word_copy"}
`)
	w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: "word", Tenant: "tenant"})
	dsn := w.destination(tenant1, "main", "word")
	exec(t, connect(t, dsn), `CREATE EXTENSION IF NOT EXISTS citext`)
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO word VALUES ($1, 'Foo', 1.0, 'x'), ($1, 'Bar', 2, 'y')`, tenant1)
	w.synced()
	w.exec(`UPDATE word SET id = 'foo' WHERE id = 'Foo'`)
	w.exec(`UPDATE word SET amount = 2.00 WHERE id = 'Bar'`)
	w.exec(`BEGIN; DELETE FROM word WHERE id = 'foo'; INSERT INTO word VALUES ('` + tenant1 + `', 'FOO', 1.000, 'z'); COMMIT`)
	w.synced()
	same(t, dsn, `SELECT id, amount, note FROM word_copy ORDER BY 1`, `"Bar"|"2.00"|"y"`, `"FOO"|"1.000"|"z"`)
}

// A row security policy at the target would hide rows from a DELETE: the server refuses, and the destination says what to do.
func TestRowSecurityAtTheTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	role, other := w.role("owner", ""), w.role("other", "")
	owned, others := pgtest.Database(t, w.cluster), pgtest.Database(t, w.cluster)
	for dsn, owner := range map[string]string{owned: role, others: other} {
		exec(t, connect(t, dsn), fmt.Sprintf(`GRANT ALL ON SCHEMA public TO %[1]s; CREATE TABLE item_copy (id int PRIMARY KEY, note text);
			ALTER TABLE item_copy OWNER TO %[2]s; GRANT ALL ON item_copy TO %[1]s`, role, owner))
	}
	w.addDestination(tenant1, "owned", withUser(t, owned, role), "item")
	w.addDestination(tenant1, "others", withUser(t, others, role), "item")
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO item SELECT $1, n, 'x' FROM generate_series(1, 10) n`, tenant1)
	w.synced()
	exec(t, connect(t, owned), `ALTER TABLE item_copy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY few ON item_copy USING (id > 5)`)
	exec(t, connect(t, others), `ALTER TABLE item_copy ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON item_copy USING (id > 5)`)
	w.exec(`DELETE FROM item WHERE id IN (1, 9)`)
	for _, name := range []string{"owned", "others"} {
		contains(t, becomes(t, r.destination(name), ledger.Halted), "row-level security policy", "NO FORCE ROW LEVEL SECURITY", "BYPASSRLS")
	}
	exec(t, connect(t, owned), `ALTER TABLE item_copy NO FORCE ROW LEVEL SECURITY`)
	exec(t, connect(t, others), `ALTER ROLE `+role+` BYPASSRLS`)
	w.synced()
	for _, dsn := range []string{owned, others} {
		w.mirrored(tenant1, dsn, "item", "id, note")
		exec(t, connect(t, dsn), `DROP OWNED BY `+role+`, `+other)
	}
}

// One row that is refused in a large copy does not make the rest slow.
func TestQuarantineInALargeCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.OnError = "quarantine"
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, CASE WHEN n % 5000 = 1 THEN 'bad' END FROM generate_series(1, 20000) n`, tenant1)
	dsn := w.items(`CREATE TABLE item_copy (id int PRIMARY KEY, note text CHECK (note <> 'bad'))`, "id int", "note text")
	begun := time.Now()
	r := w.start()
	r.caughtUp()
	same(t, dsn, `SELECT count(*) FROM item_copy`, `"19996"`)
	same(t, dsn, `SELECT "row"->>'id' FROM _stack_sync_quarantine ORDER BY id`, `"1"`, `"5001"`, `"10001"`, `"15001"`)
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("the copy took %s", took)
	}
}

// encoded makes a database with another encoding than UTF8.
func (w *world) encoded(encoding string) (dsn string) {
	w.tb.Helper()
	dsn = pgtest.Database(w.tb, w.cluster)
	name := strings.Trim(query(w.tb, dsn, `SELECT current_database()`)[0], `"`)
	w.exec(`DROP DATABASE ` + name)
	w.exec(`CREATE DATABASE ` + name + ` TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING ` + encoding)
	return dsn
}

// What no form of the target can hold is set aside in a form that the target can.
func TestRowsThatTheTargetsEncodingLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.OnError = "quarantine"
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, doc json, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text", "doc jsonb")
	add := func(from int) {
		w.exec(`INSERT INTO item VALUES ($1, $2, 'plain', '{}'), ($1, $2 + 1, '日本\n', '{}'), ($1, $2 + 2, 'naïve', '{"é": 1}'), ($1, $2 + 3, '', '{"a": "\u0000 日"}')`, tenant1, from)
	}
	add(1)
	dsns := map[string]string{}
	for _, encoding := range []string{"UTF8", "LATIN1", "SQL_ASCII"} {
		dsns[encoding] = w.encoded(encoding)
		w.addDestination(tenant1, encoding, dsns[encoding], "item")
	}
	r := w.start()
	r.caughtUp()
	add(11)
	w.synced()
	const held, aside = `SELECT id, note FROM item_copy WHERE id > 10 ORDER BY id`,
		`SELECT "row"->>'id', "row"->>'note', "row"->>'doc', "row"->'_escaped' FROM _stack_sync_quarantine WHERE ("row"->>'id')::int % 10 = $1 ORDER BY id`
	same(t, dsns["UTF8"], held, `"11"|"plain"`, `"12"|"日本\\n"`, `"13"|"naïve"`)
	same(t, dsns["SQL_ASCII"], held, `"11"|"plain"`, `"12"|"日本\\n"`, `"13"|"naïve"`)
	same(t, dsns["LATIN1"], `SELECT id, ascii(right(note, 3)) FROM item_copy WHERE id > 10 ORDER BY id`, `"11"|"97"`, `"13"|"239"`)
	rows := func(encoding string, digit int) []string { return query(t, dsns[encoding], aside, digit) }
	for _, check := range []struct {
		encoding string
		digit    int
		rest     string
	}{
		{"UTF8", 4, `|""|"{\"a\": \"\\u0000 日\"}"|NULL`},
		{"LATIN1", 2, `|"\\u65e5\\u672c\\\\n"|"{}"|"[\"note\"]"`},
		{"LATIN1", 4, `|""|"{\\\"a\\\": \\\"\\\\u0000 \\u65e5\\\"}"|"[\"doc\"]"`},
		{"SQL_ASCII", 4, `|""|"{\\\"a\\\": \\\"\\\\u0000 \\u65e5\\\"}"|"[\"doc\"]"`},
	} {
		want := []string{fmt.Sprintf(`"%d"`, check.digit) + check.rest, fmt.Sprintf(`"%d"`, check.digit+10) + check.rest}
		if diff := cmp.Diff(want, rows(check.encoding, check.digit)); diff != "" {
			t.Errorf("%s (-expected +found):\n%s", check.encoding, diff)
		}
	}
	same(t, w.source, `SELECT E'\u65e5\u672c\\n' = '日本\n'`, `"t"`) // which is how it is read back
	r.caughtUp()
}
