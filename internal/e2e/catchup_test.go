package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// existing writes users with channels, and counters, before anything of Outflow is there.
func (w *world) existing(users int, tenants ...string) {
	w.tb.Helper()
	for _, tenant := range tenants {
		w.exec(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName", "clientMetadata")
			SELECT $1, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user ' || n, jsonb_build_object('n', n)
			FROM generate_series(1, $2::int) n`, tenant, users)
		w.exec(`INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value)
			SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', true, "projectUserId" || '@example.com'
			FROM "ProjectUser" WHERE "tenancyId" = $1`, tenant)
	}
}

// caughtUp waits until no destination has anything to copy or to apply.
func (r *running) caughtUp() {
	r.tb.Helper()
	waitFor(r.tb, "all destinations to stream", func() error {
		for _, d := range r.Router.Destinations() {
			if s := d.Status(); s.State != ledger.Streaming {
				return errors.Join(fmt.Errorf("%s is %s (%d rows copied)", d, s.State, s.Copied), s.Err)
			}
		}
		return nil
	})
}

// status is what the primary has noted of a destination.
func (w *world) state(tenant, name string) string {
	w.tb.Helper()
	if query(w.tb, w.source, `SELECT to_regclass('outflow.destination_state')`)[0] == "NULL" {
		return ""
	}
	rows := query(w.tb, w.source, `SELECT state FROM outflow.destination_state WHERE slot = $1 AND tenant_id = $2 AND name = $3`,
		w.cfg.Source.Slot, tenant, name)
	if len(rows) == 0 {
		return ""
	}
	return strings.Trim(rows[0], `"`)
}

func (w *world) waitState(tenant, name, state string) {
	w.tb.Helper()
	waitFor(w.tb, fmt.Sprintf("%s/%s to be %s", tenant, name, state), func() error {
		if now := w.state(tenant, name); now != state {
			return fmt.Errorf("it is %q", now)
		}
		return nil
	})
}

func TestExistingRowsAreCopied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(3000, tenant1, tenant2)
	dsn1, dsn2 := w.destination(tenant1, "main"), w.destination(tenant2, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn1)
	w.equal(tenant2, dsn2)
	// What was copied once is not copied, nor written, again.
	before := query(t, dsn1, `SELECT max(xmin::text::bigint) FROM users`)[0]
	r.end()
	r = w.start()
	w.user(tenant1, "00000000-0000-4000-8000-000000999999", "new")
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId" = '00000000-0000-4000-8000-000000999999'`)
	w.synced()
	r.caughtUp()
	if after := query(t, dsn1, `SELECT max(xmin::text::bigint) FROM users`)[0]; after != before {
		t.Errorf("rows were written again: xmin %s, then %s", before, after)
	}
}

// Rows that were there before, a live load, and kill -9 at random moments: the copy goes on where it was.
func TestBackfillUnderLoadAndKills(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	var tenants, dsns []string
	for i := range size(t, "TENANTS", 3) {
		tenants = append(tenants, fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i))
	}
	w.existing(size(t, "ROWS", 8000)/2, tenants...) // and as many channels
	for _, tenant := range tenants {
		dsns = append(dsns, w.destination(tenant, "main"))
	}
	file, n := w.configFile(), seed(t)
	rnd := rand.New(rand.NewPCG(n, 4))
	l := w.load(n, tenants...)
	p := launch(t, "run", "--config", file)
	for range kills(t, 12) {
		p.says(`"streaming"`)
		timer := time.NewTimer(time.Duration(rnd.IntN(400)) * time.Millisecond)
		<-timer.C // a random moment of work, which is the point of this test
		p.kill()
		p = launch(t, "run", "--config", file)
	}
	l.end()
	for i, tenant := range tenants {
		w.waitState(tenant, "main", "streaming")
		w.synced()
		w.equal(tenant, dsns[i])
	}
}

