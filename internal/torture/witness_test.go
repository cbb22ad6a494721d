package torture

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
)

// The harness sees the faults it is there for: a transaction applied twice, a version going back, and states of no moment.
func TestWitnessSeesFaults(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, pgtest.Shared(t))
	db, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer db.Close(t.Context())
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`CREATE TABLE _stack_sync_metadata (mapping_name text, backfill jsonb, epoch bigint);
		CREATE TABLE users (id uuid, server_metadata jsonb, primary_email text); CREATE TABLE contact_channels (id uuid, user_id uuid, is_primary boolean, value text)`)
	for _, table := range tables {
		exec(table.schema())
	}
	for _, name := range mappingNames() {
		exec(`INSERT INTO _stack_sync_metadata VALUES ('` + name + `', NULL, 1)`)
	}
	exec(`INSERT INTO accounts SELECT n, 1000, 1 FROM generate_series(1, 12) n; INSERT INTO ledger VALUES (1, 1); INSERT INTO clock VALUES (1, 1); INSERT INTO items VALUES (1, 'n', 'p', 5)`)
	for _, c := range []struct{ what, sql, sees string }{
		{"nothing", ``, ""},
		{"a transaction applied twice, without an effect", `INSERT INTO ledger VALUES (1, 1) ON CONFLICT DO NOTHING`, "applied twice"},
		{"a transaction that a copy brings again", `UPDATE _stack_sync_metadata SET backfill = '{}'; INSERT INTO ledger VALUES (1, 1) ON CONFLICT DO NOTHING;
			UPDATE _stack_sync_metadata SET backfill = NULL`, ""},
		{"an older version", `UPDATE items SET version = 4`, "goes back"},
		{"an older version after a delete", `DELETE FROM items; INSERT INTO items VALUES (1, 'n', 'p', 4)`, "goes back"},
		{"half of a transfer", `UPDATE accounts SET balance = 900, version = 2 WHERE id = 1`, "add up to 11900"},
		{"a gap", `INSERT INTO ledger VALUES (1, 3); UPDATE clock SET number = 3`, "2 transactions, the last one is 3"},
		{"a transaction in part", `INSERT INTO ledger VALUES (1, 2)`, "the clock shows 1"},
		{"a user without channels", `INSERT INTO users VALUES (gen_random_uuid(), '{"channels": 2}', NULL)`, "counts 2 channels and has 0"},
		{"a channel without a user", `INSERT INTO contact_channels VALUES (gen_random_uuid(), gen_random_uuid(), true, 'x')`, "has no user"},
	} {
		exec(`BEGIN`)
		exec(c.sql)
		tx, err := db.Begin(t.Context()) // a savepoint
		must(t, err)
		var seen []string
		for _, sql := range []string{`SELECT what FROM broken`, momentSQL} {
			found, err := lines(t.Context(), tx, sql)
			must(t, err)
			seen = append(seen, found...)
		}
		if c.sees == "" && len(seen) > 0 || c.sees != "" && !slices.ContainsFunc(seen, func(s string) bool { return strings.Contains(s, c.sees) }) {
			t.Errorf("%s: the harness sees %q, want %q", c.what, seen, c.sees)
		}
		exec(`ROLLBACK`)
	}
}
