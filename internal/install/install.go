package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/internal/config"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/sql"
)

// installation is the set-up that the primary needs, and the way there.
type installation struct {
	cfg     *config.Config
	primary *primary.Server
	conn    *pgx.Conn
	plan    *pipeline.Plan
	role    string
}

// CheckRole tells why a role cannot have that name, nil where the role can.
func CheckRole(name string) error {
	if name == "" || len(name) > 63 || strings.HasPrefix(name, "pg_") || strings.ContainsRune(name, 0) {
		return errors.New("expected a name of 1 to 63 bytes that does not begin with pg_")
	}
	return nil
}

// Print writes the statements as a script for psql; what is there already is a comment. Nothing is changed on the primary.
func Print(ctx context.Context, out io.Writer, cfg *config.Config, role string) error {
	in, err := prepare(ctx, cfg, role)
	if err != nil {
		return err
	}
	defer primary.HangUp(in.conn)
	return primary.Ask(ctx, in.primary, func(ctx context.Context) error { return in.print(ctx, out) })
}

// Apply runs the statements with the rights of source.dsn, and tells each in a line. It is safe to run again.
func Apply(ctx context.Context, out io.Writer, cfg *config.Config, role string) error {
	in, err := prepare(ctx, cfg, role)
	if err != nil {
		return err
	}
	defer primary.HangUp(in.conn)
	return in.apply(ctx, out)
}

// prepare connects, and plans. The connection is the caller's where there is no error.
func prepare(ctx context.Context, cfg *config.Config, role string) (*installation, error) {
	server, err := pipeline.Primary(cfg)
	if err != nil {
		return nil, err
	}
	in := &installation{cfg: cfg, primary: server, role: role}
	return in, primary.Ask(ctx, server, in.connect)
}

// connect connects, and plans. The server's settings and the rights of the current role are no obstacle to printing.
func (in *installation) connect(ctx context.Context) (err error) {
	if in.conn, err = in.primary.Connect(ctx); err != nil {
		return primary.ExplainConnect(in.primary, err)
	}
	if in.plan, err = pipeline.NewPlan(ctx, in.conn, in.cfg, primary.CheckTables); err != nil {
		primary.HangUp(in.conn)
	}
	return err
}

// print writes all statements; finished ones as comments, so that pasting the whole again does no harm.
func (in *installation) print(ctx context.Context, out io.Writer) error {
	prepare, err := in.preparation(ctx)
	if err != nil {
		return err
	}
	stream, err := in.setup(out).Statements(ctx, in.conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "-- What Outflow needs on the primary %s. Run it with psql as a superuser.\n", in.primary.Address())
	for _, st := range append(prepare, stream...) {
		text := st.SQL + ";\n"
		if st.Done {
			fmt.Fprintf(out, "\n-- There already: %s\n", st.What)
			text = "-- " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n-- ") + "\n"
		} else {
			fmt.Fprintf(out, "\n-- %s\n", st.What)
		}
		fmt.Fprint(out, text)
	}
	fmt.Fprintf(out, "\n-- Then give the role a password: \\password %s\n", in.role)
	return nil
}

