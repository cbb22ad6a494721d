package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/preflight"
	"outflow/internal/secret"
	"outflow/replication/primary"
)

// findings are what outflow check has found.
type findings struct{ *preflight.Report }

// checked runs outflow check in this process.
func (w *world) checked(s pipeline.Selection) findings {
	w.tb.Helper()
	report, err := preflight.Run(w.tb.Context(), w.cfg, s)
	if err != nil {
		w.tb.Fatal(err)
	}
	return findings{report}
}

func (r findings) text() string {
	var b strings.Builder
	for _, g := range r.Groups {
		for _, f := range g.Checks {
			fmt.Fprintf(&b, "%s: %v %s: %s\n", g.Name, f.Verdict, f.Check, f.Found)
		}
	}
	return b.String()
}

// says fails unless the group has a finding with that verdict whose check, text and remedy hold those parts.
func (r findings) says(tb testing.TB, group string, verdict primary.Verdict, check, found, remedy string) {
	tb.Helper()
	for _, g := range r.Groups {
		if !strings.HasPrefix(g.Name, group) {
			continue
		}
		for _, f := range g.Checks {
			if f.Verdict == verdict && f.Check == check && strings.Contains(f.Found, found) && strings.Contains(f.Remedy, remedy) {
				return
			}
		}
	}
	tb.Errorf("%s does not say: %s %s: %s; remedy: %s", group, verdict, check, found, remedy)
}

// everything is what a database has, and the slots of its server under this world's name: what a check must not change.
func (w *world) everything(dsn string) []string {
	w.tb.Helper()
	return query(w.tb, dsn, `SELECT 'relation', oid::regclass::text, relacl::text, xmin::text FROM pg_class WHERE oid >= 16384
		UNION ALL SELECT 'schema', nspname, nspacl::text, xmin::text FROM pg_namespace
		UNION ALL SELECT 'publication', pubname, '', xmin::text FROM pg_publication
		UNION ALL SELECT 'slot', slot_name, '', '' FROM pg_replication_slots WHERE database = current_database() ORDER BY 1, 2`)
}

func TestCheckOfWhatIsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.destination(tenant2, "main")
	before, target := w.everything(w.source), w.everything(dsn)

	fresh := w.checked(pipeline.Selection{}) // with an administrator, before anything was installed
	if fresh.Failed > 0 || fresh.Skipped > 0 {
		t.Errorf("nothing should fail:\n%s", fresh.text())
	}
	fresh.says(t, "primary ", primary.Passed, fmt.Sprintf("slot %q", w.cfg.Source.Slot), "outflow run creates it", "")
	fresh.says(t, "primary ", primary.Passed, "schema outflow", "outflow run migrates it", "")
	fresh.says(t, "primary ", primary.Warning, "max_slot_wal_keep_size", "no limit", "ALTER SYSTEM SET max_slot_wal_keep_size")
	if diff := cmp.Diff(before, w.everything(w.source)); diff != "" {
		t.Errorf("the check changed the primary (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(target, w.everything(dsn)); diff != "" {
		t.Errorf("the check changed the external database (-before +after):\n%s", diff)
	}

	role := w.newRole() // with no more rights than init gives, and after a while of running
	w.init(role, true)
	w.cfg.Source.DSN = secret.New(w.as(role))
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	r := w.start()
	w.waitState(tenant1, "main", "streaming")
	w.waitState(tenant2, "main", "streaming")
	before, target = w.everything(w.source), w.everything(dsn)
	beside := w.checked(pipeline.Selection{})
	if beside.Failed > 0 || beside.Skipped > 0 {
		t.Errorf("nothing should fail beside a process that runs:\n%s", beside.text())
	}
	beside.says(t, "primary ", primary.Passed, fmt.Sprintf("slot %q", w.cfg.Source.Slot), "a process reads the slot", "")
	beside.says(t, "primary ", primary.Passed, "history", "", "")
	beside.says(t, "destination "+tenant1+"/main", primary.Passed, "mapping users", "steps prepared", "")
	beside.says(t, "destination "+tenant1+"/main", primary.Passed, "_stack_sync_metadata", "up to sequence id", "")
	if diff := cmp.Diff(before, w.everything(w.source)); diff != "" {
		t.Errorf("the check changed the primary (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(target, w.everything(dsn)); diff != "" {
		t.Errorf("the check changed the external database (-before +after):\n%s", diff)
	}
	r.end()

	file := w.configFile()
	stdout, stderr, code := outflow(t, nil, "check", "--config", file, "--tenant", strings.ToUpper(tenant1), "-o", "json")
	var parsed preflight.Report
	if err := json.Unmarshal([]byte(stdout), &parsed); err != nil || code != 0 || parsed.Result != "ok" || parsed.Passed == 0 {
		t.Errorf("exit code %d, %v, %s\n%s", code, err, stdout, stderr)
	}
	if strings.Contains(stdout, tenant2) {
		t.Errorf("--tenant does not choose:\n%s", stdout)
	}
	if _, stderr, code := outflow(t, nil, "check", "--config", file, "--name", "nobody"); code != 2 || !strings.Contains(stderr, "no such destination") {
		t.Errorf("exit code %d: %s", code, stderr)
	}

	w.exec(`SELECT pg_drop_replication_slot($1)`, w.cfg.Source.Slot)
	stdout, _, code = outflow(t, nil, "check", "--config", file)
	contains(t, stdout, "FAIL  slot", "is gone", "remedy: run: outflow run --slot-reset", "1 failed")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
}

// Everything is wrong at once, and each fault is found with its remedy.
func TestCheckFindsFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	weak, outsider := w.role("weak", ""), w.role("outsider", "")
	w.exec(`CREATE TABLE bare (tenant uuid, id int);
		CREATE TABLE loose (tenant uuid, id int PRIMARY KEY);
		CREATE TABLE secured (tenant uuid, id int, note text, PRIMARY KEY (tenant, id));
		ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
		CREATE PUBLICATION outflow FOR TABLE secured WITH (publish = 'insert')`)
	w.cfg.Source.DSN = secret.New(withUser(t, w.source, weak))
	w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: "absent", Tenant: "tenant"}, config.Table{Name: "bare", Tenant: "tenant"},
		config.Table{Name: "loose", Tenant: "tenant"}, config.Table{Name: "secured", Tenant: "tenant", Columns: []string{"nothing"}})
	w.cfg.Mappings = []string{filepath.Join(t.TempDir(), "absent.yaml")}
	w.addMapping("malformed", "name: malformed\ntarget: x\nsteps:\n  - from: secured\n    when: never\n    sql: COMMIT\n")
	w.addMapping("wrong", strings.Replace(mirror("secured", 1, "id int", "note text"), "r.note", "r.nickname", 1))
	w.addMapping("keyless", strings.Replace(strings.Split(mirror("secured", 1, "id int"), "keys:")[0], "name: secured", "name: keyless", 1))

	main := w.destination(tenant1, "mapped", "secured", "contact_channels")
	w.addDestination(tenant1, "unknown", pgtest.Database(t, w.cluster), "nonsense")
	w.addDestination("no-uuid", "main", pgtest.Database(t, w.cluster))
	w.addDestination(tenant2, "shared", main, "contact_channels")
	w.addDestination(tenant2, "missing", strings.Replace(main, pathOf(t, main), "/nowhere", 1))
	w.addDestination(tenant2, "refused", refused(t, main))
	admin := pgtest.Database(t, w.cluster)
	db := connect(t, admin)
	exec(t, db, `REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE TABLE contact_channels (id uuid PRIMARY KEY)`)
	exec(t, db, fmt.Sprintf(`REVOKE TEMP ON DATABASE %s FROM PUBLIC`, pgx.Identifier{db.Config().Database}.Sanitize()))
	w.addDestination(tenant2, "weak", withUser(t, admin, outsider), "contact_channels")
	readOnly := pgtest.Database(t, w.cluster)
	db = connect(t, readOnly)
	exec(t, db, fmt.Sprintf(`ALTER DATABASE %s SET default_transaction_read_only = on`, pgx.Identifier{db.Config().Database}.Sanitize()))
	w.addDestination(tenant3, "readonly", readOnly)
	owned := pgtest.Database(t, w.cluster)
	db = connect(t, owned)
	exec(t, db, `CREATE TABLE _stack_sync_metadata (mapping_name text PRIMARY KEY, last_synced_sequence_id bigint, updated_at timestamp,
		fingerprint text, tenant text, source text, epoch bigint, backfill jsonb, mark text);
		INSERT INTO _stack_sync_metadata VALUES ('users', 5, now(), '', 'somebody', 'else', 1)`)
	w.addDestination(tenant3, "owned", owned)
	latin := "latin_" + w.cfg.Source.Slot
	w.exec(fmt.Sprintf(`CREATE DATABASE %s ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`, latin))
	t.Cleanup(func() { _ = w.cluster.DropDatabase(t.Context(), latin) })
	w.addDestination(tenant3, "latin", strings.Replace(main, pathOf(t, main), "/"+latin, 1), "contact_channels")

	r := w.checked(pipeline.Selection{})
	all := r.text()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(all)
		}
	})
	const fail, warn, skip = primary.Failed, primary.Warning, primary.Unchecked
	for _, want := range []struct {
		group                string
		verdict              primary.Verdict
		check, found, remedy string
	}{
		{"mappings", fail, "file", "absent.yaml", "correct mappings:"},
		{"mappings", fail, "file", "malformed.yaml:5:11", "correct the mapping"},
		{"mappings", fail, "file", "malformed.yaml:6:10", "correct the mapping"},
		{"primary ", fail, "role", "may not replicate", "ALTER ROLE \"" + weak + "\" REPLICATION"},
		{"primary ", fail, "replication connection", "may not replicate", "REPLICATION"},
		{"primary ", fail, "table public.absent", "does not exist", "create it"},
		{"primary ", fail, "table public.bare", "no replica identity", "primary key"},
		{"primary ", fail, "table public.loose", "not in the replica identity", "REPLICA IDENTITY USING INDEX"},
		{"primary ", fail, "table public.secured", "row security", "BYPASSRLS"},
		{"primary ", fail, "table public.secured", `no column nothing`, "columns:"},
		{"primary ", fail, "schema outflow", "may not migrate", "outflow init --apply --role " + weak},
		{"primary ", fail, "rights", "are missing", `GRANT SELECT ("tenant", "id") ON "public"."secured"`},
		{"primary ", skip, "publication", "some tables have faults", ""},
		{"destinations", fail, "configuration", `"no-uuid"`, "correct destinations:"},
		{"destinations", fail, "configuration", `no mapping "nonsense"`, "correct destinations:"},
		{"destination " + tenant1 + "/mapped", fail, "mapping secured", "wrong.yaml:14:20: column r.nickname does not exist", "columns tenant, id;"},
		{"destination " + tenant1 + "/mapped", fail, "database", tenant2 + "/shared", "of its own"},
		{"destination " + tenant1 + "/unknown", skip, "mappings", "", ""},
		{"destination " + tenant2 + "/shared", fail, "database", tenant1 + "/mapped", "of its own"},
		{"destination " + tenant2 + "/missing", fail, "connection", "nowhere", "create the database"},
		{"destination " + tenant2 + "/refused", fail, "connection", "refused", "host, port"},
		{"destination " + tenant2 + "/weak", fail, "schema public", outsider, "GRANT USAGE, CREATE ON SCHEMA public"},
		{"destination " + tenant2 + "/weak", fail, "_stack_sync_metadata", "permission denied", "GRANT USAGE, CREATE"},
		{"destination " + tenant2 + "/weak", warn, "temporary tables", "verify", "GRANT TEMPORARY"},
		{"destination " + tenant3 + "/readonly", fail, "writable", "read only", "default_transaction_read_only"},
		{"destination " + tenant3 + "/owned", fail, "_stack_sync_metadata", `tenant "somebody"`, "a database of its own"},
		{"destination " + tenant3 + "/latin", warn, "encoding", "LATIN1", "UTF8"},
	} {
		r.says(t, want.group, want.verdict, want.check, want.found, want.remedy)
	}
	for _, g := range r.Groups {
		for _, f := range g.Checks {
			if (f.Verdict == fail || f.Verdict == warn) && f.Remedy == "" {
				t.Errorf("%s: %s: %s has no remedy", g.Name, f.Check, f.Found)
			}
		}
	}
	if rows := query(t, main, `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace`); len(rows) > 0 {
		t.Errorf("the check left %s", rows)
	}

	// The rest, of a publication that all tables would fit in.
	w.cfg.Source.DSN, w.cfg.Source.Tombstones = secret.New(w.source), nil
	w.cfg.Source.Tables, w.cfg.Destinations.Static, w.cfg.Mappings = w.cfg.Source.Tables[5:6], w.cfg.Destinations.Static[:1], w.cfg.Mappings[3:4]
	w.cfg.Source.Tables[0].Columns = nil
	w.cfg.Destinations.Static[0].Mappings = []string{"keyless"}
	r = w.checked(pipeline.Selection{})
	r.says(t, "primary ", fail, `publication "outflow"`, "all kinds of changes", "SET (publish =")
	r.says(t, "destination "+tenant1+"/mapped", warn, "keys of secured", "TRUNCATE", "add keys:")
}

