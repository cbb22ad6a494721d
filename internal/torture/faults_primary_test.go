package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// primaryFaults are the faults of the primary: the server, the slot, the publication, the tables.
var primaryFaults = []fault{
	{"kill -9 of the primary", 3, seconds(0.1, 2), crashPrimary},
	{"restart of the primary", 2, seconds(0.1, 2), stopPrimary},
	{"sessions on the primary ended", 3, seconds(0, 0.3), endPrimarySessions},
	{"no synchronous standby", 2, seconds(0.5, 4), absentStandby},
	{"no synchronous standby during copies", 3, seconds(0.5, 4), absentStandbyDuringCopies},
	{"slot dropped", 2, seconds(0, 1), dropSlot},
	{"WAL of the slot removed", 2, seconds(0, 1), removeWAL},
	{"publication altered for a moment", 2, seconds(0.1, 1.5), alterPublication},
	{"column added, renamed, dropped", 3, seconds(0.1, 1.5), addColumn},
	{"column rewritten", 1, seconds(0, 0.5), rewrite},
	{"published column widened", 1, seconds(0, 0.5), widen},
	{"table renamed and back", 1, seconds(0, 0.5), rename},
	{"table written anew", 1, seconds(0, 0.5), vacuumFull},
	{"partition detached and attached", 2, seconds(0.1, 1.5), detachPartition},
	{"partition made and dropped", 2, seconds(0.5, 2), makePartition},
	{"partition truncated", 1, seconds(0, 0.5), truncatePartition},
	{"long transaction", 2, seconds(1, 5), longTransaction},
}

func crashPrimary(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	return w.primary.Resume, w.primary.Crash(ctx)
}

func stopPrimary(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	return w.primary.Resume, w.primary.Stop(ctx)
}

func endPrimarySessions(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	return nil, w.onPrimary(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'outflow%'`)
}

// removeWAL has the server write more WAL than the server may keep for the slot. A fast reader keeps the slot alive.
func removeWAL(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	set := func(ctx context.Context, size string) error {
		if err := w.primary.Exec(ctx, "", "ALTER SYSTEM SET max_slot_wal_keep_size = '"+size+"'"); err != nil {
			return err
		}
		return w.primary.Exec(ctx, "", "SELECT pg_reload_conf()")
	}
	err := set(ctx, "1MB")
	for range 8 {
		if err == nil {
			err = w.onPrimary(ctx, `SELECT pg_logical_emit_message(false, 'filler', repeat('x', 4000000))`)
		}
	}
	if err == nil {
		err = w.primary.Exec(ctx, "", "CHECKPOINT")
	}
	return func(ctx context.Context) error { return set(ctx, "-1") }, err
}

// absentStandby has commits wait: the WAL has the commits, the stream shows them, and no snapshot does.
func absentStandby(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	set := func(names string) heal {
		return func(ctx context.Context) error {
			conn, err := pgx.Connect(ctx, w.source())
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for _, sql := range []string{"SET synchronous_commit = local", "ALTER SYSTEM SET synchronous_standby_names = '" + names + "'", "SELECT pg_reload_conf()"} {
				if _, err := conn.Exec(ctx, sql); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return set(""), set("absent")(ctx)
}

// absentStandbyDuringCopies has commits wait while rows are copied: a copy then reads older rows than the stream has brought.
func absentStandbyDuringCopies(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	if _, err := w.fleet.outflow(ctx, "resync", "--no-wait", "--reason", "torture"); err != nil {
		return nil, err
	}
	pause(ctx, time.Duration(r.IntN(1500))*time.Millisecond)
	return absentStandby(ctx, w, r)
}

func dropSlot(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	for {
		err := w.onPrimary(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '`+slot+`' AND active_pid IS NOT NULL`)
		if err == nil {
			err = w.onPrimary(ctx, `SELECT pg_drop_replication_slot('`+slot+`')`)
		}
		if err == nil || !pause(ctx, pollEvery) { // else a process had taken the slot again
			return nil, err
		}
	}
}

// alterPublication takes a table out of the publication for a moment. Changes of the moment are not in the stream, so until the
// next copy an external database may show parts of transactions.
func alterPublication(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	t := pick(r, tables)
	epochs, err := w.epochs(ctx)
	if err != nil {
		return nil, err
	}
	for d, epoch := range epochs {
		d.excuses.add(epoch, "the publication lacked a table")
		d.excuses.wait(10 * time.Minute)
	}
	failed := w.onPrimary(ctx, fmt.Sprintf(`ALTER PUBLICATION outflow DROP TABLE %q`, t.source))
	return func(ctx context.Context) error {
		err := w.onPrimary(ctx, fmt.Sprintf(`ALTER PUBLICATION outflow ADD TABLE %q`, t.source))
		there := sqlState(err) == "42710" // outflow has put the table back, or the table was never taken out
		if err != nil && !there {
			return err
		}
		for d, epoch := range epochs {
			if there && failed != nil {
				d.excuses.withdraw(epoch)
			} else {
				d.excuses.wait(noticedWithin)
			}
		}
		return nil
	}, failed
}

// noticedWithin bounds the time until outflow, which looks at the catalog every 5 seconds, has noticed a change; also on a busy machine.
const noticedWithin = 30 * time.Second