// apply runs the unfinished statements. Each statement commits by itself: a slot cannot be made in a transaction that has written.
func (in *installation) apply(ctx context.Context, out io.Writer) error {
	const remedy = "use a superuser in source.dsn for this command, or give the output of outflow init to a superuser"
	var prepare, stream []primary.Statement
	err := primary.Ask(ctx, in.primary, func(ctx context.Context) (err error) {
		if err := primary.CheckServer(ctx, in.conn); err != nil {
			return err
		}
		if prepare, err = in.preparation(ctx); err == nil {
			stream, err = in.setup(out).Statements(ctx, in.conn)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = primary.WhileAnswering(ctx, in.primary, primary.Patience, func(ctx context.Context) error {
		for _, st := range prepare {
			if !st.Done {
				if _, err := in.conn.Exec(ctx, st.SQL); err != nil {
					return primary.Explain(fmt.Errorf("%s: %w", st.What, err), remedy)
				}
			}
			report(out, st)
		}
		_, _, err := in.setup(out).Ensure(ctx, in.conn)
		return primary.Explain(err, remedy)
	})
	if err != nil {
		return err
	}
	for _, st := range stream {
		report(out, st)
	}
	fmt.Fprintf(out, "Give role %s a password (psql: \\password %[1]s), use it in source.dsn, and start: outflow run\n", in.role)
	return nil
}

func report(out io.Writer, st primary.Statement) {
	if st.Done {
		fmt.Fprintf(out, "there already: %s\n", st.What)
	} else {
		fmt.Fprintf(out, "done: %s\n", st.What)
	}
}

// preparation is the statements before the publication and the slot, in the order of execution.
func (in *installation) preparation(ctx context.Context) ([]primary.Statement, error) {
	level, err := in.walLevel(ctx)
	if err != nil {
		return nil, err
	}
	role, err := in.roleStatement(ctx)
	if err != nil {
		return nil, err
	}
	schema := primary.Statement{What: "schema outflow, where Outflow keeps its notes"}
	script, err := sql.Script(ctx, in.conn)
	if err != nil {
		return nil, primary.Explain(err, "use a superuser, or the role of outflow run, in source.dsn for this command")
	}
	if schema.SQL, schema.Done = strings.TrimSuffix(script, ";\n"), script == ""; schema.Done {
		schema.SQL = "CREATE SCHEMA outflow"
	}
	rights, err := rightsOf(ctx, in.conn, in.plan, in.role)
	return []primary.Statement{level, role, schema, rights}, err
}

func (in *installation) setup(out io.Writer) primary.Setup {
	return primary.Setup{
		Slot: primary.Slot{Server: in.primary, Name: in.cfg.Source.Slot, Waiting: func(n int, oldest string) {
			fmt.Fprintf(out, "creating the slot; the primary waits for %d older transactions to end, the oldest of them %s\n", n, oldest)
		}},
		Publication: primary.Publication{Name: in.cfg.Source.Publication, Tables: in.plan.Published()},
	}
}

func (in *installation) walLevel(ctx context.Context) (primary.Statement, error) {
	st := primary.Statement{What: "wal_level = logical (then restart the server)", SQL: "ALTER SYSTEM SET wal_level = logical"}
	err := in.conn.QueryRow(ctx, `SELECT current_setting('wal_level') = 'logical'`).Scan(&st.Done)
	return st, err
}

// roleStatement makes the role. Amazon RDS and Aurora let no role give the attribute REPLICATION: there, a role has
// membership of rds_replication instead.
func (in *installation) roleStatement(ctx context.Context) (primary.Statement, error) {
	name := pgx.Identifier{in.role}.Sanitize()
	st := primary.Statement{What: "role " + name + ": may log in and replicate"}
	var managed, exists bool
	err := in.conn.QueryRow(ctx, `SELECT m.oid IS NOT NULL, r.oid IS NOT NULL,
			coalesce(r.rolcanlogin AND (r.rolreplication OR r.rolsuper OR pg_has_role(r.oid, m.oid, 'MEMBER')), false)
		FROM (VALUES (1)) v LEFT JOIN pg_roles m ON m.rolname = 'rds_replication' LEFT JOIN pg_roles r ON r.rolname = $1`, in.role).
		Scan(&managed, &exists, &st.Done)
	if err != nil {
		return st, fmt.Errorf("looking for role %s: %w", name, err)
	}
	verb, attribute := "CREATE", " REPLICATION"
	if exists {
		verb = "ALTER"
	}
	if managed {
		attribute = ";\nGRANT rds_replication TO " + name
	}
	st.SQL = verb + " ROLE " + name + " LOGIN" + attribute
	return st, nil
}