// A table that cannot be read hides no fault of a tenant's mapping over another table.
func TestCheckOfMappingsBesideATableThatIsAbsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, secret text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "secret text") // the operator's own mapping has the secret, so it is published
	w.cfg.Source.Tables[len(w.cfg.Source.Tables)-1].Columns = []string{"note"}
	w.cfg.Source.Tables = slices.Insert(w.cfg.Source.Tables, 0, config.Table{Name: "absent", Tenant: "tenant"})
	w.cfg.Destinations.Query = fmt.Sprintf(`SELECT '%s' AS tenant_id, 'own' AS name, '%s' AS dsn, ARRAY[$m$%s$m$] AS definitions`, tenant1,
		pgtest.Database(t, w.cluster), mirror("item", 1, "id int", "secret text"))
	w.checked(pipeline.Selection{}).says(t, "destination "+tenant1+"/own", primary.Failed, "mapping item", "r.secret does not exist", "")
}

func TestCheckOfServers(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"wal_level": "replica", "fsync": "off", "max_replication_slots": "1", "max_wal_senders": "1"}})
	w := newWorld(t, cluster)
	w.destination(tenant1, "main")
	w.exec(`SELECT pg_create_physical_replication_slot('taken')`)
	r := w.checked(pipeline.Selection{})
	r.says(t, "primary ", primary.Failed, "wal_level", `"replica"`, "ALTER SYSTEM SET wal_level = logical")
	r.says(t, "primary ", primary.Failed, "max_replication_slots", "all 1 are in use", "raise max_replication_slots")
	r.says(t, "primary ", primary.Warning, "max_wal_senders", "no room for a standby process", "raise max_wal_senders")

	// The primary is away: what can be found out without it is found out.
	w.cfg.Source.DSN = secret.New(refused(t, w.source))
	r = w.checked(pipeline.Selection{})
	r.says(t, "primary ", primary.Failed, "connection", "refused", "host and port in source.dsn")
	r.says(t, "destination "+tenant1+"/main", primary.Passed, "connection", "PostgreSQL", "")
	r.says(t, "destination "+tenant1+"/main", primary.Unchecked, "mappings", "", "")
}

// refused is a connection string to a port where nobody listens.
func refused(t *testing.T, dsn string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	return u.String()
}

func pathOf(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}
