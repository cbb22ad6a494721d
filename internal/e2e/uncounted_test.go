package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/replication"
	"outflow/replication/wal"
)

// Whoever may connect to the primary may write logical messages of any size. They do not reach Outflow's memory, and the stream goes on.
func TestLogicalMessagesOfOthers(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	p := launch(t, "run", "--config", w.configFile(), "--set", "sink.memory_bytes=64MiB")
	w.noted(tenant1, "main", "streaming")
	for i := range 2 {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		w.exec(`BEGIN`)
		w.exec(`SELECT pg_logical_emit_message($1, 'another', repeat('x', 60000000))`, i == 0)
		w.user(tenant1, id, "x")
		w.exec(`COMMIT`)
	}
	w.synced()
	w.equal(tenant1, dsn)
	p.within("messages of 60 MB", 80)
}

// A publication without column lists sends columns that nobody reads. Queued rows do not keep the values.
func TestUnreadColumnsTakeNoMemory(t *testing.T) {
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, unread text, PRIMARY KEY (tenant, id)); ALTER TABLE item ALTER unread SET STORAGE EXTERNAL`)
	w.table("item", 1, "id int", "note text")
	dsn := w.destination(tenant1, "main", "item")
	p := launch(t, "run", "--config", w.configFile(), "--set", "sink.memory_bytes=64MiB")
	w.noted(tenant1, "main", "streaming")
	w.exec(`ALTER PUBLICATION outflow SET TABLE item`)
	w.exec(`INSERT INTO item SELECT $1, n, 'x', repeat('x', 100000) FROM generate_series(1, 1000) n`, tenant1)
	w.synced()
	waitFor(t, "the rows", func() error {
		if got := query(t, dsn, `SELECT count(*) FROM item_copy`)[0]; got != `"1000"` {
			return errors.New(got)
		}
		return nil
	})
	p.within("100 MB of a column that nobody reads", 90)
}

// recorder notes the relations of the changes.
type recorder struct {
	replication.Sink
	mu   sync.Mutex
	seen map[*wal.Relation]bool
}

func (r *recorder) Write(part *wal.Transaction) error {
	r.mu.Lock()
	for i := range part.Changes {
		r.seen[part.Changes[i].Relation] = true
	}
	r.mu.Unlock()
	return r.Sink.Write(part)
}

// The primary describes a table again after each ANALYZE. The description stays one in memory, whatever the replica identity: statements and
// routes are kept by it.
func TestRelationsDescribedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id)); ALTER TABLE item REPLICA IDENTITY FULL`)
	w.table("item", 1, "id int", "note text")
	dsn := w.destination(tenant1, "main", "item")
	rec := &recorder{seen: map[*wal.Relation]bool{}}
	r := w.startWith(func(pl *pipeline.Pipeline) { rec.Sink, pl.Reader.Sink = pl.Reader.Sink, rec })
	r.caughtUp()
	for n := range 10 {
		w.exec(`INSERT INTO item VALUES ($1, $2, 'x')`, tenant1, n)
		w.exec(`ANALYZE item`)
	}
	w.synced()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.seen) != 1 {
		t.Errorf("one table came as %d", len(rec.seen))
	}
	w.mirrored(tenant1, dsn, "item", "id, note")
}

// The primary describes each partition that a transaction writes to. The reader asks the catalog for the root alone.
func TestDescriptionsOfPartitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	const partitions = 150
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id)) PARTITION BY RANGE (id)`)
	w.exec(fmt.Sprintf(`DO $$ BEGIN FOR n IN 0..%d LOOP EXECUTE format('CREATE TABLE item_%%s PARTITION OF item FOR VALUES FROM (%%s) TO (%%s)', n, n, n+1); END LOOP; END $$`, partitions-1))
	w.table("item", 1, "id int", "note text")
	dsn := w.destination(tenant1, "main", "item")
	r := w.start()
	r.caughtUp()
	sessions := func() (n int) {
		w.exec(`SELECT pg_stat_clear_snapshot()`)
		must(t, w.db.QueryRow(t.Context(), `SELECT sessions FROM pg_stat_database WHERE datname = current_database()`).Scan(&n))
		return n
	}
	before := sessions()
	w.exec(`INSERT INTO item SELECT $1, n, 'x' FROM generate_series(0, $2::int) n`, tenant1, partitions-1)
	w.synced()
	r.end() // sessions count when they end
	if n := sessions() - before; n > partitions/2 {
		t.Errorf("%d partitions take %d connections", partitions, n)
	}
	w.mirrored(tenant1, dsn, "item", "id, note")
}
