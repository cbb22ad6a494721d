package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/sink/ledger"
)

// TestRowsOfOtherTenantsStayAway puts a TRUNCATE and rows of several tenants into one transaction. Destinations share the slice of a
// part's changes: a destination that appended into the slice's spare capacity would write over the changes of the next tenant.
func TestRowsOfOtherTenantsStayAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE a (tenant uuid, id int, v text, PRIMARY KEY (tenant, id))`)
	w.table("a", 1, "id int", "v text")
	dsns := map[string][]string{}
	for _, tenant := range []string{tenant1, tenant2} {
		for n := range 2 { // two databases of one tenant share a slice too
			dsns[tenant] = append(dsns[tenant], w.destination(tenant, fmt.Sprintf("db%d", n), "a"))
		}
	}
	w.start()
	check := func() {
		t.Helper()
		w.synced()
		for tenant, all := range dsns {
			for _, dsn := range all {
				w.mirrored(tenant, dsn, "a", "id, v")
			}
		}
	}
	check()
	run := func(sql string) {
		t.Helper()
		w.exec(strings.NewReplacer("'t1'", "'"+tenant1+"'", "'t2'", "'"+tenant2+"'").Replace(sql))
	}
	run(`TRUNCATE a; INSERT INTO a VALUES ('t1', 5, 'x'), ('t2', 6, 'x'), ('t1', 7, 'x'), ('t2', 8, 'x')`)
	check()
	run(`INSERT INTO a VALUES ('t2', 9, 'x'), ('t1', 10, 'x'); TRUNCATE a; INSERT INTO a VALUES ('t2', 11, 'x'), ('t1', 12, 'x'); TRUNCATE a;
		INSERT INTO a VALUES ('t1', 13, 'x'), ('t1', 14, 'x'), ('t2', 15, 'x'); UPDATE a SET tenant = 't2' WHERE id = 13;
		UPDATE a SET v = 'y' WHERE tenant = 't2'; UPDATE a SET tenant = 't1' WHERE id = 15`)
	check()
	// More than one part (2,000 changes), so that every destination appends to what it has.
	run(`INSERT INTO a SELECT CASE WHEN n % 3 = 0 THEN 't2' ELSE 't1' END::uuid, n, 'x' FROM generate_series(100, 9000) n;
		UPDATE a SET v = 'z' WHERE id % 2 = 0; DELETE FROM a WHERE id % 5 = 0`)
	check()
}

// TestLyingRouter has a router whose index of tenants is wrong. The destination refuses the rows, halts, and counts the rows.
func TestLyingRouter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE a (tenant uuid, id int, v text, PRIMARY KEY (tenant, id))`)
	w.table("a", 1, "id int", "v text")
	dsn := w.destination(tenant1, "lied to", "a")
	core, logged := observer.New(zap.ErrorLevel)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pl, err := pipeline.Open(ctx, w.cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	d := pl.Router.Destinations()[0]
	d.Tenant = tenant2 // the router goes on giving the destination what is tenant1's
	done := make(chan error, 1)
	go func() { done <- pl.Run(ctx) }()
	waitFor(t, "the table", func() error {
		if query(t, dsn, `SELECT to_regclass('a_copy')`)[0] == "NULL" {
			return errors.New("there is none")
		}
		return nil
	})
	w.exec(`INSERT INTO a VALUES ('` + tenant1 + `', 1, 'secret')`)
	reason := becomes(t, d, ledger.Halted)
	contains(t, reason, "1 rows of a", "refused")
	if n := pl.Router.ForeignRows(); n < 1 {
		t.Errorf("%d rows of other tenants were counted", n)
	}
	if logged.FilterMessageSnippet("another tenant").Len() == 0 {
		t.Errorf("the log has no error: %v", logged.All())
	}
	same(t, dsn, `SELECT * FROM a_copy`)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
