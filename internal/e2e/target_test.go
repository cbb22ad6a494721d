package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/wal"
	"outflow/sink/ledger"
)

func TestTablesAreMadeOnFirstUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	idle := w.destination(tenant2, "idle")
	w.cfg.Sink.IdleClose = time.Second
	r := w.start()
	w.user(tenant1, tenant1, "Ada")
	w.synced()
	w.equal(tenant1, dsn)
	same(t, dsn, `SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'users' ORDER BY ordinal_position`,
		`"id"|"uuid"|"NO"`, `"display_name"|"text"|"YES"`, `"profile_image_url"|"text"|"YES"`, `"primary_email"|"text"|"YES"`,
		`"primary_email_verified"|"boolean"|"NO"`, `"signed_up_at"|"timestamp without time zone"|"NO"`, `"client_metadata"|"jsonb"|"NO"`,
		`"client_read_only_metadata"|"jsonb"|"NO"`, `"server_metadata"|"jsonb"|"NO"`, `"is_anonymous"|"boolean"|"NO"`)
	same(t, dsn, `SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = '_stack_sync_metadata' ORDER BY ordinal_position LIMIT 3`,
		`"mapping_name"|"text"|"NO"`, `"last_synced_sequence_id"|"bigint"|"NO"`, `"updated_at"|"timestamp without time zone"|"NO"`)
	r.caughtUp()
	same(t, idle, `SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1`, `"_stack_sync_metadata"`, `"contact_channels"`, `"users"`)
	waitFor(t, "the destination without work to have no connection", func() error {
		if n := query(t, idle, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); n[0] != `"0"` {
			return fmt.Errorf("it has %s", n[0])
		}
		return nil
	})
	if s := r.destination("main").Status(); s.Rows != 1 || s.Batches != 1 || s.Queued != 0 || s.QueueBytes != 0 {
		t.Errorf("after one row the status is %+v", s)
	}

	if w.version() >= 15 { // What no mapping names does not leave the primary.
		same(t, w.source, `SELECT tablename, attname FROM pg_publication_tables, unnest(attnames) attname
			WHERE pubname = 'outflow' AND attname IN ('totpSecret', 'updatedAt', 'data')`)
	}

	exec(t, connect(t, dsn), `REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // nobody but the owner has it from 15 on
	reader := connect(t, withUser(t, dsn, w.role("reader", "")))
	for _, table := range []string{"users", "contact_channels"} {
		exec(t, reader, `SELECT * FROM `+table)
		for _, write := range []string{`INSERT INTO %s (id) VALUES (gen_random_uuid())`, `UPDATE %s SET id = id`, `DELETE FROM %s`, `TRUNCATE %s`,
			`DROP TABLE %s`, `CREATE TABLE %s_mine ()`} {
			sql := fmt.Sprintf(write, table)
			if _, err := reader.Exec(t.Context(), sql); err == nil {
				t.Errorf("a reader could %s", sql)
			}
		}
	}
	if _, err := reader.Exec(t.Context(), `UPDATE "_stack_sync_metadata" SET "last_synced_sequence_id" = -1`); err == nil {
		t.Error("a reader could change the metadata")
	}
	w.equal(tenant1, dsn)
}

func TestMetadataMovesWithEveryBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp() // a copy moves the metadata too
	lsn := func() int64 {
		var text string
		if err := w.db.QueryRow(t.Context(), `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		lsn, err := wal.ParseLSN(text)
		if err != nil {
			t.Fatal(err)
		}
		return int64(lsn)
	}
	var external *pgx.Conn
	last, moved := int64(-1), ""
	for i := range 5 {
		before := lsn()
		w.user(tenant1, fmt.Sprintf("00000000-0000-4000-8000-%012d", i), "Ada")
		after := lsn()
		w.synced()
		if external == nil {
			external = connect(t, dsn)
		}
		var low, high int64
		var updated string
		if err := external.QueryRow(t.Context(), `SELECT min(last_synced_sequence_id), max(last_synced_sequence_id), min(updated_at)::text
			FROM _stack_sync_metadata`).Scan(&low, &high, &updated); err != nil {
			t.Fatal(err)
		}
		if low != high || low <= last || low < before || low > after {
			t.Errorf("the metadata is at %d and %d; it was at %d, and the commit lies between %d and %d", low, high, last, before, after)
		}
		if status := r.destination("main").Status(); status.SequenceID != low {
			t.Errorf("the status says %d, the metadata %d", status.SequenceID, low)
		}
		if updated <= moved {
			t.Errorf("updated_at went from %s to %s", moved, updated)
		}
		last, moved = low, updated
		// The batch and its id commit together.
		same(t, dsn, `SELECT count(*) FROM users u JOIN _stack_sync_metadata m ON m.mapping_name = 'users' AND m.xmin = u.xmin`, `"1"`)
	}

	// An id that the primary has not given yet is no reason to skip what comes.
	r.end()
	same(t, dsn, `SELECT last_synced_sequence_id FROM _stack_sync_metadata`, quoted(last), quoted(last))
	exec(t, external, `UPDATE _stack_sync_metadata SET last_synced_sequence_id = 9e18`)
	r = w.start()
	w.user(tenant1, tenant1, "from before the stored id")
	contains(t, becomes(t, r.destination("main"), ledger.Halted), "the primary was restored from a backup", "outflow run --slot-reset")
	same(t, dsn, `SELECT 1 FROM users WHERE id = '`+tenant1+`'`)
}