func TestParkedAndBack(t *testing.T) {
	t.Parallel()
	external := pgtest.New(t, pgcluster.Options{})
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.QueueBytes = 64 << 10
	dsn := pgtest.Database(t, external)
	w.addDestination(tenant1, "main", dsn)
	healthy := w.destination(tenant2, "main")
	w.existing(500, tenant1, tenant2)
	r := w.start()
	r.caughtUp()
	w.synced()
	must(t, external.Stop(t.Context()))
	for i := range 20 { // more than the queue holds
		w.exec(`UPDATE "ProjectUser" SET "displayName" = "displayName" || $1`, fmt.Sprint(i))
	}
	w.waitState(tenant1, "main", "parked")
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%7'`)
	w.user(tenant1, "00000000-0000-4000-8000-000000999999", "while away")
	w.synced() // the slot is not held back
	w.equal(tenant2, healthy)
	must(t, external.Resume(t.Context()))
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
	w.equal(tenant2, healthy)
}

// A target that was restored to an older state, emptied, or lost its metadata is noticed and copied again.
func TestTargetWentBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.existing(300, tenant1)
	r := w.start()
	r.caughtUp()
	db := connect(t, dsn)
	exec(t, db, `CREATE TABLE backup AS SELECT * FROM users; CREATE TABLE backup_channels AS SELECT * FROM contact_channels;
		CREATE TABLE backup_metadata AS SELECT * FROM _stack_sync_metadata`)
	for name, damage := range map[string]string{
		"restored": `TRUNCATE users, contact_channels, _stack_sync_metadata; INSERT INTO users SELECT * FROM backup;
			INSERT INTO contact_channels SELECT * FROM backup_channels; INSERT INTO _stack_sync_metadata SELECT * FROM backup_metadata`,
		"metadata dropped": `DROP TABLE _stack_sync_metadata`,
		"emptied":          `DROP TABLE users, contact_channels, _stack_sync_metadata`,
	} {
		w.exec(`UPDATE "ProjectUser" SET "displayName" = $1`, name)
		w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId" = (SELECT min("projectUserId"::text)::uuid FROM "ProjectUser")`)
		w.synced()
		r.end()
		exec(t, db, damage)
		r = w.start()
		w.exec(`UPDATE "ProjectUser" SET "isAnonymous" = NOT "isAnonymous" WHERE "projectUserId"::text LIKE '%5'`)
		w.synced()
		r.caughtUp()
		w.synced()
		if t.Run(name, func(t *testing.T) {
			if diff := w.diff(tenant1, dsn); diff != "" {
				t.Error(diff)
			}
		}) == false {
			return
		}
	}
}

// Another tenant's database behind the same name is refused: rows would mix.
func TestSwappedDatabases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn1, dsn2 := w.destination(tenant1, "main"), w.destination(tenant2, "main")
	w.existing(50, tenant1, tenant2)
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	s := w.cfg.Destinations.Static
	s[0].DSN, s[1].DSN = s[1].DSN, s[0].DSN
	r = w.start()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'swapped'`)
	w.waitState(tenant1, "main", "halted")
	w.waitState(tenant2, "main", "halted")
	for dsn, tenant := range map[string]string{dsn1: tenant1, dsn2: tenant2} {
		if n := query(t, dsn, `SELECT count(*) FROM users WHERE display_name = 'swapped'`)[0]; n != `"0"` {
			t.Errorf("the database of %s got %s rows of the other", tenant, n)
		}
	}
	if err := r.Router.Destinations()[0].Status().Err; err == nil || !strings.Contains(err.Error(), "the rows of two tenants would mix") {
		t.Errorf("the error is %v", err)
	}
}

// A mapping that is edited has its schema run and all its rows written.
func TestMappingEdited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(400, tenant1)
	const before = `
name: people
target: people
schema: CREATE TABLE IF NOT EXISTS people (id uuid PRIMARY KEY, name text);
steps:
  - {from: ProjectUser, when: delete, sql: 'DELETE FROM people t USING "ProjectUser" u WHERE t.id = u."projectUserId"'}
  - from: ProjectUser
    when: upsert
    sql: INSERT INTO people (id, name) SELECT u."projectUserId", u."displayName" FROM "ProjectUser" u ON CONFLICT (id) DO UPDATE SET name = excluded.name
