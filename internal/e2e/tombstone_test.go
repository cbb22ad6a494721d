package e2e

import (
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// A trigger may write a tombstone after the statement wrote the key again: that row stays, in a batch, in a transaction of many
// rounds, and change by change.
func TestTombstoneBehindTheNewRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Sink.BatchRows = 100
	w.exec(`CREATE TABLE item (tenant uuid, id int, at timestamptz, note text, PRIMARY KEY (tenant, id, at));
		CREATE FUNCTION bury() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey") VALUES (OLD.tenant, 'item', to_jsonb(OLD) - 'note'); RETURN NULL; END $$;
		CREATE TRIGGER bury AFTER DELETE ON item FOR EACH ROW EXECUTE FUNCTION bury()`)
	dsn := w.items(`CREATE TABLE item_copy (id int, at timestamptz, note text CHECK (note <> 'bad'), PRIMARY KEY (id, at))`, "id int", "at timestamptz", "note text")
	w.cfg.Mappings = nil
	w.mapping("item", mirror("item", 2, "id int", "at timestamptz", "note text"))
	w.cfg.Sink.OnError = "quarantine"
	r := w.start()
	r.caughtUp()
	again := func(from, to int, note string) {
		t.Helper()
		w.exec(`WITH d AS (DELETE FROM item WHERE id BETWEEN $1 AND $2 RETURNING tenant, id, at)
			INSERT INTO item SELECT tenant, id, at, $3 FROM d`, from, to, note)
		w.synced()
		same(t, dsn, `SELECT count(*) FROM item_copy`, query(t, w.source, `SELECT count(*) FROM item WHERE note <> 'bad'`)...)
	}
	w.exec(`INSERT INTO item SELECT $1, n, '2026-01-01 12:00+00', 'first' FROM generate_series(1, 1000) n`, tenant1)
	w.synced()
	again(1, 10, "second")
	again(1, 900, "many rounds")
	w.exec(`BEGIN; WITH d AS (DELETE FROM item WHERE id BETWEEN 1 AND 20 RETURNING tenant, id, at) INSERT INTO item SELECT tenant, id, at, 'third' FROM d;
		INSERT INTO item VALUES ('` + tenant1 + `', 2000, '2026-01-01', 'bad'); COMMIT`) // change by change
	w.synced()
	same(t, dsn, `SELECT note, count(*) FROM item_copy GROUP BY 1 ORDER BY 1`, `"first"|"100"`, `"many rounds"|"880"`, `"third"|"20"`)
	w.exec(`DELETE FROM item WHERE id BETWEEN 11 AND 800`) // and what is gone is gone
	w.synced()
	same(t, dsn, `SELECT count(*) FROM item_copy`, `"210"`)

	// Tombstones that name nothing are counted.
	w.exec(`INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey") VALUES ($1, 'item', '[1]'), ($1, 'item', '{"id": 901}'), ($1, 'unknown', '{"id": 1}')`, tenant1)
	w.exec(`INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey") VALUES ($1, 'item', jsonb_build_object('tenant', $2::text, 'id', 901, 'at', '2026-01-01 12:00+00'))`, tenant1, tenant2)
	w.synced()
	same(t, dsn, `SELECT count(*) FROM item_copy`, `"210"`)
	tables := r.Router.TableStatus()
	if last := tables[len(tables)-1]; last.Table != "public.DeletedRow" || last.Skipped != 4 {
		t.Errorf("of tombstones: %+v", last)
	}
	if s := r.destination("main").Status(); s.State != ledger.Streaming || s.Failures > 0 {
		t.Errorf("it is %s after %d failures: %v", s.State, s.Failures, s.Err)
	}
}
