package install

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/sql"
)

// Grant is one GRANT, and a query for whether the role has the right.
type Grant struct {
	sql   string // up to " TO ..."
	held  string // over pg_roles r; $1 is the role
	args  []any  // from $2 on
	Notes bool   // on the schema outflow, which Outflow itself makes
}

// To is the statement.
func (g Grant) To(role string) string {
	return "GRANT " + g.sql + " TO " + pgx.Identifier{role}.Sanitize()
}

// HeldBy reports whether the role has the right.
func (g Grant) HeldBy(ctx context.Context, conn *pgx.Conn, role string) (held bool, err error) {
	err = conn.QueryRow(ctx, `SELECT coalesce((SELECT `+g.held+` FROM pg_roles r WHERE r.rolname = $1), false)`,
		append([]any{role}, g.args...)...).Scan(&held)
	if err != nil {
		err = fmt.Errorf("reading the rights of role %s: %w", pgx.Identifier{role}.Sanitize(), err)
	}
	return held, err
}

// rightsOf are all grants in one statement.
func rightsOf(ctx context.Context, conn *pgx.Conn, p *pipeline.Plan, role string) (primary.Statement, error) {
	var texts []string
	held := true
	for _, g := range Grants(conn, p) {
		texts = append(texts, g.To(role))
		if !held {
			continue
		}
		var err error
		if held, err = g.HeldBy(ctx, conn, role); err != nil {
			return primary.Statement{}, err
		}
	}
	return primary.Statement{What: "rights of role " + pgx.Identifier{role}.Sanitize() + ": look up the published columns, and keep Outflow's notes",
		SQL: strings.Join(texts, ";\n"), Done: held}, nil
}

// Grants are the rights that outflow run uses on the primary. The table of tombstones is absent: outflow reads tombstones from the slot only, and
// the slot asks for no rights on tables.
func Grants(conn *pgx.Conn, p *pipeline.Plan) []Grant {
	database := conn.Config().Database
	grants := []Grant{{"CONNECT ON DATABASE " + pgx.Identifier{database}.Sanitize(),
		`has_database_privilege(r.oid, $2::text, 'CONNECT')`, []any{database}, false}}
	seen := map[string]bool{}
	usage := func(schema string) {
		if !seen[schema] {
			seen[schema] = true
			grants = append(grants, Grant{"USAGE ON SCHEMA " + pgx.Identifier{schema}.Sanitize(),
				`coalesce((SELECT has_schema_privilege(r.oid, n.oid, 'USAGE') FROM pg_namespace n WHERE n.nspname = $2), false)`, []any{schema},
				schema == "outflow"})
		}
	}
	for _, t := range p.Tables {
		usage(t.Relation.Schema)
		quoted := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			quoted[i] = pgx.Identifier{c}.Sanitize()
		}
		grants = append(grants, Grant{
			fmt.Sprintf("SELECT (%s) ON %s", strings.Join(quoted, ", "), pgx.Identifier{t.Relation.Schema, t.Relation.Name}.Sanitize()),
			`(SELECT bool_and(has_column_privilege(r.oid, $2::oid, c, 'SELECT')) FROM unnest($3::text[]) c)`,
			[]any{t.Relation.OID, t.Columns}, false})
	}
	usage("outflow")
	for _, right := range sql.Rights() {
		grants = append(grants, Grant{fmt.Sprintf("%s ON outflow.%s", right.Privilege, right.Table),
			`coalesce((SELECT has_table_privilege(r.oid, c.oid, $3) FROM pg_class c
				WHERE c.relnamespace = to_regnamespace('outflow') AND c.relname = $2), false)`, []any{right.Table, right.Privilege}, true})
	}
	return grants
}
