package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/verification"
	"outflow/replication/primary"
	"outflow/replication/tableread"
)

// verify runs the comparison in this process and returns the report and the exit code.
func (w *world) verify(s pipeline.Selection) (*verification.Report, int) {
	w.tb.Helper()
	return w.compare(s, false)
}

func (w *world) repair(s pipeline.Selection) (*verification.Report, int) {
	w.tb.Helper()
	return w.compare(s, true)
}

func (w *world) compare(s pipeline.Selection, repair bool) (*verification.Report, int) {
	w.tb.Helper()
	r, err := compare(w.tb.Context(), w.cfg, s, verification.Options{Repair: repair})
	if err != nil {
		w.tb.Fatal(err)
	}
	return r, exitCodes[r.Result]
}

// exitCodes are those of verify, by the result.
var exitCodes = map[verification.Result]int{verification.Equal: 0, verification.Different: 1, verification.Unknown: 2}

// compare does what verify does.
func compare(ctx context.Context, cfg *config.Config, s pipeline.Selection, how verification.Options) (*verification.Report, error) {
	c, err := verification.Prepare(ctx, cfg, s)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Run(ctx, how)
}

// countsOf are what was found of each table: rows, missing, extra, changed, mended.
func countsOf(d *verification.Destination) map[string][5]int {
	all := map[string][5]int{}
	for _, t := range d.Tables {
		all[t.Table] = [5]int{int(t.Rows), t.Missing, t.Extra, t.Changed, t.Repaired}
	}
	return all
}

func checkReport(tb testing.TB, r *verification.Report, code, wantCode int, want map[string][5]int) {
	tb.Helper()
	if code != wantCode {
		tb.Errorf("exit code %d, expected %d: %+v", code, wantCode, r.Destinations[0])
	}
	if diff := cmp.Diff(want, countsOf(r.Destinations[0])); diff != "" {
		tb.Errorf("rows, missing, extra, changed, mended (-want +got):\n%s", diff)
	}
}

// One changed, one missing and one extra row among 50,000 are found, and just they are mended.
func TestVerifyAndRepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(25000, tenant1)
	w.existing(10, tenant2)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	began := time.Now()
	report, code := w.verify(pipeline.Selection{})
	t.Logf("50,000 equal rows: %s", time.Since(began))
	checkReport(t, report, code, 0, map[string][5]int{"users": {25000}, "contact_channels": {25000}})

	db := connect(t, dsn)
	journal(t, dsn, "users", "contact_channels")
	extra := "00000000-0000-4000-8000-0000009999aa"
	exec(t, db, `SET session_replication_role = replica`) // the damage itself is not written down
	exec(t, db, `UPDATE users SET display_name = 'damaged' WHERE id = $1`, userID(77))
	exec(t, db, `DELETE FROM users WHERE id = $1`, userID(24999))
	exec(t, db, `INSERT INTO users (id, signed_up_at) VALUES ($1, now())`, extra)
	before := query(t, dsn, `SELECT mapping_name, last_synced_sequence_id FROM _stack_sync_metadata`)
	began = time.Now()
	report, code = w.verify(pipeline.Selection{Tenant: tenant1, Name: "main"})
	t.Logf("50,000 rows of which three differ: %s, %d looks", time.Since(began), report.Destinations[0].Looks)
	checkReport(t, report, code, 1, map[string][5]int{"users": {25000, 1, 1, 1, 0}, "contact_channels": {25000}})
	want := []verification.Row{{Kind: "changed", Key: "id=" + userID(77)}, {Kind: "missing", Key: "id=" + userID(24999)}, {Kind: "extra", Key: "id=" + extra}}
	if diff := cmp.Diff(want, report.Destinations[0].Tables[1].First); diff != "" {
		t.Errorf("first keys (-want +got):\n%s", diff)
	}
	same(t, dsn, `SELECT * FROM journal`) // it wrote nothing

	began = time.Now()
	report, code = w.repair(pipeline.Selection{})
	t.Logf("repair: %s, then %d looks", time.Since(began), report.Destinations[0].Looks)
	checkReport(t, report, code, 0, map[string][5]int{"users": {25000, 0, 0, 0, 3}, "contact_channels": {25000}})
	same(t, dsn, `SELECT op, tbl, row->>'id' FROM journal ORDER BY op`, `"DELETE"|"users"|"`+extra+`"`,
		`"INSERT"|"users"|"`+userID(24999)+`"`, `"UPDATE"|"users"|"`+userID(77)+`"`)
	if after := query(t, dsn, `SELECT mapping_name, last_synced_sequence_id FROM _stack_sync_metadata`); !cmp.Equal(before, after) {
		t.Errorf("the repair moved the ids: %v, then %v", before, after)
	}
	w.equal(tenant1, dsn)
}

