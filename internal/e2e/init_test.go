package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/config"
	"outflow/internal/install"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
	"outflow/replication/primary"
	"outflow/sink/ledger"
	"outflow/sql"
)

// newRole names a role that is dropped at the test's end. The name wants quoting.
func (w *world) newRole() string {
	w.tb.Helper()
	role := fmt.Sprintf(`Out "flow" %d_%d`, os.Getpid(), slots.Add(1))
	quoted := pgx.Identifier{role}.Sanitize()
	w.tb.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), w.source)
		if err != nil {
			w.tb.Errorf("dropping role %s: %v", role, err)
			return
		}
		defer conn.Close(context.Background())
		_, _ = conn.Exec(context.Background(), "DROP OWNED BY "+quoted) // it may not exist
		if _, err := conn.Exec(context.Background(), "DROP ROLE IF EXISTS "+quoted); err != nil {
			w.tb.Errorf("dropping role %s: %v", role, err)
		}
	})
	return role
}

// as is a connection string of the primary for another role.
func (w *world) as(role string) string {
	w.tb.Helper()
	u, err := url.Parse(w.source)
	if err != nil {
		w.tb.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

// initOf is what outflow init does, with or without --apply.
func initOf(apply bool) func(context.Context, io.Writer, *config.Config, string) error {
	if apply {
		return install.Apply
	}
	return install.Print
}

// init runs outflow init with the world's configuration and returns what it prints.
func (w *world) init(role string, apply bool) string {
	w.tb.Helper()
	var out strings.Builder
	if err := initOf(apply)(w.tb.Context(), &out, w.cfg, role); err != nil {
		w.tb.Fatal(err)
	}
	return out.String()
}

// psql runs a script as a DBA pastes it: statement by statement, in a database.
func psql(t *testing.T, dsn, script string) {
	t.Helper()
	path, err := osexec.LookPath("psql")
	if err != nil {
		for _, install := range pgcluster.Installed() {
			if candidate := filepath.Join(install.Dir, "psql"); path == "" {
				if _, err := os.Stat(candidate); err == nil {
					path = candidate
				}
			}
		}
	}
	if path == "" {
		t.Skip("there is no psql")
	}
	cmd := osexec.Command(path, "-X", "-v", "ON_ERROR_STOP=1", dsn)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s\nscript:\n%s", err, out, script)
	}
}

func TestInitMakesARoleThatRuns(t *testing.T) {
	t.Parallel()
	for name, installed := range map[string]func(*testing.T, *world, string){
		"printed": func(t *testing.T, w *world, role string) { psql(t, w.source, w.init(role, false)) },
		"applied": func(_ *testing.T, w *world, role string) { w.init(role, true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, pgtest.Shared(t))
			dsn := w.destination(tenant1, "main")
			role := w.newRole()
			installed(t, w, role)
			w.cfg.Source.DSN = secret.New(w.as(role))
			w.start()
			w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
			w.exec(`UPDATE "ProjectUser" SET "totpSecret" = '\x01', "serverMetadata" =
				jsonb_build_object('big', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i))`)
			w.exec(`INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value)
				SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', true, 'ada@example.com' FROM "ProjectUser"`)
			w.synced()
			w.exec(`UPDATE "ProjectUser" SET "displayName" = 'Ada L.'`) // the metadata stays in TOAST: it is looked up
			w.synced()
			w.equal(tenant1, dsn)
			w.exec(`DELETE FROM "ProjectUser"`)
			w.synced()
			w.equal(tenant1, dsn)
			w.canOnly(role)
		})
	}
}