keys: {ProjectUser: 'SELECT id AS "projectUserId" FROM people;'}
`
	w.addMapping("people", before)
	dsn := w.destination(tenant1, "main", "people", "contact_channels", "users")
	r := w.start()
	r.caughtUp()
	r.end()
	after := strings.NewReplacer("name text);", "name text); ALTER TABLE people ADD COLUMN IF NOT EXISTS metadata jsonb;",
		"(id, name) SELECT u.\"projectUserId\", u.\"displayName\"", "(id, name, metadata) SELECT u.\"projectUserId\", u.\"displayName\", u.\"clientMetadata\"",
		"name = excluded.name", "name = excluded.name, metadata = excluded.metadata").Replace(before)
	w.cfg.Mappings = nil
	w.addMapping("people", after)
	r = w.start()
	r.caughtUp()
	if n := query(t, dsn, `SELECT count(*) FROM people WHERE metadata IS NOT NULL`)[0]; n != `"400"` {
		t.Errorf("%s of 400 rows have the new column", n)
	}
	w.equal(tenant1, dsn)
}

func TestResyncCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(300, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	db := connect(t, dsn)
	exec(t, db, `DELETE FROM users WHERE id::text LIKE '%3'; UPDATE users SET display_name = 'changed' WHERE id::text LIKE '%4';
		INSERT INTO users (id, signed_up_at) VALUES ('00000000-0000-4000-8000-00000099999a', now())`)
	p := launch(t, "resync", "--config", w.configFile(), "--tenant", tenant1, "--no-wait")
	p.says("1 destinations are being copied again")
	waitFor(t, "the rows to be mended", func() error {
		if diff := w.diff(tenant1, dsn); diff != "" {
			return fmt.Errorf("%.300s", diff)
		}
		return nil
	})
}

func TestSlotDroppedAndReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(200, tenant1)
	dsn := w.destination(tenant1, "main")
	file := w.configFile()
	p := launch(t, "run", "--config", file)
	w.waitState(tenant1, "main", "streaming")
	before := query(t, dsn, `SELECT max(last_synced_sequence_id) FROM _stack_sync_metadata`)[0]

	// Dropped while streaming: the session is ended, the slot dropped; the process says so and exits 1.
	w.exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot)
	w.dropSlot()
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%2'`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'after the gap'`)
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d:\n%s", p.cmd.ProcessState.ExitCode(), p.out)
	}
	p.says("outflow run --slot-reset")

	// Dropped while down: the same.
	p = launch(t, "run", "--config", file)
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d:\n%s", p.cmd.ProcessState.ExitCode(), p.out)
	}
	p.says("outflow run --slot-reset")

	p = launch(t, "run", "--config", file, "--slot-reset")
	p.says("the slot was reset")
	w.waitState(tenant1, "main", "streaming")
	w.synced()
	w.equal(tenant1, dsn)
	if after := query(t, dsn, `SELECT max(last_synced_sequence_id) FROM _stack_sync_metadata`)[0]; len(after) < len(before) || after < before && len(after) == len(before) {
		t.Errorf("ids went back: %s, then %s", before, after)
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// A reset that was begun and not finished is said, and finished by the next one.
	w.exec(`UPDATE outflow.source SET resetting = true`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'in between'`)
	p = launch(t, "run", "--config", file)
	p.says("begun and not finished")
	_ = p.cmd.Wait()
	w.dropSlot()
	p = launch(t, "run", "--config", file, "--slot-reset")
	p.says("the slot was reset")
	w.waitState(tenant1, "main", "streaming")
	w.synced()
	w.equal(tenant1, dsn)
	p.terminate()

	// A healthy slot is not reset without a word.
	p = launch(t, "run", "--config", file, "--slot-reset")
	p.says("confirm with --yes")
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("exit code %d", p.cmd.ProcessState.ExitCode())
	}
	// Somebody else moves the slot: a gap.
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%4'`)
	w.exec(`SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())`, w.cfg.Source.Slot)
	r := w.start()
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'moved'`)
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
}