// epochs are the noted epochs of all destinations.
func (w *world) epochs(ctx context.Context) (map[*destination]int64, error) {
	epochs := map[*destination]int64{}
	for _, d := range w.destinations {
		var epoch int64
		err := w.onPrimaryRow(ctx, fmt.Sprintf(`SELECT epoch FROM outflow.destination_state WHERE slot = '%s' AND tenant_id = '%s' AND name = '%s'`, slot, d.tenant, d.name), &epoch)
		if err != nil {
			return nil, err
		}
		epochs[d] = epoch
	}
	return epochs, nil
}

// addColumn adds a column, renames the column, and drops it in the end.
func addColumn(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	name := fmt.Sprintf("added_%d", r.Uint32())
	err := w.alter(ctx, fmt.Sprintf(`ALTER TABLE "Wide" ADD COLUMN %s int DEFAULT 7; ALTER TABLE "Wide" RENAME COLUMN %[1]s TO %[1]s_b`, name))
	return func(ctx context.Context) error {
		return w.alter(ctx, fmt.Sprintf(`ALTER TABLE "Wide" DROP COLUMN IF EXISTS %s_b`, name))
	}, err
}

// rewrite writes all rows of a table again, by a column with a volatile default.
func rewrite(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	return nil, w.alter(ctx, fmt.Sprintf(`ALTER TABLE "Wide" ADD COLUMN rewritten_%d float DEFAULT random()`, r.Uint32()))
}

// widen gives a published column a wider type. A column list forbids the change, so the table leaves the publication meanwhile.
func widen(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	types := []string{"int", "bigint", "numeric(20)"}
	return nil, w.alter(ctx, fmt.Sprintf(`ALTER PUBLICATION outflow DROP TABLE "Wide"; ALTER TABLE "Wide" ALTER COLUMN amount TYPE %s;
		ALTER PUBLICATION outflow ADD TABLE "Wide"`, pick(r, types)))
}

// rename renames a table for the time of a transaction: a table is an OID.
func rename(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	return nil, w.alter(ctx, fmt.Sprintf(`ALTER TABLE %q RENAME TO elsewhere; ALTER TABLE elsewhere RENAME TO %[1]q`, pick(r, tables).source))
}

// vacuumFull gives a table another file with the same rows.
func vacuumFull(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	return nil, w.primary.Exec(ctx, database, fmt.Sprintf(`VACUUM FULL %q`, pick(r, []string{"Item", "Wide", "Account"})))
}

func detachPartition(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	kind := r.IntN(3)
	return func(ctx context.Context) error {
		// The default partition may have got rows of the kind meanwhile.
		return ignore(w.alter(ctx, fmt.Sprintf(`DELETE FROM "Part_other" WHERE kind = %d; ALTER TABLE "Part" ATTACH PARTITION "Part_%[1]d" FOR VALUES IN (%[1]d)`, kind)), "42809", "42P17")
	}, w.alter(ctx, fmt.Sprintf(`ALTER TABLE "Part" DETACH PARTITION "Part_%d"`, kind))
}

// makePartition makes a partition for rows of the default partition, and puts the rows back in the end.
func makePartition(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	return func(ctx context.Context) error {
			return ignore(w.alter(ctx, `ALTER TABLE "Part" DETACH PARTITION "Part_3"; INSERT INTO "Part" SELECT * FROM "Part_3"; DROP TABLE "Part_3"`), "42P01")
		}, w.alter(ctx, `CREATE TABLE "Part_3" (LIKE "Part" INCLUDING ALL); WITH moved AS (DELETE FROM "Part_other" WHERE kind = 3 RETURNING *)
			INSERT INTO "Part_3" SELECT * FROM moved; ALTER TABLE "Part" ATTACH PARTITION "Part_3" FOR VALUES IN (3)`)
}

func truncatePartition(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	return nil, w.alter(ctx, fmt.Sprintf(`TRUNCATE "Part_%d"`, r.IntN(3)))
}

// longTransaction keeps a transaction with an id open: copies cannot read past the transaction.
func longTransaction(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	conn, err := pgx.Connect(ctx, w.source())
	if err != nil {
		return nil, err
	}
	commit := "COMMIT"
	if r.IntN(2) == 0 {
		commit = "ROLLBACK"
	}
	_, err = conn.Exec(ctx, fmt.Sprintf(`BEGIN; INSERT INTO "Wide" (tenant, id, amount, version) VALUES ('%s', %d, 0, nextval('version'))`, pick(r, tenants), 10_000_000+r.Uint32()))
	return func(ctx context.Context) error {
		_, _ = conn.Exec(ctx, commit) // fails where the server has ended meanwhile, and the transaction with the server
		_ = conn.Close(ctx)
		return nil
	}, err
}

// alter runs DDL in a transaction. A busy lock is no reason to keep the application waiting.
func (w *world) alter(ctx context.Context, sql string) (err error) {
	for range 5 {
		if err = w.primary.Exec(ctx, database, "SET lock_timeout = '1s';\n"+sql); !slices.Contains([]string{"55P03", "40P01"}, sqlState(err)) {
			return err
		}
		pause(ctx, 100*time.Millisecond)
	}
	return err
}

// ignore is an error, unless the SQLSTATE is in the list.
func ignore(err error, states ...string) error {
	if slices.Contains(states, sqlState(err)) {
		return nil
	}
	return err
}
