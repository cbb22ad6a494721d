package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"outflow/internal/pgcluster/pgtest"
)

// operation is one statement of a random history. Arguments are small numbers so that rows meet.
type operation struct {
	Kind   string
	Tenant int
	User   int
	Row    int
	Text   string
}

func (o operation) String() string {
	return fmt.Sprintf("%s(tenant %d, user %d, row %d, %q)", o.Kind, o.Tenant, o.User, o.Row, o.Text)
}

var kinds = map[string]string{
	"insert user": `INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ($1, $2, $4 || $3) ON CONFLICT DO NOTHING`,
	"update user": `UPDATE "ProjectUser" SET "displayName" = $4, "serverMetadata" = jsonb_build_object('n', $3::text)
		WHERE "tenancyId" = $1 AND "projectUserId" = $2`,
	"large value": `UPDATE "ProjectUser" SET "clientMetadata" = (SELECT jsonb_agg(md5($4 || n::text || $3)) FROM generate_series(1, 300) n)
		WHERE "tenancyId" = $1 AND "projectUserId" = $2`,
	"delete user": `DELETE FROM "ProjectUser" WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND $3 || $4 <> ''`,
	"insert channel": `INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isVerified", value)
		SELECT "tenancyId", "projectUserId", $3, 'EMAIL', false, $4 FROM "ProjectUser"
		WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND NOT EXISTS (SELECT FROM "ContactChannel" WHERE id = $3)`,
	"make primary": `UPDATE "ContactChannel" SET "isPrimary" = CASE WHEN id = $3 THEN 'TRUE'::"BooleanTrue" END, value = value || $4
		WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND (id = $3 OR "isPrimary" = 'TRUE')`,
	"delete channel": `DELETE FROM "ContactChannel" WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND id = $3 AND $4 <> 'x'`,
	"rename key": `UPDATE "ProjectUser" SET "projectUserId" = $3, "displayName" = $4 WHERE "tenancyId" = $1 AND "projectUserId" = $2
		AND NOT EXISTS (SELECT FROM "ProjectUser" WHERE "projectUserId" = $3)`,
	"move tenant": `UPDATE "ProjectUser" SET "tenancyId" = CASE "tenancyId" WHEN '` + tenant1 + `' THEN '` + tenant2 + `'::uuid ELSE '` + tenant1 + `' END
		WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND $3 || $4 <> '' AND (SELECT count(*) FROM "ProjectUser" u WHERE u."projectUserId" = "ProjectUser"."projectUserId") = 1`,
	"tombstone": `WITH gone AS (DELETE FROM "ContactChannel" WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND id = $3 RETURNING *)
		INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey", data) SELECT "tenancyId", 'ContactChannel',
		jsonb_build_object('tenancyId', "tenancyId", 'projectUserId', "projectUserId", 'id', id), jsonb_build_object('x', $4::text) FROM gone`,
	"truncate": `TRUNCATE "ContactChannel"`,
	"commit":   "",
	"rollback": "",
}

// history makes a random list of operations.
func history(t *rapid.T) []operation {
	names := []string{"commit", "commit", "commit"} // often enough that there are many transactions
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) operation {
		return operation{Kind: rapid.SampledFrom(names).Draw(t, "kind"), Tenant: rapid.IntRange(1, 3).Draw(t, "tenant"),
			User: rapid.IntRange(1, 4).Draw(t, "user"), Row: rapid.IntRange(1, 4).Draw(t, "row"),
			Text: rapid.SampledFrom([]string{"a", "b", "", "it's \"quoted\"\n\\", "日本 🎉"}).Draw(t, "text")}
	}), 1, 80).Draw(t, "history")
}

// play runs a history on the primary. A statement that a constraint refuses rolls back to its savepoint, like the
// application's own.
func (w *world) play(t *rapid.T, ops []operation) {
	ctx := context.Background()
	tenants := []string{"", tenant1, tenant2, tenant3}
	tx, err := w.db.Begin(ctx)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	for _, o := range ops {
		switch o.Kind {
		case "commit", "rollback":
			if o.Kind == "commit" {
				check(tx.Commit(ctx))
			} else {
				check(tx.Rollback(ctx))
			}
			tx, err = w.db.Begin(ctx)
			check(err)
			continue
		}
		sub, err := tx.Begin(ctx)
		check(err)
		args := []any{pgx.QueryExecModeExec, tenants[o.Tenant], fmt.Sprintf("00000000-0000-4000-8000-%012d", o.User),
			fmt.Sprintf("00000000-0000-4000-9000-%012d", o.Row), o.Text}
		if o.Kind == "truncate" {
			args = args[:1]
		}
		if _, err = sub.Exec(ctx, kinds[o.Kind], args...); err != nil {
			check(sub.Rollback(ctx))
			continue
		}
		check(sub.Commit(ctx))
	}
	check(tx.Commit(ctx))
}

// Whatever the application does, each external database is the projection of its tenant's rows, compared by SQL that
// shares nothing with the mappings. Rows of a tenant without a database go nowhere.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		must(t, f.Value.Set("12"))
	}
	var w *world
	var r *running
	var external map[string]string // connection string to tenant
	fresh := func() {
		w = newWorld(t, pgtest.Shared(t))
		external = map[string]string{w.destination(tenant1, "main"): tenant1, w.destination(tenant2, "main"): tenant2,
			w.destination(tenant2, "second", "contact_channels", "users"): tenant2}
		r = w.start()
		w.exec(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId") VALUES ($1, gen_random_uuid()), ($2, gen_random_uuid())`, tenant1, tenant2)
	}
	rapid.Check(t, func(rt *rapid.T) {
		ops := history(rt)
		if w == nil {
			fresh()
		}
		if rapid.Bool().Draw(rt, "restart") { // the history is a backlog; else it meets a pipeline in the middle of its work
			r.end()
			w.play(rt, ops)
			r = w.start()
		}
		w.play(rt, ops)
		w.synced()
		for dsn, tenant := range external {
			if diff := w.diff(tenant, dsn); diff != "" {
				w = nil // what differs now would differ in every smaller history too
				rt.Fatal(diff)
			}
		}
	})
}
