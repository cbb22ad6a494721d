package e2e

import (
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

// With on_error: quarantine a row that the external database refuses is set aside, and everything else goes on: in the
// middle of a transaction of the stream, and in the middle of a copy.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.cfg.Sink.OnError = "quarantine"
	dsn := w.destination(tenant1, "main", "ledger")
	db := connect(t, dsn)
	exec(t, db, `CREATE TABLE counter (id int PRIMARY KEY, version int NOT NULL CHECK (version <> 13))`)
	w.exec(`INSERT INTO "Counter" SELECT $1, n, n FROM generate_series(1, 40) n`, tenant1)
	r := w.start()
	r.caughtUp()
	check := func(rows ...string) {
		t.Helper()
		w.synced()
		same(t, dsn, `SELECT source_table, operation, "row"->>'id', "row"->>'version', sqlstate, message ~ 'counter_version_check' AND message !~ 'Failing row'
			FROM _stack_sync_quarantine ORDER BY id`, rows...)
		want := query(t, w.source, `SELECT id, version FROM "Counter" WHERE version <> 13 AND "tenancyId" = $1 ORDER BY id`, tenant1)
		same(t, dsn, `SELECT id, version FROM counter WHERE version <> 13 AND id <> 5 ORDER BY id`, strings.Split(strings.Join(without(want, `"5"|`), "\n"), "\n")...)
	}
	copied := `"Counter"|"upsert"|"13"|"13"|"23514"|"t"`
	check(copied)
	w.exec(`UPDATE "Counter" SET version = CASE id WHEN 5 THEN 13 ELSE version + 100 END WHERE id <> 13`)
	check(copied, `"Counter"|"update"|"5"|"13"|"23514"|"t"`)
	if s := r.Router.Destinations()[0].Status(); s.Err != nil {
		t.Errorf("it is %s with %v", s.State, s.Err)
	}
}

func without(lines []string, prefix string) []string {
	var rest []string
	for _, l := range lines {
		if !strings.HasPrefix(l, prefix) {
			rest = append(rest, l)
		}
	}
	return rest
}
