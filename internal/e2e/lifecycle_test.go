package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

func (w *world) user(tenant, id, name string) {
	w.tb.Helper()
	w.exec(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ($1, $2, $3)`, tenant, id, name)
}

// A scenario is a piece of a user's life: transactions on the primary. In them :t stands for the tenant, :u and :v for two
// users, :c, :d and :e for channels, :n for the scenario's number.
type scenario struct {
	name  string
	steps []string
}

const (
	addUser     = `INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES (:t, :u, 'Ada'); `
	addOther    = `INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES (:t, :v, 'Bob'); `
	delUser     = `DELETE FROM "ProjectUser" WHERE "projectUserId" = :u; `
	addPrimary  = `INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "usedForAuth", "isVerified", value) VALUES (:t, :u, :c, 'EMAIL', 'TRUE', 'TRUE', true, 'c:n@example.com'); `
	addSecond   = `INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isVerified", value) VALUES (:t, :u, :d, 'EMAIL', false, 'd:n@example.com'); `
	addThird    = `INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isVerified", value) VALUES (:t, :u, :e, 'EMAIL', true, 'e:n@example.com'); `
	delPrimary  = `DELETE FROM "ContactChannel" WHERE id = :c; `
	switchOver  = `UPDATE "ContactChannel" SET "isPrimary" = NULL WHERE id = :c; UPDATE "ContactChannel" SET "isPrimary" = 'TRUE' WHERE id = :d; `
	tombUser    = `INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey", data) VALUES (:t, 'ProjectUser', jsonb_build_object('tenancyId', :t, 'projectUserId', :u), jsonb_build_object('displayName', 'Ada', 'isAnonymous', false)); `
	tombChannel = `INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey") VALUES (:t, 'ContactChannel', jsonb_build_object('tenancyId', :t, 'projectUserId', :u, 'id', :c)); `
)

func rename(name string) string {
	return fmt.Sprintf(`UPDATE "ProjectUser" SET "displayName" = %s WHERE "projectUserId" = :u; `, name)
}

var scenarios = []scenario{
	{"insert", []string{addUser, addPrimary}},
	{"insert at once", []string{addUser + addPrimary}},
	{"update", []string{addUser, rename(`'Ada L.'`)}},
	{"delete", []string{addUser, delUser}},
	{"full life cycle", []string{addUser, addPrimary, rename(`'Ada L.'`) +
		`UPDATE "ContactChannel" SET "isVerified" = false WHERE id = :c`, addSecond, delPrimary, delUser}},
	{"again with the same email", []string{addUser + addPrimary, delUser,
		strings.ReplaceAll(addUser, ":u", ":v") + strings.NewReplacer(":u", ":v", ":c", ":d").Replace(addPrimary)}},
	{"again with the same ids", []string{addUser + addPrimary, delUser, addUser + addPrimary + rename(`'Reborn'`)}},
	{"again at once", []string{addUser + addPrimary, delUser + addUser + addPrimary}},
	{"update right before delete", []string{addUser + addPrimary, rename(`'Soon gone'`), delUser}},
	{"update and delete at once", []string{addUser + addPrimary, rename(`'Soon gone'`) + delUser}},
	{"several updates", []string{addUser + addPrimary, rename(`'1'`), rename(`'2'`) + rename(`'3'`), rename(`'4'`), rename(`'last'`)}},
	{"several emails", []string{addUser + addSecond, addPrimary, addThird}},
	{"primary switched", []string{addUser + addPrimary + addSecond, switchOver}},
	{"primary switched back", []string{addUser + addPrimary + addSecond, switchOver,
		strings.NewReplacer(":c", ":d", ":d", ":c").Replace(switchOver)}},
	{"primary deleted", []string{addUser + addPrimary + addSecond, delPrimary}},
	{"cascade", []string{addUser + addPrimary + addSecond + addThird, delUser}},
	{"verified", []string{addUser + addSecond + addPrimary, `UPDATE "ContactChannel" SET "isVerified" = NOT "isVerified" WHERE "projectUserId" = :u`}},
	{"channel moves to another user", []string{addUser + addOther + addPrimary, `UPDATE "ContactChannel" SET "projectUserId" = :v WHERE id = :c`}},
	{"user gets another id", []string{addUser + addPrimary, `UPDATE "ProjectUser" SET "projectUserId" = :v WHERE "projectUserId" = :u`}},
	{"tombstone, then delete", []string{addUser + addPrimary, tombUser, tombChannel, delUser}},
	{"delete, then tombstone", []string{addUser + addPrimary, delUser, tombUser + tombChannel}},
	{"tombstone and delete at once", []string{addUser + addPrimary, tombUser + tombChannel + delUser}},
	{"delete and tombstone at once", []string{addUser + addPrimary, delUser + tombUser + tombChannel}},
	{"quotes", []string{addUser, rename(`'O''Brien "the" $$ \\ \'' $1 {a,"b"}'`)}},
	{"emoji", []string{addUser, rename(`'👩‍👩‍👧‍👦 café 日本語 עברית العربية ' || chr(769)`)}},
	{"control characters", []string{addUser, rename(`E'line\nline\r\n\ttab \\ \x01 \u2028 end'`)}},
	{"NULL and empty", []string{addUser + addOther, rename(`''`) + strings.ReplaceAll(rename(`NULL`), ":u", ":v"),
		`UPDATE "ProjectUser" SET "profileImageUrl" = '' WHERE "projectUserId" = :v`}},
	{"the text NULL", []string{addUser, rename(`'NULL'`)}},
	{"metadata", []string{addUser, `UPDATE "ProjectUser" SET "clientMetadata" = '{"a": "\\", "b": "''\"", "n": 1.10, "e": "👩"}',
		"clientReadOnlyMetadata" = '[]', "serverMetadata" = 'null', "signedUpAt" = '1999-12-31 23:59:59.999', "isAnonymous" = true WHERE "projectUserId" = :u`}},
}

