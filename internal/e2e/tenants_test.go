package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

func TestTenantsSeeOnlyTheirOwn(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	databases := map[string][]string{
		tenant1: {w.destination(tenant1, "a"), w.destination(tenant1, "b")},
		// The tenant's own way to write its id does not matter.
		tenant2: {w.destination(strings.ToUpper(tenant2), "c"), w.destination(tenant2, "d"), w.destination(tenant2, "e", "contact_channels")},
	}
	w.start()
	check := func() {
		t.Helper()
		w.synced()
		for tenant, dsns := range databases {
			w.equal(tenant, dsns[0])
			w.equal(tenant, dsns[1])
		}
		want := query(t, databases[tenant2][0], actualChannels)
		same(t, databases[tenant2][2], actualChannels, want...)
		same(t, databases[tenant2][2], `SELECT to_regclass('users')`, "NULL")
	}
	for i, s := range scenarios[:12] { // the same ids for three tenants, of which one has no database
		steps, _ := s.of(6, i)
		for _, tenant := range []string{tenant1, tenant2, tenant3} {
			w.exec("BEGIN; " + scoped(strings.Join(steps, ";\n"), tenant) + "; COMMIT")
		}
	}
	check()
	same(t, databases[tenant1][0], `SELECT DISTINCT tenant FROM _stack_sync_metadata`, `"`+tenant1+`"`)
	same(t, databases[tenant2][2], `SELECT mapping_name, tenant FROM _stack_sync_metadata`, `"contact_channels"|"`+tenant2+`"`)

	// One transaction over all tenants.
	w.exec(`UPDATE "ProjectUser" SET "displayName" = "tenancyId"::text`)
	check()
	same(t, databases[tenant1][1], `SELECT DISTINCT display_name FROM users`, `"`+tenant1+`"`)

	// Rows that move to another tenant leave the old one's databases and appear in the new one's, with their channels.
	w.exec(`DELETE FROM "ProjectUser" WHERE "tenancyId" = $1`, tenant2)
	w.exec(`UPDATE "ProjectUser" SET "tenancyId" = '` + tenant2 + `', "displayName" = 'moved' WHERE "tenancyId" = '` + tenant1 + `'
		AND "projectUserId" IN (SELECT "projectUserId" FROM "ContactChannel")`)
	check()
	if moved := query(t, databases[tenant2][0], `SELECT id FROM users WHERE display_name = 'moved' AND primary_email IS NOT NULL`); len(moved) < 3 {
		t.Errorf("only %d users moved", len(moved))
	}
	// To nowhere and back, and there and back at once.
	w.exec(`UPDATE "ProjectUser" SET "tenancyId" = $1 WHERE "tenancyId" = $2`, "44444444-4444-4444-8444-444444444444", tenant2)
	check()
	same(t, databases[tenant2][0], `SELECT 1 FROM users`)
	w.exec(`UPDATE "ProjectUser" SET "tenancyId" = '` + tenant2 + `' WHERE "tenancyId" = '44444444-4444-4444-8444-444444444444';
		UPDATE "ProjectUser" SET "tenancyId" = '44444444-4444-4444-8444-444444444444' WHERE "tenancyId" = '` + tenant2 + `';
		UPDATE "ProjectUser" SET "tenancyId" = '` + tenant2 + `' WHERE "tenancyId" = '44444444-4444-4444-8444-444444444444'`)
	check()
}

// scoped is a scenario for another tenant, also where it does not name one.
func scoped(sql, tenant string) string {
	sql = strings.ReplaceAll(sql, tenant1, tenant)
	return strings.ReplaceAll(sql, " WHERE ", ` WHERE "tenancyId" = '`+tenant+`' AND `)
}

func TestTwoTenantsOnOneDatabase(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "first")
	r := w.start()
	r.caughtUp()
	r.end()
	w.addDestination(tenant2, "second", dsn)
	r = w.start()
	w.user(tenant1, tenant1, "Ada")
	waitFor(t, "the first one's row", func() error {
		if n := query(t, dsn, `SELECT id FROM users`); len(n) != 1 {
			return fmt.Errorf("there are %v", n)
		}
		return nil
	})
	w.user(tenant2, tenant2, "Bob")
	contains(t, becomes(t, r.destination("second"), ledger.Halted), "holds the rows of tenant "+`"`+tenant1+`"`, "remedy: give this destination a database of its own")
	w.user(tenant1, tenant2, "Cid")
	waitFor(t, "the first tenant's row", func() error {
		if n := query(t, dsn, `SELECT id FROM users`); len(n) != 2 {
			return fmt.Errorf("there are %v", n)
		}
		return nil
	})
	w.equal(tenant1, dsn)
}

