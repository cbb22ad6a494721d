package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// TestNothingIsGivenAway has a process fail in all ways that could show a password or a row's value, and looks for them in all that it
// says: log, metrics, API, dashboard, and its notes on the primary.
func TestNothingIsGivenAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w.cfg.Admin.Listen = l.Addr().String()
	must(t, l.Close())
	withPassword := func(dsn, password string) string {
		return strings.Replace(dsn, "postgres@", "postgres:"+password+"@", 1)
	}
	w.cfg.Source.DSN = secret.New(withPassword(w.source, "canary-source"))
	static := w.destination(tenant1, "static")
	w.cfg.Destinations.Static[0].DSN = secret.New(withPassword(static, "canary-static"))
	w.addDestination(tenant1, "static-dead", "postgres://u:canary-dead@127.0.0.1:1/db")
	p := launch(t, "run", "--config", w.configFile(), "--set", "log.level=debug", "--set", "admin.tenant_metrics=true", "--set", "sink.retry_max=300ms",
		"--set", "tracing.endpoint=http://u:canary-collector@127.0.0.1:1/v1/traces?key=canary-key", "--set", "tracing.sample=1")
	p.says(`"streaming"`)

	mine := func(name, schema, value string) string {
		return fmt.Sprintf("name: %s\ntarget: t\nschema: %q\nsteps:\n  - from: ProjectUser\n    when: upsert\n    sql: INSERT INTO t SELECT %s FROM \"ProjectUser\" r\n", name, schema, value)
	}
	raising := func(statement string) string {
		return "CREATE TABLE IF NOT EXISTS t (n text); CREATE OR REPLACE FUNCTION raising() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + statement +
			"; RETURN NEW; END $$; DROP TRIGGER IF EXISTS raising ON t; CREATE TRIGGER raising BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION raising()"
	}
	for name, definition := range map[string]string{
		"cast":      mine("cast", "CREATE TABLE IF NOT EXISTS t (n int)", `r."displayName"::int`),
		"date":      mine("date", "CREATE TABLE IF NOT EXISTS t (n date)", `r."displayName"::date`),
		"json":      mine("json", "CREATE TABLE IF NOT EXISTS t (n jsonb)", `r."displayName"::jsonb`),
		"long":      mine("long", "CREATE TABLE IF NOT EXISTS t (n varchar(3))", `r."displayName"`),
		"check":     mine("check", "CREATE TABLE IF NOT EXISTS t (n text CHECK (length(n) < 3))", `r."displayName"`),
		"unique":    mine("unique", "CREATE TABLE IF NOT EXISTS t (n text UNIQUE)", `r."displayName"`),
		"null":      mine("null", "CREATE TABLE IF NOT EXISTS t (n text, m int NOT NULL)", `r."displayName"`),
		"regclass":  mine("regclass", "CREATE TABLE IF NOT EXISTS t (n text)", `r."displayName"::regclass::text`),
		"regtype":   mine("regtype", "CREATE TABLE IF NOT EXISTS t (n text)", `r."displayName"::regtype::text`),
		"tsquery":   mine("tsquery", "CREATE TABLE IF NOT EXISTS t (n tsquery)", `(r."displayName" || ' |& ')::tsquery`),
		"sequence":  mine("sequence", "CREATE TABLE IF NOT EXISTS t (n bigint)", `nextval(r."displayName")`),
		"dynamic":   mine("dynamic", raising(`EXECUTE 'SELECT ' || NEW.n`), `r."displayName"`),
		"create":    mine("create", raising(`EXECUTE format('CREATE TABLE %I (); CREATE TABLE %1$I ()', NEW.n)`), `r."displayName"`),
		"raise":     mine("raise", raising(`RAISE 'no %', NEW.n USING DETAIL = NEW.n, HINT = NEW.n, CONSTRAINT = NEW.n, COLUMN = NEW.n, TABLE = NEW.n`), `r."displayName"`),
		"undefined": mine("undefined", raising(`RAISE undefined_table USING MESSAGE = 'relation "' || NEW.n || '" does not exist', HINT = NEW.n`), `r."displayName"`),
		"timeout":   mine("timeout", raising(`RAISE insufficient_privilege USING MESSAGE = repeat(NEW.n, 100000), DETAIL = NEW.n`), `r."displayName"`),
		"deferred":  mine("deferred", strings.Replace(raising(`RAISE check_violation USING MESSAGE = NEW.n`), "CREATE TRIGGER raising BEFORE INSERT ON t", "CREATE CONSTRAINT TRIGGER raising AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED", 1), `r."displayName"`),
		"plain":     mine("plain", "CREATE TABLE IF NOT EXISTS t (n text)", `r."displayName"`),
	} {
		w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, definitions) VALUES ($1, $2, $3, ARRAY[$4])`, tenant1, name,
			withPassword(pgtest.Database(t, w.cluster), "canary-tenant"), definition)
	}
	w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn) VALUES ($1, 'dead', 'postgres://u:canary-dead@127.0.0.1:1/db?sslmode=disable'),
		($1, 'wrong', 'postgres://u:canary-wrong@h/db?canary-key=1'), ($1, 'worse', 'postgres://u:canary-worse@[h/db')`, tenant1)
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "canary-row")
	w.user(tenant1, "00000000-0000-4000-8000-000000000002", `a"canary-row'b "c" canary-row`)
	w.user(tenant1, "00000000-0000-4000-8000-000000000003", "canary-row")
	halted := []string{"unique", "cast", "date", "json", "long", "check", "null", "wrong", "worse", "regclass", "regtype", "tsquery", "sequence", "dynamic", "create", "raise", "undefined",
		"timeout", "deferred"}
	for _, name := range halted {
		waitFor(t, name+" to halt", func() error {
			if s := w.state(tenant1, name); s != "halted" {
				return fmt.Errorf("it is %s", s)
			}
			return nil
		})
	}
	s := &site{running: &running{tb: t}, url: "http://" + w.cfg.Admin.Listen}
	waitFor(t, "the errors to be sampled", func() error {
		if text := s.get("/api/errors"); strings.Count(text, `"sqlstate"`) < 3 {
			return fmt.Errorf("%.200s", text)
		}
		return nil
	})
	said := map[string]string{"the log": p.out.String(),
		"the primary's notes": strings.Join(query(t, w.source, `SELECT d::text FROM outflow.destination_state d`), "\n")}
	paths := []string{"/metrics", "/api/status", "/api/destinations", "/api/tables", "/api/errors", "/api/switches", "/", "/tables", "/switches", "/configuration", "/readyz"}
	for _, name := range append(halted, "static", "static-dead", "dead", "plain") {
		paths = append(paths, "/api/destinations/"+tenant1+"/"+name, "/destinations/"+tenant1+"/"+name)
	}
	for _, path := range paths {
		said[path] = s.get(path)
		if len(said[path]) < 20 && path != "/readyz" {
			t.Errorf("%s says only %q", path, said[path])
		}
	}
	p.terminate()
	contains(t, p.out.String(), "traces are lost")
	said["config print"] = exits(t, 0, "config", "print", "--config", w.configFile(), "--set", "tracing.endpoint=http://u:canary-collector@127.0.0.1:1/v1/traces?key=canary-key")
	said["a wrong endpoint"] = exits(t, 2, "config", "print", "--config", w.configFile(), "--set", "tracing.endpoint=ftp://u:canary-collector@127.0.0.1:1")
	said["a setting without a value"] = exits(t, 2, "config", "print", "--set", "postgres://u:canary/source@h/db")
	said["the log to its end"] = p.out.String()
	for where, text := range said {
		if i := strings.Index(text, "canary"); i >= 0 {
			t.Errorf("%s has a secret: ...%s...", where, text[max(0, i-200):min(len(text), i+50)])
		}
	}
	contains(t, said["/api/destinations"], "22P02", "23514", "22001")
	same(t, static, `SELECT count(*) FROM users WHERE display_name LIKE '%canary-row%'`, `"3"`)
}
