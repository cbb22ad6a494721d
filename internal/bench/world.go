package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/pgcluster"
)

const (
	tenant = "b0000000-0000-4000-8000-000000000000"
	// markerID is the row written after a backlog: a reader of the row has seen everything before the row. Later markers
	// follow the first.
	markerID = 1_000_000_000
	// cleanup bounds the clean-up after a measurement ended, or was interrupted.
	cleanup = 30 * time.Second
)

// tableSQL is the table on both sides, of about 420 bytes a row.
const tableSQL = `CREATE TABLE IF NOT EXISTS item (
	tenant uuid NOT NULL, id bigint NOT NULL, ref uuid NOT NULL, name text NOT NULL, email text NOT NULL, note text NOT NULL,
	active boolean NOT NULL, score integer NOT NULL, data jsonb NOT NULL, created_at timestamp(3) NOT NULL,
	updated_at timestamptz NOT NULL, PRIMARY KEY (tenant, id))`

// rowsSQL makes rows out of their ids, the same rows in every run and on both servers. STABLE lets the planner inline the
// function.
const rowsSQL = `CREATE FUNCTION bench_rows(low bigint, high bigint) RETURNS SETOF item LANGUAGE sql STABLE AS $$
	SELECT '` + tenant + `'::uuid, i, md5(i::text)::uuid, 'user number ' || i, 'user' || i || '@example.com',
		repeat(md5((i + 1)::text), 4), i % 3 = 0, (i % 1000)::int,
		jsonb_build_object('plan', 'team', 'seats', i % 50, 'hash', md5((i + 2)::text), 'tags', jsonb_build_array('a', 'b', i)),
		timestamp '2026-01-01' + i * interval '1 second', timestamptz '2026-01-01 00:00:00Z' + i * interval '1 second'
	FROM generate_series(low, high) AS i $$`

// writersSQL write a backlog in transactions of a given size.
const writersSQL = `
CREATE PROCEDURE bench_insert(n bigint, batch bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR low IN 1..n BY batch LOOP
		INSERT INTO item SELECT * FROM bench_rows(low, least(low + batch - 1, n));
		COMMIT;
	END LOOP;
END $$;
CREATE PROCEDURE bench_update(n bigint, batch bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR low IN 1..n BY batch LOOP
		UPDATE item SET name = 'new ' || name, score = score + 1, updated_at = updated_at + interval '1 day'
		WHERE tenant = '` + tenant + `' AND id BETWEEN low AND least(low + batch - 1, n);
		COMMIT;
	END LOOP;
END $$`

// mappingYAML does the work of a subscription: the same columns into a table of the same shape.
const mappingYAML = `name: item
target: item
schema: |
  ` + "%s" + `
steps:
  - from: item
    when: delete
    sql: DELETE FROM item t USING "item" c WHERE t.tenant = c.tenant AND t.id = c.id
  - from: item
    when: upsert
    sql: |
      INSERT INTO public.item (tenant, id, ref, name, email, note, active, score, data, created_at, updated_at)
      SELECT c.tenant, c.id, c.ref, c.name, c.email, c.note, c.active, c.score, c.data, c.created_at, c.updated_at FROM item c
      ON CONFLICT (tenant, id) DO UPDATE SET ref = excluded.ref, name = excluded.name, email = excluded.email,
        note = excluded.note, active = excluded.active, score = excluded.score, data = excluded.data,
        created_at = excluded.created_at, updated_at = excluded.updated_at
keys:
  item: SELECT tenant, id FROM item
`

// world is the two servers of a bench.
type world struct {
	source, target *pgcluster.Cluster
	mapping        string // directory with the mapping's file
	progress       io.Writer
	log            *zap.Logger
	arenas         int
}

// serverSettings keep background work from disturbing the measured work; both contenders have the same.
var serverSettings = map[string]string{
	"autovacuum":                  "off",
	"shared_buffers":              "256MB",
	"max_wal_size":                "8GB",
	"checkpoint_timeout":          "1h",
	"wal_retrieve_retry_interval": "100ms", // between two starts of a subscription's worker
}

