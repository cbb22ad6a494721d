package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
)

// pair is a world with two tables, items and other, each with a mirror for one tenant.
type pair struct {
	*world
	dsn string
}

func newPair(t *testing.T) *pair {
	w := &pair{world: newWorld(t, pgtest.Shared(t))}
	w.cfg.Source.Tables, w.cfg.Source.Tombstones = nil, nil
	for _, name := range []string{"items", "other"} {
		w.exec(fmt.Sprintf(`CREATE TABLE %s (tenant text, id int, v text, PRIMARY KEY (tenant, id))`, name))
		w.exec(fmt.Sprintf(`INSERT INTO %s SELECT 't1', n, 'v' || n FROM generate_series(1, 5) n`, name))
		w.table(name, 1, "id int", "v text")
	}
	w.dsn = w.destination("t1", "one", "items", "other")
	return w
}

// without calls f while the configuration lacks the mapping other, and its table where that is wanted too.
func (w *pair) without(table bool, f func()) {
	w.tb.Helper()
	before := *w.cfg
	defer func() { *w.cfg = before }()
	static := w.cfg.Destinations.Static[0]
	static.Mappings = static.Mappings[:1]
	w.cfg.Destinations.Static = []config.Static{static}
	if table {
		w.cfg.Source.Tables = w.cfg.Source.Tables[:1]
	}
	f()
}

func (w *pair) equal() {
	w.tb.Helper()
	for _, table := range []string{"items", "other"} {
		waitFor(w.tb, table+" to be equal", func() error {
			want := query(w.tb, w.source, `SELECT id, v FROM `+table+` WHERE tenant = 't1' ORDER BY id`)
			got := query(w.tb, w.dsn, `SELECT id, v FROM `+table+`_copy ORDER BY id`)
			return differs(cmp.Diff(want, got))
		})
	}
}