// A row that is gone takes what was looked up in it along, in a table of another mapping.
func TestVerifyAcrossMappings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(200, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	db := connect(t, dsn)
	exec(t, db, `DELETE FROM contact_channels WHERE user_id = $1`, userID(5))
	exec(t, db, `UPDATE users SET primary_email = NULL WHERE id = $1`, userID(5))
	exec(t, db, `UPDATE contact_channels SET user_id = $1 WHERE user_id = $2`, userID(5), userID(6))
	report, code := w.repair(pipeline.Selection{})
	checkReport(t, report, code, 0, map[string][5]int{"users": {200, 0, 0, 0, 1}, "contact_channels": {200, 0, 0, 0, 2}})
	w.equal(tenant1, dsn)
}

// Changes on their way are no differences; damage beside them is one, and is mended beside the live worker.
func TestVerifyUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.existing(2000, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	l := w.load(seed(t), tenant1)
	for range 3 {
		if report, code := w.verify(pipeline.Selection{}); code != 0 {
			t.Errorf("exit code %d under load: %+v", code, *report.Destinations[0])
		} else {
			t.Logf("equal after %d looks, %.1f s", report.Destinations[0].Looks, report.Destinations[0].Seconds)
		}
	}
	db := connect(t, dsn)
	exec(t, db, `DELETE FROM users WHERE id = $1`, userID(1999)) // no row that the load writes to
	exec(t, db, `UPDATE contact_channels SET value = 'damaged' WHERE user_id = $1`, userID(1998))
	report, code := w.verify(pipeline.Selection{})
	if counts := countsOf(report.Destinations[0]); code != 1 || counts["users"][1] != 1 || counts["contact_channels"][3] != 1 {
		t.Errorf("exit code %d, %v", code, counts)
	}
	if report, code = w.repair(pipeline.Selection{}); code != 0 {
		t.Errorf("exit code %d after the repair: %+v", code, *report.Destinations[0])
	}
	l.end()
	w.synced()
	w.equal(tenant1, dsn)
}