// A publication without column lists describes whole tables in the stream. Copies and look-ups read no more than the role may.
func TestInitsRoleAndAWiderPublication(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	role := w.newRole()
	w.init(role, true)
	w.cfg.Source.DSN = secret.New(w.as(role))
	w.start()
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	w.exec(`UPDATE "ProjectUser" SET "serverMetadata" = ` + big(1))
	w.synced()
	w.exec(`ALTER PUBLICATION outflow SET TABLE "ProjectUser", "ContactChannel", "DeletedRow"`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'Ada L.', "totpSecret" = '\x01'`) // the metadata stays in TOAST: it is looked up
	w.synced()
	w.equal(tenant1, dsn)
	state := &ledger.Store{Slot: w.cfg.Source.Slot, Connect: w.primary().Connect}
	defer state.Close()
	_, err := state.RequestResync(t.Context(), tenant1, "main", "the test", "")
	must(t, err)
	exec(t, connect(t, dsn), `DELETE FROM users`)
	waitFor(t, "the copy", func() error {
		if diff := w.diff(tenant1, dsn); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	w.waitState(tenant1, "main", "streaming")
}

// canOnly fails if the role may do what Outflow does not need.
func (w *world) canOnly(role string) {
	w.tb.Helper()
	conn := connect(w.tb, w.as(role))
	for _, forbidden := range []string{
		`SELECT "totpSecret" FROM "ProjectUser"`, `SELECT count(*) FROM "DeletedRow"`, `UPDATE "ProjectUser" SET "displayName" = ''`,
		`DELETE FROM "ContactChannel"`, `CREATE SCHEMA mine`, `CREATE TABLE outflow.mine ()`, `DELETE FROM outflow.source`,
		`ALTER PUBLICATION outflow DROP TABLE "ProjectUser"`,
	} {
		_, err := conn.Exec(w.tb.Context(), forbidden)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			w.tb.Errorf("%s: %v; expected that the right is missing", forbidden, err)
		}
	}
}

// What is printed for psql must leave the same behind as the migrations themselves.
func TestInitPrintsTheMigrations(t *testing.T) {
	t.Parallel()
	printed, migrated := newWorld(t, pgtest.Shared(t)), newWorld(t, pgtest.Shared(t))
	script, err := sql.Script(t.Context(), printed.db)
	if err != nil {
		t.Fatal(err)
	}
	printed.exec(script)
	if err := sql.Migrate(t.Context(), migrated.db.Config()); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity FROM information_schema.columns
			WHERE table_schema = 'outflow' ORDER BY 1, 2`,
		`SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'outflow'::regnamespace ORDER BY 1, 2`,
		`SELECT c.relname, d.objsubid, d.description FROM pg_description d JOIN pg_class c ON c.oid = d.objoid
			WHERE c.relnamespace = 'outflow'::regnamespace ORDER BY 1, 2`,
		`SELECT version_id, is_applied FROM outflow.migration ORDER BY id`,
	} {
		if diff := cmp.Diff(query(t, migrated.source, q), query(t, printed.source, q)); diff != "" {
			t.Errorf("%s\n(-migrated +printed):\n%s", q, diff)
		}
	}
	if rest, err := sql.Script(t.Context(), migrated.db); err != nil || rest != "" {
		t.Errorf("%v; nothing should be pending after Migrate:\n%s", err, rest)
	}
}

func TestInitAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	role := w.newRole()
	first := w.init(role, true)
	if n := strings.Count(first, "done: "); n != 5 {
		t.Errorf("the first run did %d things:\n%s", n, first)
	}
	if again := w.init(role, true); strings.Contains(again, "done: ") || strings.Count(again, "there already: ") != 6 {
		t.Errorf("the second run did something:\n%s", again)
	}
	for line := range strings.Lines(w.init(role, false)) {
		if line != "\n" && !strings.HasPrefix(line, "--") {
			t.Errorf("there is something left to do: %s", line)
		}
	}
	w.exec(`REVOKE SELECT ("displayName") ON "ProjectUser" FROM ` + pgx.Identifier{role}.Sanitize())
	w.cfg.Source.Tables[0].Columns = []string{"updatedAt"}
	want := 2
	if w.version() < 15 { // the publication has no column lists
		want = 1
	}
	if text := w.init(role, true); strings.Count(text, "done: ") != want {
		t.Errorf("a lost right and one more column in the publication are %d things to do:\n%s", want, text)
	}
}

func TestInitDoesNotHideALostSlot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	role := w.newRole()
	w.init(role, true)
	w.exec(`SELECT pg_drop_replication_slot($1)`, w.cfg.Source.Slot)
	for _, apply := range []bool{false, true} {
		err := initOf(apply)(t.Context(), &strings.Builder{}, w.cfg, role)
		if err == nil || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("apply %v: %v; expected that the slot is gone", apply, err)
		}
	}
}

func TestInitNeedsAnAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	weak, role := w.newRole(), w.newRole()
	w.exec("CREATE ROLE " + pgx.Identifier{weak}.Sanitize() + " LOGIN REPLICATION")
	w.cfg.Source.DSN = secret.New(w.as(weak))
	if text := w.init(role, false); !strings.Contains(text, "\nCREATE ROLE ") {
		t.Errorf("anybody may have the SQL printed:\n%s", text)
	}
	var problem *primary.Problem
	err := install.Apply(t.Context(), &strings.Builder{}, w.cfg, role)
	if !errors.As(err, &problem) || !strings.Contains(err.Error(), "outflow init") {
		t.Errorf("%v; expected a remedy", err)
	}
}

func TestInitWithoutLogicalWAL(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"wal_level": "replica", "fsync": "off"}})
	w := newWorld(t, cluster)
	role := w.newRole()
	if text := w.init(role, false); !strings.Contains(text, "\nALTER SYSTEM SET wal_level = logical;\n") {
		t.Errorf("wal_level is not among what is needed:\n%s", text)
	}
	err := install.Apply(t.Context(), &strings.Builder{}, w.cfg, role)
	if err == nil || !strings.Contains(err.Error(), "wal_level") {
		t.Errorf("%v; expected wal_level to be named", err)
	}
}