func quoted(n int64) string { return `"` + strconv.FormatInt(n, 10) + `"` }

func TestWhatChangesNothingWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	w.start()
	for i, s := range scenarios[:6] {
		steps, _ := s.of(5, i)
		for _, step := range steps {
			w.exec(step)
		}
	}
	w.synced()
	const versions = `SELECT xmin, ctid, id FROM users UNION ALL SELECT xmin, ctid, id FROM contact_channels ORDER BY 3`
	const metadata = `SELECT last_synced_sequence_id FROM _stack_sync_metadata`
	before, at := query(t, dsn, versions), query(t, dsn, metadata)
	if len(before) < 6 {
		t.Fatalf("there are only %d rows", len(before))
	}
	for _, noop := range []string{
		`UPDATE "ProjectUser" SET "displayName" = "displayName"; UPDATE "ContactChannel" SET value = value`,
		`UPDATE "ProjectUser" SET "updatedAt" = now() + interval '1 day', "totpSecret" = 'secret'`,
		`UPDATE "ProjectUser" SET "displayName" = 'other'; UPDATE "ProjectUser" u SET "displayName" = 'Ada'`, // folds to nothing, for all but one
		`DELETE FROM "ContactChannel" WHERE false`,
	} {
		w.exec(noop)
		w.synced()
	}
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'Ada L.' WHERE "displayName" <> 'Ada'`)
	if after := query(t, dsn, metadata); after[0] == at[0] {
		t.Error("the metadata did not move")
	}
	after := query(t, dsn, versions)
	changed := 0
	for i := range before {
		if before[i] != after[i] {
			changed++
		}
	}
	if changed != 1 { // the user of the scenario "update" was renamed
		t.Errorf("%d rows were written, expected 1:\n%v\n%v", changed, before, after)
	}
}

// The oldest version of an external database that Outflow supports, with a copy, live changes, a look-up of large values and a sweep.
func TestOldestExternalServer(t *testing.T) {
	t.Parallel()
	const oldest = 13
	if !slices.ContainsFunc(pgcluster.Installed(), func(i pgcluster.Install) bool { return i.Version == oldest }) {
		t.Skipf("there is no PostgreSQL %d here", oldest)
	}
	external := pgtest.New(t, pgcluster.Options{Version: oldest, Settings: map[string]string{"fsync": "off"}})
	w := newWorld(t, pgtest.Shared(t))
	dsn := pgtest.Database(t, external)
	w.addDestination(tenant1, "main", dsn)
	w.existing(50, tenant1)
	r := w.start()
	r.caughtUp()
	w.exec(`UPDATE "ProjectUser" SET "serverMetadata" = (SELECT jsonb_object_agg(n, md5(n::text)) FROM generate_series(1, 500) n)`)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'later'`)
	w.exec(`DELETE FROM "ContactChannel" WHERE id IN (SELECT id FROM "ContactChannel" ORDER BY id LIMIT 5)`)
	w.synced()
	w.equal(tenant1, dsn)
	exec(t, connect(t, dsn), `INSERT INTO users (id, signed_up_at) SELECT gen_random_uuid(), now() FROM generate_series(1, 5)`)
	waitFor(t, "the resync to be noted", func() error { return r.destination("main").Resync(t.Context(), "the test asked for it") })
	r.caughtUp()
	w.equal(tenant1, dsn)
}
