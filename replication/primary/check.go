package primary

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgerror"
	"outflow/replication/wal"
)

// TableRule names a table to read and the table's tenant column.
type TableRule struct {
	Schema, Name, Tenant string
	InsertsOnly          bool // only inserted rows matter, so deletes need not tell the tenant
}

// Check finds obstacles to reading the primary, and returns all obstacles at once, each a [*Problem]. Check changes
// nothing. tables are the rules' tables, in order, as far as found.
func Check(ctx context.Context, conn *pgx.Conn, rules []TableRule) (tables []*wal.Table, err error) {
	server := CheckServer(ctx, conn)
	tables, err = CheckTables(ctx, conn, rules)
	return tables, errors.Join(server, err)
}

// CheckServer is the part of Check about the server and the connecting role.
func CheckServer(ctx context.Context, conn *pgx.Conn) error {
	if err := checkVersion(conn); err != nil {
		return err
	}
	var problems []error
	var level, user string
	var recovery, readOnly bool
	err := conn.QueryRow(ctx, `SELECT current_setting('wal_level'), current_user::text, pg_is_in_recovery(), current_setting('transaction_read_only')::bool`).
		Scan(&level, &user, &recovery, &readOnly)
	switch {
	case err != nil:
		return fmt.Errorf("reading the primary's settings: %w", err)
	case recovery:
		return isStandby(conn)
	case readOnly:
		problems = append(problems, isReadOnly(user))
	}
	if level != "logical" {
		problems = append(problems, &Problem{What: fmt.Sprintf("wal_level on the primary is %q; logical replication needs \"logical\"", level),
			Remedy: "ALTER SYSTEM SET wal_level = logical, then restart the primary"})
	}
	if _, err := mayReplicate(ctx, conn); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func checkVersion(conn *pgx.Conn) error {
	if version := ServerVersion(conn.PgConn()); version != 0 && version < oldestServer {
		return &Problem{What: fmt.Sprintf("PostgreSQL %s is too old: Outflow needs version %d or newer", conn.PgConn().ParameterStatus("server_version"), oldestServer),
			Remedy: "upgrade the primary"}
	}
	return nil
}

// mayReplicate asks whether the role may replicate. Where the role has neither the attribute nor a superuser's rights, a walsender's
// session tells: on Amazon RDS a member of rds_replication gets a session without the attribute, and attribute says false.
func mayReplicate(ctx context.Context, conn *pgx.Conn) (attribute bool, err error) {
	err = conn.QueryRow(ctx, `SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&attribute)
	if err != nil || attribute {
		return attribute, err
	}
	primary := &Server{config: conn.Config()}
	if _, err := primary.identify(ctx); err != nil {
		return false, err
	}
	return false, nil
}

// replicateRemedy lets a role replicate.
func replicateRemedy(role string) string {
	return fmt.Sprintf("ALTER ROLE %s REPLICATION, or on Amazon RDS and Aurora: GRANT rds_replication TO %[1]s", quoteIdentifier(role))
}

// CheckTables is the part of Check about the tables.
func CheckTables(ctx context.Context, conn *pgx.Conn, rules []TableRule) (tables []*wal.Table, err error) {
	if err := checkVersion(conn); err != nil {
		return nil, err
	}
	names := make([]wanted, len(rules))
	for i, r := range rules {
		names[i] = wanted{0, r.Schema, r.Name}
	}
	version := ServerVersion(conn.PgConn())
	f, err := loadFacts(ctx, conn, version, "", names)
	if err != nil {
		return nil, err
	}
	if f, err = renamed(ctx, conn, version, f, names); err != nil {
		return nil, err
	}
	var found violations
	for i, rule := range rules {
		found = append(found, judgeTable(rule, &f.Tables[i], conn.Config().User, version, nil)...)
		var t *wal.Table
		if f.Tables[i].Kind == "r" || f.Tables[i].Kind == "p" {
			if t, err = LoadTable(ctx, conn, f.Tables[i].Schema, f.Tables[i].Name); err != nil {
				return nil, err
			}
			if t == nil { // dropped since its facts were read
				return nil, fmt.Errorf("reading the catalog of %s.%s: the table is gone", f.Tables[i].Schema, f.Tables[i].Name)
			}
			if column := f.Tables[i].column(rule.Tenant); column != nil {
				t.Ownerless = !column.NotNull
			}
		}
		tables = append(tables, t)
	}
	return tables, errors.Join(found.errors()...)
}

// renamed finds missing tables by the OIDs noted for their names: the tables may have other names now. The schema outflow need not exist.
func renamed(ctx context.Context, conn *pgx.Conn, version int, f facts, tables []wanted) (facts, error) {
	missing := false
	for i := range f.Tables {
		if f.Tables[i].OID != 0 {
			continue
		}
		err := conn.QueryRow(ctx, `SELECT coalesce(max((t ->> 'oid')::bigint), 0)::oid FROM outflow.source, jsonb_path_query(relied, '$.tables[*]') t
			WHERE t ->> 'schema' = $1 AND t ->> 'name' = $2`, tables[i].schema, tables[i].name).Scan(&tables[i].oid)
		switch pgerror.SQLState(err) {
		case pgerror.UndefinedTable, pgerror.InsufficientRights, pgerror.UndefinedColumn:
			return f, nil
		}
		if err != nil {
			return f, fmt.Errorf("reading outflow.source: %w", err)
		}
		missing = missing || tables[i].oid != 0
	}
	if !missing {
		return f, nil
	}
	return loadFacts(ctx, conn, version, "", tables)
}
