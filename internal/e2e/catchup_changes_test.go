package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

func userID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// holdBackfill makes the backfill of a table stand still in its middle, by a lock on a row of the external database that
// it must write, and returns what lets it go on. The row must exist there.
func holdBackfill(t *testing.T, dsn, sql string) (release func()) {
	t.Helper()
	db := connect(t, dsn)
	exec(t, db, `BEGIN`)
	exec(t, db, sql)
	return func() {
		t.Helper()
		exec(t, db, `ROLLBACK`)
	}
}

// waitsForLock waits until Outflow waits for a lock in that database.
func waitsForLock(t *testing.T, dsn string) {
	t.Helper()
	waitFor(t, "outflow to wait for the lock", func() error {
		if n := query(t, dsn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'outflow' AND wait_event_type = 'Lock'`)[0]; n == `"0"` {
			return fmt.Errorf("it does not")
		}
		return nil
	})
}

// In the middle of a backfill of two tenants, the table is truncated, rows move from one to the other, and keys change.
func TestChangesInTheMiddleOfABackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(1200, tenant1, tenant2)
	dsn1, dsn2 := w.destination(tenant1, "one"), w.destination(tenant2, "two")
	r := w.start()
	r.caughtUp()
	hold := func(dsn string) func() {
		db := connect(t, dsn)
		exec(t, db, `UPDATE users SET display_name = 'to be written again'`)
		return holdBackfill(t, dsn, `SELECT FROM users WHERE id = '`+userID(1101)+`' FOR UPDATE`)
	}
	resync := func() (release func()) {
		t.Helper()
		one, two := hold(dsn1), hold(dsn2)
		for _, d := range r.Router.Destinations() {
			must(t, d.Resync(t.Context(), "the test asked for it"))
		}
		waitsForLock(t, dsn1)
		waitsForLock(t, dsn2)
		return func() { one(); two() }
	}

	release := resync()
	// Behind the place where the backfill is, and before it.
	w.exec(`DELETE FROM "ProjectUser" WHERE "tenancyId" = $1 AND "projectUserId"::text LIKE '%00'`, tenant2)
	w.exec(`UPDATE "ProjectUser" SET "tenancyId" = $1 WHERE "tenancyId" = $2 AND "projectUserId"::text LIKE '%00'`, tenant2, tenant1)
	w.exec(`UPDATE "ProjectUser" SET "projectUserId" = (replace("projectUserId"::text, '-4000-', '-4001-'))::uuid
		WHERE "tenancyId" = $1 AND "projectUserId"::text LIKE '%50'`, tenant2)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'changed' WHERE "projectUserId"::text LIKE '%07'`)
	release()
	w.synced()
	r.caughtUp()
	w.equal(tenant1, dsn1)
	w.equal(tenant2, dsn2)
	same(t, dsn1, `SELECT id FROM users WHERE id::text LIKE '%00'`)
	same(t, dsn2, `SELECT count(*) FROM users WHERE id::text LIKE '%-4000-%00'`, `"12"`)

	release = resync()
	w.exec(`TRUNCATE "ProjectUser" CASCADE`)
	w.user(tenant1, userID(1), "after the truncate")
	w.user(tenant1, userID(1100), "after the truncate")
	release()
	w.synced()
	r.caughtUp()
	w.equal(tenant1, dsn1)
	w.equal(tenant2, dsn2)
	same(t, dsn1, `SELECT count(*) FROM users`, `"2"`)
	same(t, dsn2, `SELECT count(*) FROM users`, `"0"`)
}

// A value of 10 MB stays in TOAST while another column is updated: before, during and after a backfill.
func TestLargeValueInTOAST(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.existing(20, tenant1)
	w.exec(`ALTER TABLE "ProjectUser" ALTER "serverMetadata" SET STORAGE EXTERNAL`)
	w.exec(`UPDATE "ProjectUser" SET "serverMetadata" = jsonb_build_object('large', repeat(md5("projectUserId"::text), 10 << 15))
		WHERE "projectUserId" = $1`, userID(7))
	r := w.start()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'during'`)
	r.caughtUp()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after'`)
	w.exec(`UPDATE "ProjectUser" SET "isAnonymous" = true WHERE "projectUserId" = $1`, userID(7))
	w.synced()
	want := query(t, w.source, `SELECT "displayName", length("serverMetadata"::text), md5("serverMetadata"::text) FROM "ProjectUser" WHERE "projectUserId" = $1`, userID(7))
	same(t, dsn, `SELECT display_name, length(server_metadata::text), md5(server_metadata::text) FROM users WHERE id = '`+userID(7)+`'`, want...)
	contains(t, want[0], `"after"|"1048577`) // longer than 10 MB
	w.equal(tenant1, dsn)
}

// A column that is renamed halts the mappings that name it, with the place and the remedy; all others go on.
func TestColumnRenamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id)); CREATE TABLE other (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	w.table("other", 1, "id int", "note text")
	w.cfg.Sink.ParkAfter = 3 * time.Second // what is queued in the shape that fits no mapping goes then, and the rows are copied again
	names := w.destination(tenant1, "names it", "item")
	other := w.destination(tenant1, "other mapping", "other")
	neighbour := w.destination(tenant2, "other tenant", "other")
	w.exec(`INSERT INTO item SELECT $1, n, 'x' FROM generate_series(1, 50) n`, tenant1)
	r := w.start()
	r.caughtUp()
	w.exec(`ALTER TABLE item RENAME note TO remark`)
	w.exec(`UPDATE item SET remark = 'renamed'`)
	text := becomes(t, r.destination("names it"), ledger.Halted)
	contains(t, text, w.cfg.Mappings[0]+":", "note", "remedy: ")
	w.exec(`INSERT INTO other SELECT t::uuid, n, 'flows' FROM unnest($1::text[]) t, generate_series(1, 50) n`, []string{tenant1, tenant2})
	for tenant, dsn := range map[string]string{tenant1: other, tenant2: neighbour} {
		waitFor(t, "the others to go on", func() error {
			if n := query(t, dsn, `SELECT count(*) FROM other_copy`)[0]; n != `"50"` {
				return fmt.Errorf("%s has %s rows", tenant, n)
			}
			return nil
		})
	}
	same(t, names, `SELECT DISTINCT note FROM item_copy`, `"x"`)
	// Named back, it goes on, and nothing is lost.
	w.exec(`ALTER TABLE item RENAME remark TO note`)
	w.exec(`UPDATE item SET note = 'named back' WHERE id % 2 = 0`)
	r.caughtUp()
	w.synced()
	w.mirrored(tenant1, names, "item", "id, note")
}