// withPassword is a server that asks one role for a password.
func withPassword(t *testing.T, role string) *pgcluster.Cluster {
	c := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	db := connect(t, c.DSN(""))
	exec(t, db, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD 'right'`, role))
	exec(t, db, fmt.Sprintf(`CREATE DATABASE %s OWNER %[1]s`, role))
	exec(t, db, fmt.Sprintf(`DO $do$ BEGIN
		EXECUTE format('COPY (VALUES (''host all %s all scram-sha-256''), (''host all,replication all all trust'')) TO %%L', current_setting('hba_file'));
		PERFORM pg_reload_conf();
	END $do$`, role))
	waitFor(t, "the new pg_hba.conf", func() error {
		var n int
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256' AND error IS NULL`).Scan(&n); err != nil || n == 1 {
			return err
		}
		return fmt.Errorf("%d lines", n)
	})
	return c
}

func TestABadDestinationDelaysNobody(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	locked := withPassword(t, "locked")
	dsn := w.destination(tenant1, "good")
	w.destination(tenant2, "good too")
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	wrong := strings.Replace(locked.DSN("locked"), "postgres@", "locked:wrong@", 1)
	w.addDestination(tenant3, "password", wrong)
	w.addDestination(tenant3, "nobody", "postgres://postgres@127.0.0.1:1/postgres?sslmode=disable")
	w.addDestination(tenant3, "silent", fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", listener.Addr())) // takes connections and says nothing
	fixed := w.destination(tenant3, "good three")
	w.cfg.Sink.ConnectTimeout = 2 * time.Second
	r := w.start()
	external := connect(t, dsn)
	round := 0
	latency := func(tenants ...string) time.Duration {
		var times []time.Duration
		for range 30 {
			round++
			id := fmt.Sprintf("00000000-0000-4000-8000-%012d", round)
			for _, tenant := range tenants {
				w.user(tenant, id, "Ada")
			}
			began := time.Now()
			w.user(tenant1, id, "Ada")
			visible(t, external, id)
			times = append(times, time.Since(began))
		}
		slices.Sort(times)
		return times[len(times)/2]
	}
	latency() // connections and plans
	before := latency(tenant2)
	during := latency(tenant2, tenant3)
	t.Logf("median latency %s before, %s with three bad destinations", before, during)
	if during > 4*before+20*time.Millisecond {
		t.Errorf("a commit is visible after %s where it was %s before the others failed", during, before)
	}
	contains(t, becomes(t, r.destination("password"), ledger.Retrying), "SQLSTATE 28P01", "remedy: check user and password")
	contains(t, becomes(t, r.destination("nobody"), ledger.Retrying), "connecting", "refused")
	becomes(t, r.destination("silent"), ledger.Retrying)
	w.equal(tenant3, fixed)
	w.equal(tenant1, dsn)
	for _, d := range r.Router.Destinations() {
		if strings.Contains(fmt.Sprint(d.Status().Err), "wrong") {
			t.Errorf("the error of %s shows the password: %v", d, d.Status().Err)
		}
	}
	if s := r.destination("password").Status(); s.Queued != 30 || s.Attempts < 1 || s.NextRetry.IsZero() {
		t.Errorf("the destination with a wrong password has the status %+v", s)
	}

	// The password is set right at the server: everything that waited arrives.
	exec(t, connect(t, locked.DSN("")), `ALTER ROLE locked PASSWORD 'wrong'`)
	becomes(t, r.destination("password"), ledger.Streaming)
	waitFor(t, "the waiting transactions", func() error {
		if s := r.destination("password").Status(); s.Queued > 0 {
			return fmt.Errorf("%d wait", s.Queued)
		}
		return nil
	})
	w.equal(tenant3, wrong)
}

// visible waits for a user, without a pause that would be in the measured time.
func visible(t *testing.T, db *pgx.Conn, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for there := false; !there; {
		if err := db.QueryRow(ctx, `SELECT count(*) > 0 FROM users WHERE id = $1`, id).Scan(&there); err != nil && !strings.Contains(err.Error(), "42P01") {
			t.Fatalf("waiting for user %s: %v", id, err)
		}
	}
}