// A mapping that a destination did not have for a time, and a table that the configuration did not have, are copied when they return.
func TestMappingsThatReturn(t *testing.T) {
	t.Parallel()
	change := func(w *pair) {
		w.exec(`DELETE FROM other WHERE id = 2; UPDATE other SET v = 'changed' WHERE id = 3; INSERT INTO other VALUES ('t1', 9, 'new')`)
		w.exec(`UPDATE items SET v = 'beside it' WHERE id = 1`)
		w.synced()
	}
	for _, table := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted table %v", table), func(t *testing.T) {
			t.Parallel()
			w := newPair(t)
			with := w.configFile()
			run := func(file string) *process {
				p := launch(t, "run", "--config", file)
				w.waitState("t1", "one", "streaming")
				w.synced()
				return p
			}
			p := run(with)
			w.equal()
			p.terminate()
			w.without(table, func() { p = run(w.configFile()) })
			change(w)
			p.terminate()
			run(with)
			w.equal()
		})
	}
	t.Run("reloaded", func(t *testing.T) {
		t.Parallel()
		w := newPair(t)
		r := w.start()
		r.caughtUp()
		w.equal()
		one := r.destination("one")
		put := func() {
			t.Helper()
			p, err := pipeline.NewPlan(t.Context(), w.db, w.cfg, primary.Check)
			must(t, err)
			targets, err := p.Destinations(t.Context(), w.db)
			if err == nil {
				err = r.Router.Put(t.Context(), targets[0])
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		w.without(false, put)
		waitFor(t, "one mapping", func() error {
			if names := one.Mappings(); len(names) != 1 {
				return fmt.Errorf("they are %v", names)
			}
			return nil
		})
		change(w)
		put()
		w.equal()
	})
}

// epochs are how often each destination was to be copied again.
func (w *world) epochs() string {
	w.tb.Helper()
	return fmt.Sprint(query(w.tb, w.source, `SELECT name, epoch FROM outflow.destination_state WHERE slot = $1 ORDER BY 1`, w.cfg.Source.Slot))
}

// Partitions that are made by CREATE TABLE ... PARTITION OF bring every row in the stream: nothing is copied, and what happens to them later
// is noticed.
func TestPartitionsMadeInPlace(t *testing.T) {
	t.Parallel()
	w := newItems(t, pgtest.Shared(t), partitioned)
	p := w.run()
	before := w.epochs()
	w.exec(`CREATE TABLE items_3 PARTITION OF items FOR VALUES FROM (100) TO (200)`)
	w.exec(`INSERT INTO items VALUES ('t1', 100, 'at once')`)
	w.exec(`BEGIN; CREATE TABLE items_4 PARTITION OF items FOR VALUES FROM (200) TO (300); INSERT INTO items VALUES ('t2', 200, 'in one transaction'); COMMIT`)
	w.exec(`CREATE TABLE items_5 PARTITION OF items FOR VALUES FROM (300) TO (400) PARTITION BY RANGE (id)`)
	w.exec(`CREATE TABLE items_5a PARTITION OF items_5 FOR VALUES FROM (300) TO (350)`)
	w.exec(`CREATE TABLE items_rest PARTITION OF items DEFAULT`)
	w.exec(`INSERT INTO items_5 VALUES ('t1', 300, 'below'); INSERT INTO items VALUES ('t1', 1000, 'rest')`)
	w.equal()
	seen := func(name string) {
		t.Helper()
		waitFor(t, "a look to see "+name, func() error {
			if query(t, w.source, `SELECT relied::text LIKE '%' || $2 || '%' FROM outflow.source WHERE slot = $1`, w.cfg.Source.Slot, name)[0] != `"t"` {
				return fmt.Errorf("it has not")
			}
			return nil
		})
	}
	seen("items_5a")
	p.terminate()
	p = w.run()
	if now := w.epochs(); now != before {
		t.Errorf("epochs were %s and are %s", before, now)
	}
	w.exec(`DROP TABLE items_3`)
	w.equal()
	w.waitState("t1", "one", "streaming")
	// A partition of one that was attached with rows, and that a look has seen, is as good.
	w.exec(`CREATE TABLE more (LIKE items INCLUDING ALL) PARTITION BY RANGE (id)`)
	w.exec(`CREATE TABLE more_1 PARTITION OF more FOR VALUES FROM (400) TO (450)`)
	w.exec(`INSERT INTO more VALUES ('t1', 400, 'attached')`)
	w.exec(`ALTER TABLE items ATTACH PARTITION more FOR VALUES FROM (400) TO (500)`)
	w.equal()
	seen("more_1")
	before = w.epochs()
	w.exec(`CREATE TABLE more_2 PARTITION OF more FOR VALUES FROM (450) TO (500)`)
	w.exec(`INSERT INTO items VALUES ('t1', 450, 'late')`)
	w.equal()
	seen("more_2")
	if now := w.epochs(); now != before {
		t.Errorf("epochs were %s and are %s", before, now)
	}
	p.terminate()
}

// A gap of a table is copied for the destinations that read the table, and for no others.
func TestGapOfATable(t *testing.T) {
	t.Parallel()
	w := newPair(t)
	dsn := w.destination("t1", "two", "items")
	launch(t, "run", "--config", w.configFile())
	w.waitState("t1", "one", "streaming")
	w.waitState("t1", "two", "streaming")
	before := w.epochs()
	w.exec(`BEGIN; ALTER PUBLICATION outflow DROP TABLE other; DELETE FROM other WHERE id = 2; ALTER PUBLICATION outflow ADD TABLE other; COMMIT`)
	w.equal()
	now := w.epochs()
	two := func(epochs string) string { _, rest, _ := strings.Cut(epochs, `"two"`); return rest }
	if two(now) != two(before) || now == before {
		t.Errorf("epochs were %s and are %s", before, now)
	}
	w.exec(`BEGIN; ALTER PUBLICATION outflow DROP TABLE items; DELETE FROM items WHERE id = 2; ALTER PUBLICATION outflow ADD TABLE items; COMMIT`)
	w.equal()
	waitFor(t, "two to be equal", func() error {
		return differs(cmp.Diff(query(t, w.source, `SELECT id, v FROM items ORDER BY 1`), query(t, dsn, `SELECT id, v FROM items_copy ORDER BY 1`)))
	})
}
