package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
)

// clients are connections to the primary whose transactions overlap.
type clients struct {
	w    *world
	a, b *pgx.Conn
}

// blocked runs a statement on b that has to wait for a, does then what is to happen meanwhile, and waits for its end.
func (c *clients) blocked(sql string, meanwhile func()) {
	c.w.tb.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := c.b.Exec(context.Background(), sql)
		done <- err
	}()
	waitFor(c.w.tb, "the statement to wait for a lock", func() error {
		var waits bool
		err := c.w.db.QueryRow(c.w.tb.Context(), `SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = $1`, c.b.PgConn().PID()).Scan(&waits)
		if err == nil && !waits {
			err = fmt.Errorf("%s does not wait", sql)
		}
		return err
	})
	meanwhile()
	if err := <-done; err != nil {
		c.w.tb.Fatalf("%s: %v", sql, err)
	}
}

func TestTheLastCommitWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	gate := w.gated(tenant1, "backlog")
	live := w.destination(tenant1, "live")
	r := w.start()
	c := &clients{w, connect(t, w.source), connect(t, w.source)}
	id := func(n int) string { return fmt.Sprintf("'00000000-0000-4000-8000-%012d'", n) }
	for n := range 6 {
		w.user(tenant1, fmt.Sprintf("00000000-0000-4000-8000-%012d", n), "first")
	}
	set := func(n int, name string) string {
		return fmt.Sprintf(`UPDATE "ProjectUser" SET "displayName" = '%s' WHERE "projectUserId" = %s`, name, id(n))
	}
	a := func(sql string) { t.Helper(); exec(t, c.a, sql) }
	b := func(sql string) { t.Helper(); exec(t, c.b, sql) }

	// a begins and writes first, b commits first; a's later write of the same row is the last.
	a(`BEGIN; ` + set(0, "a 0"))
	b(`BEGIN; ` + set(1, "b 1") + `; COMMIT`)
	a(set(1, "a 1") + `; COMMIT`)
	// a writes the row first, in what it rolls back to a savepoint; b writes it and commits; a commits last, without it.
	a(`BEGIN; ` + set(3, "a 3") + `; SAVEPOINT s; ` + set(2, "a 2 rolled back") + `; ROLLBACK TO s`)
	b(set(2, "b 2"))
	a(`COMMIT`)
	// b has the older transaction id and waits for a's row: a commits first, b last.
	b(`BEGIN; ` + set(4, "b 4"))
	a(`BEGIN; ` + set(5, "a 5"))
	c.blocked(set(5, "b 5"), func() { a(`COMMIT`) })
	b(`COMMIT`)
	// A key that a gives up and b takes: the same primary key, and the same value of a unique index.
	add := `INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ('%s', %s, '%s')`
	channel := `INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "usedForAuth", "isVerified", value, "isPrimary") VALUES ('%s', %s, %s, 'EMAIL', 'TRUE', false, 'same@example.com', 'TRUE')`
	w.exec(fmt.Sprintf(channel, tenant1, id(0), id(10)))
	a(`BEGIN; DELETE FROM "ContactChannel" WHERE id = ` + id(10) + `; DELETE FROM "ProjectUser" WHERE "projectUserId" = ` + id(3))
	b(`BEGIN`)
	c.blocked(fmt.Sprintf(add, tenant1, id(3), "b 3"), func() { a(`COMMIT`) })
	b(fmt.Sprintf(channel, tenant1, id(3), id(11)) + `; COMMIT`)
	// An insert that waits for one which is rolled back.
	a(`BEGIN; ` + fmt.Sprintf(add, tenant1, id(7), "a 7"))
	b(`BEGIN`)
	c.blocked(fmt.Sprintf(add, tenant1, id(7), "b 7"), func() { a(`ROLLBACK`) })
	b(`COMMIT`)

	gate.open(r, r.destination("backlog"), 16)
	w.synced()
	for _, dsn := range []string{gate.dsn, live} {
		w.equal(tenant1, dsn)
		same(t, dsn, `SELECT display_name, primary_email FROM users ORDER BY id`, `"a 0"|NULL`, `"a 1"|NULL`, `"b 2"|NULL`,
			`"b 3"|"same@example.com"`, `"b 4"|NULL`, `"b 5"|NULL`, `"b 7"|NULL`)
	}
}