// What a repair reads must be at least as new as what the stream has brought: it does not read while a transaction runs
// whose commit may have been decoded already.
func TestRepairWaitsForOpenTransactions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.LockTimeout = time.Second
	w.existing(50, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	exec(t, connect(t, dsn), `DELETE FROM users WHERE id = $1`, userID(5))
	other := connect(t, w.source)
	tx, err := other.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE "ProjectUser" SET "displayName" = 'later' WHERE "projectUserId" = $1`, userID(6))
	must(t, err)
	report, code := w.repair(pipeline.Selection{})
	if d := report.Destinations[0]; code != 1 || d.Remedy == "" || countsOf(d)["users"][1] != 1 {
		t.Errorf("exit code %d: %+v", code, *d)
	}
	must(t, tx.Commit(t.Context()))
	report, code = w.repair(pipeline.Selection{})
	if code != 0 {
		t.Errorf("exit code %d: %+v", code, *report.Destinations[0])
	}
	w.synced()
	w.equal(tenant1, dsn)
}

// A commit that waits for a standby is here before anybody sees it on the primary. It is neither a difference nor undone.
func TestVerifyBesideCommitsThatNobodySees(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}}))
	w.exec(`SET synchronous_commit = local`)
	w.existing(50, tenant1)
	dsn := pgtest.Database(t, pgtest.Shared(t))
	w.addDestination(tenant1, "main", dsn)
	w.start().caughtUp()
	w.synced()
	w.exec(`ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	w.exec(`SELECT pg_reload_conf()`)
	waitFor(t, "the setting", func() error {
		if now := query(t, w.source, `SHOW synchronous_standby_names`)[0]; now != `"nobody"` {
			return fmt.Errorf("it is %s", now)
		}
		return nil
	})
	h := w.hang(fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId") VALUES ('%s', '%s')`, tenant1, userID(999)))
	here := `SELECT count(*) FROM users WHERE id = '` + userID(999) + `'`
	waitFor(t, "the stream to bring the commit", func() error {
		if n := query(t, dsn, here)[0]; n != `"1"` {
			return fmt.Errorf("%s rows", n)
		}
		return nil
	})
	report, code := w.repair(pipeline.Selection{})
	if d := report.Destinations[0]; code != 2 || !strings.Contains(d.Remedy, "standby") {
		t.Errorf("exit code %d: %+v", code, *d)
	}
	same(t, dsn, here, `"1"`)
	server, err := primary.New(w.source)
	must(t, err)
	copier := &tableread.Copier{Tables: tableread.NewTables(server)}
	defer copier.Close()
	if xids, err := copier.Unfinished(t.Context()); err != nil || len(xids) != 1 {
		t.Errorf("a repair would wait for %v, %v", xids, err)
	}
	h.show()
	w.exec(`ALTER SYSTEM RESET synchronous_standby_names`)
	w.exec(`SELECT pg_reload_conf()`)
	if report, code = w.verify(pipeline.Selection{}); code != 0 {
		t.Errorf("exit code %d: %+v", code, *report.Destinations[0])
	}
}

// What cannot be compared is exit code 2, with the reason and the remedy.
func TestVerifyCouldNotCompare(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1, tenant2)
	dsn1, dsn2 := w.destination(tenant1, "main"), w.destination(tenant2, "main")
	w.start().caughtUp()
	w.addDestination(tenant3, "gone", "postgres://nobody@127.0.0.1:1/gone?sslmode=disable")
	unknown := func(what string, i int) {
		t.Helper()
		report, code := w.verify(pipeline.Selection{})
		if d := report.Destinations[i]; code != 2 || d.Result != verification.Unknown || d.Error == "" {
			t.Errorf("%s: exit code %d, %+v", what, code, *d)
		} else {
			t.Logf("%s: %s", what, d.Error)
		}
	}
	unknown("unreachable", 2)
	w.cfg.Destinations.Static = w.cfg.Destinations.Static[:2]

	db := connect(t, dsn1)
	exec(t, db, `ALTER TABLE users RENAME TO hidden`)
	unknown("target missing", 0)
	exec(t, db, `ALTER TABLE hidden RENAME TO users; DROP TABLE _stack_sync_metadata`)
	unknown("metadata missing", 0)

	// What is different wins over what could not be compared.
	exec(t, connect(t, dsn2), `DELETE FROM users WHERE id = $1`, userID(7))
	if report, code := w.verify(pipeline.Selection{}); code != 1 {
		t.Errorf("exit code %d: %+v", code, *report.Destinations[1])
	}
}

// A mapping can only be recomputed where its steps leave everything else alone; verify never writes to a real table.
func TestVerifyWritesNothing(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"schema":   `INSERT INTO public.people (id) SELECT "projectUserId" FROM "ProjectUser" ON CONFLICT DO NOTHING`,
		"sequence": `INSERT INTO people (id, n) SELECT "projectUserId", nextval('numbers') FROM "ProjectUser" ON CONFLICT DO NOTHING`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, pgtest.Shared(t))
			w.existing(20, tenant1)
			w.addMapping("people", fmt.Sprintf(`
name: people
target: people
schema: CREATE SEQUENCE IF NOT EXISTS numbers; CREATE TABLE IF NOT EXISTS people (id uuid PRIMARY KEY, n bigint)
steps: [{from: ProjectUser, when: upsert, sql: %q}]
`, sql))
			dsn := w.destination(tenant1, "main", "people")
			w.start().caughtUp()
			db := connect(t, dsn)
			exec(t, db, `DELETE FROM people`)
			report, code := w.repair(pipeline.Selection{})
			if d := report.Destinations[0]; code != 2 || !strings.Contains(d.Remedy, "without a schema") {
				t.Errorf("exit code %d: %+v", code, *d)
			}
			same(t, dsn, `SELECT count(*) FROM people`, `"0"`)
			same(t, dsn, `SELECT last_value > 20 FROM numbers`, `"f"`)
		})
	}
}

