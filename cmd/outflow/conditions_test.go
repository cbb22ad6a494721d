package main

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/pgcluster/pgtest"
)

// newItems is a world with one table, items, and a mirror of it for two tenants.
func newItems(t *testing.T) (w *world, one, two string) {
	t.Helper()
	w = newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE items (tenant text, id int, v text, PRIMARY KEY (tenant, id));
		INSERT INTO items SELECT t, n, 'v' || n FROM generate_series(1, 5) n, unnest(ARRAY['t1', 't2']) t`)
	w.cfg.Source.Tables, w.cfg.Source.Tombstones = nil, nil
	w.table("items", 1, "id int", "v text")
	return w, w.destination("t1", "one", "items"), w.destination("t2", "two", "items")
}

// itemsEqual waits until both external databases have what the primary has in items.
func (w *world) itemsEqual(one, two string) {
	w.tb.Helper()
	for tenant, dsn := range map[string]string{"t1": one, "t2": two} {
		waitFor(w.tb, "items of "+tenant+" to be equal", func() error {
			want := query(w.tb, w.source, `SELECT id, v FROM items WHERE tenant = $1 ORDER BY id`, tenant)
			got := query(w.tb, dsn, `SELECT id, v FROM items_copy ORDER BY id`)
			if diff := cmp.Diff(want, got); diff != "" {
				return fmt.Errorf("(-primary +external):\n%.2000s", diff)
			}
			return nil
		})
	}
}

// A table is its OID: the rows of a transaction that renames it for a moment are its rows.
func TestTableRenamedInATransaction(t *testing.T) {
	t.Parallel()
	w, one, two := newItems(t)
	r := w.start()
	r.caughtUp()
	w.exec(`BEGIN; ALTER TABLE items RENAME TO t2; INSERT INTO t2 VALUES ('t1', 6, 'renamed');
		ALTER TABLE t2 RENAME TO items; UPDATE items SET v = v || '!' WHERE id = 1; COMMIT`)
	w.itemsEqual(one, two)
	w.exec(`BEGIN; CREATE SCHEMA elsewhere; ALTER TABLE items SET SCHEMA elsewhere; DELETE FROM elsewhere.items WHERE id = 2;
		ALTER TABLE elsewhere.items SET SCHEMA public; COMMIT`)
	w.itemsEqual(one, two)
	w.synced()
}
