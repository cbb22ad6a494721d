package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster"
)

// targetServer is a server of external databases.
type targetServer struct {
	*pgcluster.Cluster
	name string
}

// targetFaults are the faults of a server of external databases.
func targetFaults(of func(*world) *targetServer) []fault {
	on := func(f func(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error)) func(context.Context, *world, *rand.Rand) (heal, error) {
		return func(ctx context.Context, w *world, r *rand.Rand) (heal, error) { return f(ctx, w, of(w), r) }
	}
	return []fault{
		{"kill -9 of a server", 3, seconds(0.1, 6), on(crashTarget)},
		{"immediate restart of a server", 2, seconds(0.1, 3), on(stopTarget)},
		{"kill -9 of a backend", 3, seconds(0, 0.5), on(killBackend)},
		{"SIGSTOP of a backend", 3, seconds(0.5, 6), on(stopBackend)},
		{"sessions ended", 3, seconds(0, 0.3), on(endSessions)},
		{"lock held", 3, seconds(0.5, 6), on(holdLock)},
		{"restored from a copy", 3, seconds(0.5, 5), on(restore)},
		{"emptied", 1, seconds(0, 0.5), on(empty)},
		{"read-only", 2, seconds(0.5, 4), on(readOnly)},
		{"refused by a constraint", 3, seconds(0.5, 5), on(refuseRows)},
		{"constraints of its own", 4, seconds(0.5, 8), on(addConstraint)},
		{"disk full", 3, seconds(1, 6), on(fillDisk)},
	}
}

// oneOf picks a destination of the server.
func (w *world) oneOf(s *targetServer, r *rand.Rand) *destination {
	var there []*destination
	for _, d := range w.destinations {
		if d.server == s {
			there = append(there, d)
		}
	}
	d := pick(r, there)
	w.say("%s: at %s", s.name, d)
	return d
}

func crashTarget(ctx context.Context, _ *world, s *targetServer, _ *rand.Rand) (heal, error) {
	return s.Resume, s.Crash(ctx)
}

func stopTarget(ctx context.Context, _ *world, s *targetServer, _ *rand.Rand) (heal, error) {
	return s.Resume, s.Stop(ctx)
}

// backend is a session of outflow's at a destination.
func backend(ctx context.Context, d *destination) (pid int, err error) {
	conn, err := pgx.Connect(ctx, d.direct())
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outflow' LIMIT 1`).Scan(&pid)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errors.New("outflow has no session there")
	}
	return pid, err
}

func killBackend(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	pid, err := backend(ctx, w.oneOf(s, r))
	if err != nil {
		return nil, err
	}
	return nil, s.KillBackend(pid)
}

func stopBackend(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	pid, err := backend(ctx, w.oneOf(s, r))
	if err != nil {
		return nil, err
	}
	return func(context.Context) error {
		_ = syscall.Kill(pid, syscall.SIGCONT) // gone where the server has killed the process
		return nil
	}, syscall.Kill(pid, syscall.SIGSTOP)
}