// of replaces what stands for ids. Each mode that runs the scenarios has ids of its own.
func (s scenario) of(mode, n int) (steps []string, user string) {
	id := func(k int) string { return fmt.Sprintf("'%08d-0000-4000-8000-%012d'", mode*10+k, n) }
	r := strings.NewReplacer(":t", "'"+tenant1+"'", ":u", id(1), ":v", id(2), ":c", id(3), ":d", id(4), ":e", id(5), ":n", fmt.Sprintf("%d.%d", mode, n))
	for _, step := range s.steps {
		steps = append(steps, r.Replace(step))
	}
	return steps, id(1)
}

// writtenOnce fails unless the journal has one insert for each row that the external tables hold, and nothing else. It
// empties the journal.
func writtenOnce(t *testing.T, dsn string) {
	t.Helper()
	rows := query(t, dsn, `SELECT 'INSERT', tbl, id FROM (
		SELECT 'users' tbl, id FROM users UNION ALL SELECT 'contact_channels', id FROM contact_channels) r
		WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.id = r.id) ORDER BY 2, 3`)
	same(t, dsn, `SELECT op, tbl, row->>'id' FROM journal ORDER BY 2, 3, n`, rows...)
	exec(t, connect(t, dsn), `INSERT INTO seen SELECT (row->>'id')::uuid FROM journal; TRUNCATE journal`)
}

func TestScenarios(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	gate := w.gated(tenant1, "main")
	journaled(t, gate.dsn)
	exec(t, connect(t, gate.dsn), `CREATE TABLE seen (id uuid)`)
	r := w.start()

	// Before the first sync: what comes and goes is never written, the last of several updates is, once.
	n := 0
	for i, s := range scenarios {
		steps, _ := s.of(1, i)
		for _, step := range steps {
			w.exec(step)
			n++
		}
	}
	gate.open(r, r.destination("main"), n)
	w.synced()
	w.equal(tenant1, gate.dsn)
	writtenOnce(t, gate.dsn)

	// Each in one transaction.
	for i, s := range scenarios {
		steps, _ := s.of(2, i)
		w.exec(strings.Join(steps, ";\n"))
	}
	w.synced()
	w.equal(tenant1, gate.dsn)
	writtenOnce(t, gate.dsn)

	// Live: the external database is seen after every step.
	live := make([][]string, len(scenarios))
	for i, s := range scenarios {
		live[i], _ = s.of(3, i)
	}
	// A tombstone before the delete takes the row away at once, so there the tables differ until the delete comes.
	early := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == "tombstone, then delete" })
	_, gone := scenarios[early].of(3, early)
	for step := range 6 {
		for i := range live {
			if step < len(live[i]) && i != early {
				w.exec(live[i][step])
			}
		}
		w.synced()
		w.equal(tenant1, gate.dsn)
	}
	w.exec(live[early][0])
	w.synced()
	w.equal(tenant1, gate.dsn)
	w.exec(live[early][1] + live[early][2])
	w.synced()
	same(t, gate.dsn, `SELECT id FROM users WHERE id = `+gone)
	same(t, gate.dsn, `SELECT id FROM contact_channels WHERE user_id = `+gone)
	same(t, gate.dsn, `SELECT op FROM journal WHERE tbl = 'users' AND op IN ('INSERT', 'DELETE') AND row->>'id' = `+gone+` ORDER BY n`,
		`"INSERT"`, `"DELETE"`)
	w.exec(live[early][3])
	w.synced()
	w.equal(tenant1, gate.dsn)
	same(t, gate.dsn, `SELECT tbl, row->>'id', count(*) FROM journal WHERE op = 'DELETE' AND row->>'id' = `+gone+` GROUP BY 1, 2 HAVING count(*) <> 1`)

	// Everybody leaves: one delete for each row.
	left := query(t, gate.dsn, `SELECT 'DELETE', id FROM (SELECT id FROM users UNION ALL SELECT id FROM contact_channels) r ORDER BY 2`)
	exec(t, connect(t, gate.dsn), `TRUNCATE journal`)
	w.exec(`DELETE FROM "ProjectUser"`)
	w.synced()
	w.equal(tenant1, gate.dsn)
	same(t, gate.dsn, `SELECT op, row->>'id' FROM journal WHERE op <> 'UPDATE' ORDER BY 2, 1`, left...)
	same(t, gate.dsn, `SELECT 1 FROM users`)
}

