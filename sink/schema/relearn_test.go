package schema

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
	"outflow/replication/tableread"
	"outflow/sink/external"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// The catalog says which columns are gone, and which are back; a column that is neither known nor configured stays unknown.
func TestRelearn(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dsn := pgtest.Database(t, pgtest.Shared(t))
	conn, err := pgx.Connect(t.Context(), dsn)
	must(err)
	defer conn.Close(context.Background())
	on := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		must(err)
	}
	on(`CREATE TABLE item (tenant text, id integer, v text, secret text, PRIMARY KEY (tenant, id))`)
	loaded, err := primary.LoadTable(t.Context(), conn, "public", "item")
	must(err)
	loaded.Relation.Table = "goods" // as configured
	configured := loaded.Relation.Project([]string{"tenant", "id", "v"})
	server, err := primary.New(dsn)
	must(err)
	s := New(external.SourceTables{{Relation: configured, Tenant: "tenant"}}, tableread.NewTables(server), zap.NewNop())
	learns := func(want ...string) {
		t.Helper()
		now, err := s.Relearn(t.Context(), "goods")
		must(err)
		if now == nil || !slices.Equal(now.Names(), want) || now != s.Relation("goods") || now.Table != "goods" || len(now.Key) != 2 {
			t.Errorf("learnt %+v; expected %v", now, want)
		}
	}
	learns("tenant", "id", "v")
	on(`ALTER TABLE item DROP COLUMN v, ADD COLUMN w text`)
	learns("tenant", "id")
	on(`ALTER TABLE item RENAME COLUMN w TO v`)
	learns("tenant", "id", "v")
	if now, err := s.Relearn(t.Context(), "none"); now != nil || err != nil {
		t.Errorf("a table that is no source table: %v, %v", now, err)
	}
	on(`DROP TABLE item`)
	if now, err := s.Relearn(t.Context(), "goods"); now != nil || err != nil || s.Relation("goods") == nil {
		t.Errorf("a table that is gone: %v, %v", now, err)
	}
}