// TestInterleavedTransactions has four connections count up rows that they share, each transaction over two rows and with
// a row of its own. The journal shows every transaction once, and no counter that goes back.
func TestInterleavedTransactions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	journaled(t, dsn)
	w.start()
	const connections, rounds, counters = 4, 60, 5
	for n := range counters {
		w.exec(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "serverMetadata") VALUES ($1, $2, '0')`, tenant1, fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
	}
	var group sync.WaitGroup
	for k := range connections {
		db := connect(t, w.source)
		group.Go(func() {
			for i := range rounds {
				first := (i*(k+1) + k) % (counters - 1)
				_, err := db.Exec(t.Context(), fmt.Sprintf(`BEGIN;
					INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ('%[1]s', '%08[2]d-0000-4000-8000-%012[3]d', 'own');
					UPDATE "ProjectUser" SET "serverMetadata" = to_jsonb("serverMetadata"::int + 1) WHERE "projectUserId" = '00000000-0000-4000-8000-%012[4]d';
					UPDATE "ProjectUser" SET "serverMetadata" = to_jsonb("serverMetadata"::int + 1) WHERE "projectUserId" = '00000000-0000-4000-8000-%012[5]d';
					COMMIT`, tenant1, k+1, i, first, first+1))
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	w.synced()
	w.equal(tenant1, dsn)
	same(t, dsn, `SELECT sum(server_metadata::int) FROM users WHERE display_name IS NULL`, quoted(2*connections*rounds))
	same(t, dsn, `SELECT op, count(*), count(DISTINCT row->>'id') FROM journal WHERE row->>'display_name' = 'own' GROUP BY 1`,
		fmt.Sprintf(`"INSERT"|"%d"|"%[1]d"`, connections*rounds))
	same(t, dsn, `SELECT * FROM (SELECT row->>'id', (row->>'server_metadata')::int c, lag((row->>'server_metadata')::int)
		OVER (PARTITION BY row->>'id' ORDER BY n) AS before FROM journal WHERE row->>'display_name' IS NULL) j WHERE c <= before`)
}

func TestTransactionsOfAllKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	dsn := w.destination(tenant1, "main")
	journaled(t, dsn)
	w.start()
	insert := func(n int, name string) string {
		return fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ('%s', '00000000-0000-4000-8000-%012d', '%s'); `, tenant1, n, name)
	}
	w.exec(`BEGIN; ` + insert(1, "outer") + `SAVEPOINT a; ` + insert(2, "kept") + `SAVEPOINT b; ` + insert(3, "rolled back") +
		`UPDATE "ProjectUser" SET "displayName" = 'rolled back'; ROLLBACK TO b; ` + insert(3, "again") + `RELEASE a; ` + insert(4, "last") + `COMMIT`)
	w.exec(`BEGIN; ` + insert(5, "rolled back") + `ROLLBACK`)
	w.exec(`DO $$ BEGIN
		FOR i IN 100..199 LOOP
			BEGIN
				INSERT INTO "ProjectUser" ("tenancyId", "projectUserId") VALUES ('` + tenant1 + `', ('00000000-0000-4000-8000-000000000' || i)::uuid);
				IF i % 2 = 0 THEN RAISE 'odd ones only'; END IF;
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
		END LOOP;
	END $$`)
	w.exec(`BEGIN; ` + insert(6, "prepared") + `SAVEPOINT a; ` + insert(7, "prepared too") + `PREPARE TRANSACTION 'outflow ` + w.cfg.Source.Slot + `'`)
	w.exec(insert(8, "after the prepare"))
	w.acknowledged() // the copy waits for the end of what is prepared
	same(t, dsn, `SELECT display_name FROM users WHERE display_name IS NOT NULL ORDER BY id`, `"outer"`, `"kept"`, `"again"`, `"last"`, `"after the prepare"`)
	w.exec(`COMMIT PREPARED 'outflow ` + w.cfg.Source.Slot + `'`)
	w.exec(`BEGIN; ` + insert(9, "never") + `PREPARE TRANSACTION 'outflow ` + w.cfg.Source.Slot + `'`)
	w.exec(`ROLLBACK PREPARED 'outflow ` + w.cfg.Source.Slot + `'`)
	n, err := w.db.CopyFrom(t.Context(), pgx.Identifier{"ProjectUser"}, []string{"tenancyId", "projectUserId", "displayName"},
		pgx.CopyFromSlice(1000, func(i int) ([]any, error) {
			return []any{tenant1, fmt.Sprintf("00000001-0000-4000-8000-%012d", i), fmt.Sprintf("copied %d", i)}, nil
		}))
	if err != nil || n != 1000 {
		t.Fatalf("COPY: %d rows, %v", n, err)
	}
	w.exec(`SELECT pg_logical_emit_message(true, 'somebody', 'else'), pg_logical_emit_message(false, 'outflow', E'\\x00')`)
	w.synced()
	w.equal(tenant1, dsn)
	same(t, dsn, `SELECT count(*) FILTER (WHERE display_name LIKE 'copied%'), count(*) FILTER (WHERE display_name LIKE 'prepared%'),
		count(*) FILTER (WHERE display_name IS NULL), count(*) FROM users`, `"1000"|"2"|"50"|"1057"`)
	same(t, dsn, `SELECT op, count(*), count(DISTINCT row->>'id') FROM journal GROUP BY 1`, `"INSERT"|"1057"|"1057"`)
}
