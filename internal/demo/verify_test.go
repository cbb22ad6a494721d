package demo

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
	"outflow/testdata"
)

const tenantOne = "11111111-1111-4111-8111-111111111111"

// The comparison must see what is missing, too much, and different.
func TestDemoSeesDifferences(t *testing.T) {
	c := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	s := servers{primary: c, external: c}
	var err error
	if s.source, err = s.create(t.Context(), c, "outflow_demo"); err == nil {
		err = c.Exec(t.Context(), "outflow_demo", testdata.Schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	dsn, err := s.create(t.Context(), c, "outflow_demo_one")
	if err != nil {
		t.Fatal(err)
	}
	s.tenants = []tenant{{id: tenantOne, name: "one", dsn: dsn}}
	var out strings.Builder
	d := &demonstration{out: &out, servers: s}
	if d.pipeline, d.front, err = s.openPipeline(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	run := func(database, sql string) {
		t.Helper()
		if err := c.Exec(t.Context(), database, sql); err != nil {
			t.Fatal(err)
		}
	}
	users := func(tenant string, names ...string) {
		t.Helper()
		for _, name := range names {
			run("outflow_demo", fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ('%s', gen_random_uuid(), '%s')`, tenant, name))
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- d.pipeline.Run(ctx) }()
	for tick := time.Tick(10 * time.Millisecond); d.pipeline.Router.Destinations()[0].Status().State != ledger.Streaming; { // a copy would undo what is written below
		<-tick
	}
	users(tenantOne, "Ada", "Blaise")
	users("22222222-2222-4222-8222-222222222222", "of another tenant")
	if err := d.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.verify(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	run("outflow_demo_one", `UPDATE users SET display_name = 'Ida' WHERE display_name = 'Ada'`)
	run("outflow_demo_one", `INSERT INTO contact_channels (id, user_id, type, value, created_at) VALUES (gen_random_uuid(), gen_random_uuid(), 'EMAIL', 'x@example.com', now())`)
	run("outflow_demo_one", `DELETE FROM users WHERE display_name = 'Blaise'`)
	out.Reset()
	if err := d.verify(t.Context()); err == nil || !strings.Contains(err.Error(), "4 rows differ") {
		t.Errorf("%v; expected 4 differences\n%s", err, out.String())
	}
	for _, want := range []string{`only in the external database: {"id"`, "Ida", `only on the primary: {"id"`, "Blaise"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What cannot begin is removed, and its reason is told.
func TestDemoPipelineFails(t *testing.T) {
	c := pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})
	s := &servers{primary: c, external: c}
	dsn, err := s.create(t.Context(), c, "outflow_demo")
	if err != nil {
		t.Fatal(err)
	}
	s.source, s.tenants = dsn, []tenant{{id: tenantOne, name: "one", dsn: dsn}}
	if _, _, err := s.openPipeline(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v; expected the missing tables to be named", err)
	}
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
}
