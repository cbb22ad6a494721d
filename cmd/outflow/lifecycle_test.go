package main

import (
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

func (w *world) user(tenant, id, name string) {
	w.tb.Helper()
	w.exec(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ($1, $2, $3)`, tenant, id, name)
}

func TestInsertUpdateDelete(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.start()
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	w.exec(`INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value)
		SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', true, 'ada@example.com' FROM "ProjectUser"`)
	w.synced()
	w.equal(tenant1, dsn)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'Ada L.'`)
	w.synced()
	w.equal(tenant1, dsn)
	w.exec(`DELETE FROM "ProjectUser"`)
	w.synced()
	w.equal(tenant1, dsn)
	if got := query(t, dsn, `SELECT count(*) FROM users`); got[0] != `"0"` {
		t.Errorf("users has %s rows after the delete", got[0])
	}
}