func newWorld(ctx context.Context, progress io.Writer, log *zap.Logger) (w *world, err error) {
	w = &world{progress: progress, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.mapping, err = os.MkdirTemp("", "outflow-bench-"); err != nil {
		return w, err
	}
	if w.source, err = pgcluster.Start(ctx, pgcluster.Options{Settings: serverSettings}); err != nil {
		return w, err
	}
	if w.target, err = pgcluster.Start(ctx, pgcluster.Options{Settings: serverSettings}); err != nil {
		return w, err
	}
	return w, os.WriteFile(filepath.Join(w.mapping, "item.yaml"), fmt.Appendf(nil, mappingYAML, indent(tableSQL)), 0o600)
}

// close removes everything.
func (w *world) close() error {
	var faults []error
	for _, c := range []*pgcluster.Cluster{w.source, w.target} {
		if c != nil {
			faults = append(faults, c.Close())
		}
	}
	if w.mapping != "" {
		faults = append(faults, os.RemoveAll(w.mapping))
	}
	return errors.Join(faults...)
}

// arena is one measurement's own databases: one on the source, and one on the target for each contender. Nothing of an
// earlier measurement is there.
type arena struct {
	w          *world
	name       string
	source     *pgx.Conn
	contenders []contender
	undo       []func(context.Context) error // the steps of close, last first
}

// newArena makes databases with rows 1 to n in the table, and a slot for each contender.
func (w *world) newArena(ctx context.Context, n int) (a *arena, err error) {
	w.arenas++
	a = &arena{w: w, name: fmt.Sprintf("bench_%d_%d", os.Getpid(), w.arenas)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close(ctx))
		}
	}()
	var dsn string
	if a.source, dsn, err = a.database(ctx, w.source, a.name, n); err != nil {
		return a, err
	}
	if _, err = a.source.Exec(ctx, writersSQL); err != nil {
		return a, err
	}
	native := &subscription{arena: a, slot: a.name + "_native", dsn: dsn}
	ours := &pipelined{arena: a, slot: a.name + "_outflow", dsn: dsn}
	if native.target, _, err = a.database(ctx, w.target, native.slot, n); err != nil {
		return a, err
	}
	if ours.target, ours.targetDSN, err = a.database(ctx, w.target, ours.slot, n); err != nil {
		return a, err
	}
	for _, c := range []contender{native, ours} {
		a.undo = append(a.undo, c.remove)
		if err := c.prepare(ctx); err != nil {
			return a, fmt.Errorf("preparing %s: %w", c.name(), err)
		}
		a.contenders = append(a.contenders, c)
	}
	return a, nil
}

// database makes a database with the table and its first n rows, and connects to it.
func (a *arena) database(ctx context.Context, on *pgcluster.Cluster, name string, n int) (*pgx.Conn, string, error) {
	dsn, err := on.CreateDatabase(ctx, name)
	if err != nil {
		return nil, "", err
	}
	a.undo = append(a.undo, func(ctx context.Context) error { return on.DropDatabase(ctx, name) })
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, "", err
	}
	a.undo = append(a.undo, conn.Close)
	// A generic plan of the look-up for the last row is made while the table is empty: a full scan, a hundred times a
	// second, which took most of a core from the measured contender.
	for _, statement := range []string{tableSQL, rowsSQL, `SET synchronous_commit = off`, `SET timezone = 'UTC'`, `SET plan_cache_mode = force_custom_plan`,
		fmt.Sprintf(`INSERT INTO item SELECT * FROM bench_rows(1, %d)`, n), `ANALYZE item`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return nil, "", err
		}
	}
	return conn, dsn, nil
}

// mark writes the row with the given id, which ends a backlog.
func (a *arena) mark(ctx context.Context, id int) error {
	_, err := a.source.Exec(ctx, `INSERT INTO item SELECT * FROM bench_rows($1, $1)`, id)
	return err
}

// settle writes dirty pages on both servers, so that no contender pays for earlier work.
func (a *arena) settle(ctx context.Context) error {
	return errors.Join(a.w.source.Exec(ctx, "", "CHECKPOINT"), a.w.target.Exec(ctx, "", "CHECKPOINT"))
}

// close removes the arena, also after an interruption.
func (a *arena) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	var faults []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		faults = append(faults, a.undo[i](ctx))
	}
	return errors.Join(faults...)
}

func (w *world) serverVersion(ctx context.Context) (version string) {
	conn, err := pgx.Connect(ctx, w.source.DSN(""))
	if err != nil {
		return "unknown"
	}
	defer conn.Close(ctx)
	version = "unknown"
	_ = conn.QueryRow(ctx, `SHOW server_version`).Scan(&version)
	return version
}