// A row that the external database refuses stops the backfill with its name; what was deleted meanwhile is gone at the end.
func TestPoisonRowInABackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(700, tenant1, tenant2)
	dsn, other := w.destination(tenant1, "main"), w.destination(tenant2, "other")
	set, err := defaults()
	must(t, err)
	createTables(t, dsn, set["contact_channels"], set["users"])
	db := connect(t, dsn)
	exec(t, db, `ALTER TABLE users ADD CONSTRAINT no444 CHECK (display_name <> 'user 444')`)
	r := w.start()
	text := becomes(t, r.destination("main"), ledger.Halted)
	contains(t, text, "no444", "row of ProjectUser with ", "projectUserId="+userID(444), "mapping users")
	becomes(t, r.destination("other"), ledger.Streaming)
	w.equal(tenant2, other)
	copied := query(t, dsn, `SELECT count(*) FROM users`)[0]
	if copied == `"0"` || copied == `"699"` {
		t.Logf("%s rows were copied before the one that is refused", copied)
	}
	// Rows before and behind it, deleted or changed while it is halted.
	w.exec(`DELETE FROM "ProjectUser" WHERE "tenancyId" = $1 AND "projectUserId"::text LIKE '%9'`, tenant1)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'changed' WHERE "tenancyId" = $1 AND "projectUserId"::text LIKE '%8'`, tenant1)
	exec(t, db, `ALTER TABLE users DROP CONSTRAINT no444`)
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
	same(t, dsn, `SELECT count(*) FROM users WHERE id::text LIKE '%9'`, `"0"`)
}

// Destinations and mappings come and go while others stream. What the stream brought while one was not configured is a gap.
func TestDestinationsComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(300, tenant1, tenant2)
	stays := w.destination(tenant2, "stays")
	goes := w.destination(tenant1, "goes", "contact_channels")
	r := w.start()
	r.caughtUp()
	w.synced()
	same(t, goes, `SELECT to_regclass('users')`, "NULL")

	// A mapping is added.
	r.end()
	both := w.cfg.Destinations.Static
	both[1].Mappings = []string{"contact_channels", "users"}
	r = w.start()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'a mapping came' WHERE "projectUserId"::text LIKE '%1'`)
	r.caughtUp()
	w.synced()
	w.equal(tenant1, goes)
	w.equal(tenant2, stays)

	change := func(what string) {
		w.exec(`UPDATE "ProjectUser" SET "displayName" = $1 WHERE "projectUserId"::text LIKE '%5'`, what)
		w.exec(`DELETE FROM "ProjectUser" WHERE ctid IN (SELECT ctid FROM "ProjectUser" WHERE "tenancyId" = $1 LIMIT 3)`, tenant1)
	}
	for _, again := range []struct {
		name   string
		change func(d *config.Static)
	}{
		{"the same", func(*config.Static) {}},
		{"another name", func(d *config.Static) { d.Name = "renamed" }},
		{"its old name", func(d *config.Static) { d.Name = "goes" }},
	} {
		r.end()
		w.cfg.Destinations.Static = both[:1:1]
		r = w.start()
		change(again.name + ", while it was away")
		w.synced()
		r.end()
		d := both[1]
		again.change(&d)
		both[1] = d
		w.cfg.Destinations.Static = []config.Static{both[0], d}
		r = w.start()
		r.caughtUp() // without a single change for it
		if diff := w.diff(tenant1, goes); diff != "" {
			t.Fatalf("%s: %s", again.name, diff)
		}
		change(again.name + ", when it was back")
		w.synced()
		r.caughtUp()
		w.equal(tenant1, goes)
		w.equal(tenant2, stays)
	}

	// A mapping goes, and comes again later.
	r.end()
	w.cfg.Destinations.Static[1].Mappings = []string{"contact_channels"}
	r = w.start()
	change("without users")
	w.synced()
	r.end()
	w.cfg.Destinations.Static[1].Mappings = nil
	r = w.start()
	r.caughtUp()
	w.synced()
	w.equal(tenant1, goes)
	if s := strings.Join(query(t, w.source, `SELECT name, state FROM outflow.destination_state WHERE slot = $1 ORDER BY 1`, w.cfg.Source.Slot), " "); s != `"goes"|"streaming" "renamed"|"parked" "stays"|"streaming"` {
		w.waitState(tenant1, "goes", "streaming")
		w.waitState(tenant1, "renamed", "parked")
	}
}