// TestScenarioValues keeps the scenarios honest: what their names say is what the external database shows.
func TestScenarioValues(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.start()
	want := map[string]string{
		"several emails":        `"c%s@example.com"|"true"`,
		"primary switched":      `"d%s@example.com"|"false"`,
		"primary switched back": `"c%s@example.com"|"true"`,
		"primary deleted":       `NULL|"false"`,
	}
	users := map[string]string{}
	for i, s := range scenarios {
		if _, ok := want[s.name]; ok || s.name == "NULL and empty" {
			steps, user := s.of(4, i)
			w.exec(strings.Join(steps, ";"))
			users[s.name] = user
			if ok && strings.Contains(want[s.name], "%s") {
				want[s.name] = fmt.Sprintf(want[s.name], fmt.Sprintf("4.%d", i))
			}
		}
	}
	w.synced()
	for name, row := range want {
		same(t, dsn, `SELECT primary_email, primary_email_verified::text FROM users WHERE id = `+users[name], row)
	}
	same(t, dsn, `SELECT display_name, profile_image_url FROM users WHERE id = `+users["NULL and empty"], `""|NULL`)
	same(t, dsn, `SELECT display_name, profile_image_url FROM users WHERE id = `+strings.Replace(users["NULL and empty"], "41-", "42-", 1), `NULL|""`)

	// What cannot be named by a tombstone, or is of a table that is not synced, is passed over.
	before := query(t, dsn, `SELECT id FROM users ORDER BY 1`)
	w.exec(`INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey") VALUES
		($1, 'ProjectUser', '{"tenancyId": 1}'), ($1, 'ProjectUser', '[]'), ($1, 'ProjectUser', 'null'), ($1, 'Elsewhere', '{"id": 1}'), ($1, '', '{}')`, tenant1)
	w.exec(`DELETE FROM "DeletedRow"`)
	w.synced()
	same(t, dsn, `SELECT id FROM users ORDER BY 1`, before...)
}

func TestThousandsOfUsers(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	journaled(t, dsn)
	w.start().caughtUp()
	const users = 5000
	w.exec(fmt.Sprintf(`
		INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName", "clientMetadata")
		SELECT '%[1]s', gen_random_uuid(), 'user ' || n, jsonb_build_object('n', n) FROM generate_series(1, %[2]d) n;
		INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value)
		SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', true, "projectUserId" || '@example.com' FROM "ProjectUser"`, tenant1, users))
	w.synced()
	w.equal(tenant1, dsn)
	same(t, dsn, `SELECT tbl, op, count(*), count(DISTINCT row->>'id') FROM journal GROUP BY 1, 2 ORDER BY 1`,
		`"contact_channels"|"INSERT"|"5000"|"5000"`, `"users"|"INSERT"|"5000"|"5000"`)
	// One transaction of the primary is one here.
	same(t, dsn, `SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM users UNION ALL SELECT xmin FROM contact_channels) r`, `"1"`)

	var many strings.Builder
	for i := range users {
		fmt.Fprintf(&many, `BEGIN; INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName")
			VALUES ('%s', '99999999-0000-4000-8000-%012d', 'user %d'); COMMIT;`, tenant1, i, i)
	}
	w.exec(many.String())
	w.synced()
	w.equal(tenant1, dsn)
	same(t, dsn, `SELECT op, count(*), count(DISTINCT row->>'id') FROM journal WHERE tbl = 'users' GROUP BY 1`, `"INSERT"|"10000"|"10000"`)
}
