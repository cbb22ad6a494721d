package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/destination"
	"outflow/sink/ledger"
)

// The primary refuses the note of one destination: the destination halts with the cause, the slot goes on for the others, and nothing is
// lost when the cause is gone, whether the process was started again meanwhile or not.
func TestANoteThatThePrimaryRefuses(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]string{
		"positions":  `NEW.mappings <> ''`,
		"any reason": `NEW.reason <> '' AND NEW.reason IS DISTINCT FROM OLD.reason OR NEW.mappings IS DISTINCT FROM OLD.mappings`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t))
			w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
			w.table("item", 1, "id int", "note text")
			good, bad := w.destination(tenant1, "good", "item"), w.destination(tenant2, "bad", "item")
			more := w.destination(tenant3, "more", "item")
			r := w.start()
			r.caughtUp()
			epoch := func() string {
				return fmt.Sprint(query(t, w.source, `SELECT epoch FROM outflow.destination_state WHERE name = 'bad'`))
			}
			before := epoch()
			w.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					IF NEW.name = 'bad' AND (` + refused + `) THEN RAISE data_exception USING MESSAGE = 'no such note'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON outflow.destination_state FOR EACH ROW EXECUTE FUNCTION refuse()`)
			insert := func(id int) {
				for _, tenant := range []string{tenant1, tenant2, tenant3} {
					w.exec(`INSERT INTO item VALUES ($1, $2, 'x')`, tenant, id)
				}
			}
			insert(1)
			contains(t, becomes(t, r.destination("bad"), ledger.Halted), "the primary refuses the note", "no such note", "22000", "remedy: ")
			w.synced()
			insert(2)
			w.synced()
			if s := r.destination("bad").Status(); s.State != ledger.Halted || !s.Detached {
				t.Errorf("it is %+v", s)
			}
			if epoch() == before {
				t.Error("the slot has passed the destination, and the epoch is as before")
			}
			r.end()
			exec(t, connect(t, bad), `DELETE FROM item_copy; UPDATE _stack_sync_metadata SET last_synced_sequence_id = last_synced_sequence_id - 1`) // restored
			r = w.start()
			contains(t, becomes(t, r.destination("bad"), ledger.Halted), "the primary refuses the note")
			insert(3)
			w.synced()
			for tenant, dsn := range map[string]string{tenant1: good, tenant3: more} {
				w.mirrored(tenant, dsn, "item", "id, note")
			}
			w.exec(`DROP TRIGGER refuse ON outflow.destination_state`)
			becomes(t, r.destination("bad"), ledger.Streaming)
			insert(4)
			w.synced()
			w.mirrored(tenant2, bad, "item", "id, note")
		})
	}
}

// A primary of LATIN1 lacks characters of names, of reasons, and of errors.
func TestTextsThatThePrimaryLacks(t *testing.T) {
	t.Parallel()
	w := encodedWorld(t, "LATIN1")
	w.cfg.Sink.ParkAfter = time.Second
	good := w.destination("t1", "good", "items")
	w.destination("t2", "smile 😀", "items")
	hostile := w.destination("t3", "hostile", "items")
	exec(t, connect(t, hostile), `CREATE TABLE items_copy (id int PRIMARY KEY, v text, doc text);
		CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no 日本 😀 %', repeat('é', 4000); END $$;
		CREATE TRIGGER no BEFORE INSERT ON items_copy FOR EACH ROW EXECUTE FUNCTION no()`)
	for range 2 {
		r := w.start()
		w.exec(`INSERT INTO items SELECT t, 1 + coalesce((SELECT max(id) FROM items), 0), 'x' FROM unnest('{t1,t2,t3}'::text[]) t`)
		contains(t, becomes(t, r.destination("smile 😀"), ledger.Halted), "the primary refuses the note", "22P05")
		becomes(t, r.destination("hostile"), ledger.Halted)
		w.synced()
		must(t, r.Ledger.SetSwitch(t.Context(), ledger.Switch{Kind: ledger.SwitchDestination, Tenant: "t1", Name: "good", Off: true,
			By: "😀\x00\xff", Reason: "café 日本\x00" + strings.Repeat("é", 5000)}))
		contains(t, reasonOf(t, r.destination("good"), ledger.Paused), `by \ud83d\ude00 ?: café \u65e5\u672c`)
		w.toggle(ledger.Switch{Kind: ledger.SwitchDestination, Tenant: "t1", Name: "good"})
		becomes(t, r.destination("good"), ledger.Streaming)
		w.synced()
		r.end()
	}
	same(t, good, `SELECT count(*) FROM items_copy`, `"2"`)
}

// reasonOf waits for a state, and returns the reason of the state.
func reasonOf(t *testing.T, d *destination.Destination, state ledger.State) (reason string) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%s to be %s", d, state), func() error {
		s := d.Status()
		if reason = s.Reason; s.State != state {
			return errors.New(string(s.State))
		}
		return nil
	})
	return reason
}

// The key of a refused row is a text of the tenant's: cut in the middle of a character the key must not reach the notes of all.
func TestAKeyThatIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id text, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id text", "note text")
	good, bad := w.destination(tenant1, "good", "item"), w.destination(tenant2, "bad", "item")
	exec(t, connect(t, bad), `CREATE TABLE item_copy (id text PRIMARY KEY, note text CHECK (note <> 'x'))`)
	w.cfg.Sink.ParkAfter = time.Hour
	r := w.start()
	r.caughtUp()
	w.exec(`INSERT INTO item VALUES ($1, 'k', 'x')`, tenant1)
	w.exec(`INSERT INTO item VALUES ($1, $2, 'x')`, tenant2, strings.Repeat("k", 63)+"é")
	contains(t, becomes(t, r.destination("bad"), ledger.Halted), "id="+strings.Repeat("k", 61)+"...")
	waitFor(t, "the halt to be noted", func() error {
		if got := w.state(tenant2, "bad"); got != "halted" {
			return errors.New(got)
		}
		return nil
	})
	w.mirrored(tenant1, good, "item", "id, note")
}

// A row of destinations.query whose name cannot be used is refused by its name, and all others go on, also after a restart.
func TestNamesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.exec(`CREATE TABLE item (tenant text, id int, note text, PRIMARY KEY (tenant, id)); CREATE TABLE wanted (tenant_id text, name text, dsn text, mappings text[])`)
	w.tables("item")
	w.mapping("item", mirror("item", 1, "id int", "note text"))
	w.cfg.Destinations.Query = `SELECT * FROM wanted`
	good := pgtest.Database(t, w.cluster)
	var random string // does not compress
	must(t, w.db.QueryRow(t.Context(), `SELECT string_agg(md5(n::text), '') FROM generate_series(1, 83) n`).Scan(&random))
	for _, row := range [][2]string{{"t1", random[:2648]}, {"t1", "a\x1b[2Jb"}, {"t1", "a\u202eb"}, {random[:2000], "main"}, {"t2\n", "main"}, {"", "main"}, {"t3", ""}} {
		w.exec(`INSERT INTO wanted VALUES ($1, $2, 'postgres://u@127.0.0.1:1/none?sslmode=disable', '{item}')`, row[0], row[1])
	}
	w.exec(`INSERT INTO wanted VALUES ('t1', 'good', $1, '{item}')`, good)
	for n := range 2 {
		r := w.start()
		w.exec(`INSERT INTO item VALUES ('t1', $1, 'x')`, 10+n)
		w.synced()
		if got := len(r.Router.Destinations()); got != 1 {
			t.Errorf("there are %d destinations", got)
		}
		if err := r.DestinationsFault(); err == nil || !strings.HasPrefix(err.Error(), "destinations.query returns a row that is left out") || len(err.Error()) > 512 {
			t.Errorf("the refused rows are told of by %v", err)
		}
		r.end()
	}
	same(t, good, `SELECT id FROM item_copy ORDER BY 1`, `"10"`, `"11"`)
	same(t, w.source, `SELECT name FROM outflow.destination_state`, `"good"`)
}