func endSessions(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	return nil, execute(ctx, w.oneOf(s, r).direct(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
}

func holdLock(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	d := w.oneOf(s, r)
	conn, err := pgx.Connect(ctx, d.direct())
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "BEGIN; SET LOCAL lock_timeout = '3s'; LOCK TABLE "+pick(r, []string{"items", "ledger", "users", "_stack_sync_metadata"})+" IN ACCESS EXCLUSIVE MODE")
	return func(ctx context.Context) error {
		_ = conn.Close(ctx) // which ends the transaction
		return nil
	}, err
}

// restore puts a copy of the database in the place of the database: the copy is as old as the fault is long.
func restore(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	d := w.oneOf(s, r)
	copied := d.database + "_copy"
	exec := func(ctx context.Context, sql ...string) error {
		for _, one := range sql {
			if err := s.Exec(ctx, "", one); err != nil {
				return err
			}
		}
		return nil
	}
	// CREATE DATABASE refuses a template with sessions.
	err := exec(ctx, "DROP DATABASE IF EXISTS "+copied+" WITH (FORCE)", "ALTER DATABASE "+d.database+" ALLOW_CONNECTIONS false",
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+d.database+`'`, "CREATE DATABASE "+copied+" TEMPLATE "+d.database+d.tablespace)
	allow := "UPDATE pg_database SET datallowconn = true WHERE datname = '" + d.database + "'"
	if err == nil {
		err = exec(ctx, allow)
	}
	var epoch int64
	if err == nil {
		err = epochOf(ctx, d, &epoch)
	}
	return func(ctx context.Context) error {
		if err == nil {
			d.restored.Store(epoch)
			var there bool
			if err := queryRow(ctx, s.DSN(""), `SELECT EXISTS (SELECT FROM pg_database WHERE datname = '`+copied+`')`, &there); err != nil {
				return err
			}
			if there {
				if err := exec(ctx, "DROP DATABASE IF EXISTS "+d.database+" WITH (FORCE)", "ALTER DATABASE "+copied+" RENAME TO "+d.database,
					strings.ReplaceAll(hostile, "DATABASE", "DATABASE "+d.database)); err != nil {
					return err
				}
			}
		}
		return exec(ctx, allow)
	}, err
}

// epochOf is the epoch of a database's mappings, and an error where the database has none.
func epochOf(ctx context.Context, d *destination, epoch *int64) error {
	return queryRow(ctx, d.direct(), `SELECT max(epoch) FROM public._stack_sync_metadata HAVING count(*) > 0`, epoch)
}

// empty takes everything out of a database.
func empty(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	d := w.oneOf(s, r)
	return nil, s.Exec(ctx, d.database, "SET lock_timeout = '5s'; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
}

func readOnly(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	d := w.oneOf(s, r)
	set := func(ctx context.Context, on string) error {
		return s.Exec(ctx, "", fmt.Sprintf(`ALTER DATABASE %s SET default_transaction_read_only = %s;
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%[1]s'`, d.database, on))
	}
	return func(ctx context.Context) error { return set(ctx, "off") }, set(ctx, "on")
}

// refuseRows has a constraint of the external database refuse some rows: the destination halts until the constraint is gone.
func refuseRows(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	d := w.oneOf(s, r)
	return func(ctx context.Context) error {
		return ignore(s.Exec(ctx, d.database, `SET lock_timeout = '5s'; ALTER TABLE IF EXISTS items DROP CONSTRAINT IF EXISTS refuses`), "42P01")
	}, s.Exec(ctx, d.database, `SET lock_timeout = '3s'; ALTER TABLE items ADD CONSTRAINT refuses CHECK (version % 5 <> 0) NOT VALID`)
}

// constraints are additions of a tenant to the tables: the rows of every moment satisfy all.
var constraints = []string{
	"contact_channels ADD CONSTRAINT own FOREIGN KEY (user_id) REFERENCES users DEFERRABLE INITIALLY DEFERRED",
	"ledger ADD CONSTRAINT own FOREIGN KEY (writer) REFERENCES clock",
	"items ADD CONSTRAINT own UNIQUE (version)",
	"items ADD CONSTRAINT own UNIQUE (version) DEFERRABLE INITIALLY DEFERRED",
	"accounts ADD CONSTRAINT own CHECK (version > 0)",
	"clock ADD CONSTRAINT own EXCLUDE USING btree (writer WITH =)",
}

// addConstraint adds a constraint, and takes the constraint away or leaves it.
func addConstraint(ctx context.Context, w *world, s *targetServer, r *rand.Rand) (heal, error) {
	d, constraint, stays := w.oneOf(s, r), pick(r, constraints), r.IntN(2) == 0
	table, _, _ := strings.Cut(constraint, " ")
	w.say("%s: %s", d, constraint)
	err := s.Exec(ctx, d.database, "SET lock_timeout = '3s'; ALTER TABLE "+constraint)
	if stays {
		return nil, err
	}
	return func(ctx context.Context) error {
		return s.Exec(ctx, d.database, "SET lock_timeout = '5s'; ALTER TABLE IF EXISTS "+table+" DROP CONSTRAINT IF EXISTS own")
	}, err
}

func queryRow(ctx context.Context, dsn, sql string, into ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.QueryRow(ctx, sql).Scan(into...)
}