// A table without a primary key is compared as a bag of rows; types that cannot be compared are, as text.
func TestVerifyWithoutPrimaryKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	w.addMapping("bag", `
name: bag
target: bag
schema: CREATE TABLE IF NOT EXISTS bag (id uuid, "Name" text, data json, upper text GENERATED ALWAYS AS (upper("Name")) STORED)
steps:
  - {from: ProjectUser, when: any, sql: 'DELETE FROM bag t USING "ProjectUser" u WHERE t.id = u."projectUserId"'}
  - from: ProjectUser
    when: upsert
    sql: INSERT INTO bag (id, "Name", data) SELECT "projectUserId", "displayName", "clientMetadata" FROM "ProjectUser"
keys: {ProjectUser: 'SELECT id AS "projectUserId" FROM bag'}
`)
	dsn := w.destination(tenant1, "main", "bag")
	w.start().caughtUp()
	w.synced()
	db := connect(t, dsn)
	report, code := w.verify(pipeline.Selection{})
	checkReport(t, report, code, 0, map[string][5]int{"bag": {20}})
	exec(t, db, `INSERT INTO bag (id, "Name", data) SELECT id, "Name", data FROM bag WHERE id = $1`, userID(3)) // twice
	exec(t, db, `UPDATE bag SET "Name" = 'damaged' WHERE id = $1`, userID(4))
	report, code = w.verify(pipeline.Selection{})
	checkReport(t, report, code, 1, map[string][5]int{"bag": {20, 1, 2, 0, 0}})
	report, code = w.repair(pipeline.Selection{})
	checkReport(t, report, code, 0, map[string][5]int{"bag": {20, 0, 0, 0, 3}})
}

// While nobody reads the slot, what differs may be on its way; what is equal is equal.
func TestVerifyWhileNothingRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	if report, code := w.verify(pipeline.Selection{}); code != 0 {
		t.Errorf("exit code %d: %+v", code, *report.Destinations[0])
	}
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'on its way'`)
	if report, code := w.verify(pipeline.Selection{}); code != 2 || !strings.Contains(report.Destinations[0].Remedy, "start outflow run") {
		t.Errorf("exit code %d: %+v", code, *report.Destinations[0])
	}
}

func TestVerifyNeedsTemporaryTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	dsn := w.destination(tenant1, "main")
	w.start().caughtUp()
	db := connect(t, dsn)
	role := w.role("verify", "")
	exec(t, db, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO `+role)
	exec(t, db, `DO $$ BEGIN EXECUTE 'REVOKE TEMPORARY ON DATABASE ' || quote_ident(current_database()) || ' FROM PUBLIC'; END $$`)
	w.cfg.Destinations.Static = nil
	w.addDestination(tenant1, "main", withUser(t, dsn, role))
	report, code := w.verify(pipeline.Selection{})
	if d := report.Destinations[0]; code != 2 || !strings.Contains(d.Remedy, "GRANT TEMPORARY") {
		t.Errorf("exit code %d: %+v", code, *d)
	}
	exec(t, db, `DROP OWNED BY `+role)
}

func TestVerifyCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(30, tenant1)
	dsn := w.destination(tenant1, "main")
	w.start().caughtUp()
	w.synced()
	file := w.configFile()
	run := func(args ...string) (stdout, stderr string, code int) {
		var out, progress bytes.Buffer
		c := osexec.Command(os.Args[0], append([]string{"verify", "--config", file}, args...)...)
		c.Env, c.Stdout, c.Stderr = append(os.Environ(), "OUTFLOW_TEST_EXEC=1"), &out, &progress
		_ = c.Run() // the exit code is looked at
		return out.String(), progress.String(), c.ProcessState.ExitCode()
	}
	out, progress, code := run("-o", "json")
	var report verification.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 || report.Result != verification.Equal {
		t.Errorf("exit code %d, %v:\n%s", code, err, out)
	}
	if progress == "" {
		t.Error("nothing on stderr")
	}
	exec(t, connect(t, dsn), `DELETE FROM users WHERE id = $1`, userID(7))
	if out, _, code = run("--tenant", tenant1); code != 1 || !strings.Contains(out, "missing: id="+userID(7)) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if _, _, code = run("--tenant", tenant2); code != 2 {
		t.Errorf("no such destination: exit code %d", code)
	}
	if _, _, code = run("-o", "xml"); code != 2 {
		t.Errorf("no such output: exit code %d", code)
	}
}