// A mapping is edited so that it names one more column, while changes wait that were made before the publication had it. They
// have no value of it; it comes from the primary, and nobody halts.
func TestColumnPublishedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, extra text DEFAULT 'extra', PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	dsn := w.destination(tenant1, "main", "item")
	w.exec(`INSERT INTO item SELECT $1, n, 'x' FROM generate_series(1, 50) n`, tenant1)
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	w.exec(`UPDATE item SET note = 'while away' WHERE id > 10`)
	w.exec(`UPDATE item SET id = id + 1000 WHERE id > 40`)
	w.exec(`DELETE FROM item WHERE id = 40`)
	w.exec(`INSERT INTO item VALUES ($1, 60, 'new', NULL)`, tenant1)
	must(t, os.WriteFile(w.cfg.Mappings[0], []byte(strings.Replace(mirror("item", 1, "id int", "note text", "extra text"),
		"PRIMARY KEY (id))", "PRIMARY KEY (id)); ALTER TABLE item_copy ADD COLUMN IF NOT EXISTS extra text", 1)), 0o600))
	r = w.start()
	w.synced()
	r.caughtUp()
	w.mirrored(tenant1, dsn, "item", "id, note, extra")
	for _, e := range r.destination("main").History() {
		if e.State != ledger.Backfilling && e.State != ledger.Streaming {
			t.Errorf("it was %s: %s", e.State, e.Reason)
		}
	}
	w.exec(`UPDATE item SET extra = 'now streamed' WHERE id < 10`)
	w.synced()
	w.mirrored(tenant1, dsn, "item", "id, note, extra")
}
