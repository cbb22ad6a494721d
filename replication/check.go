package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// TableRule says which table is read and which of its columns names the tenant.
type TableRule struct {
	Schema, Name, Tenant string
	InsertsOnly          bool // only inserted rows matter, so deletes need not tell the tenant
}

// Check finds what would keep the primary from being read, and returns all of it at once, each a [*Problem]. It changes
// nothing. tables are the rules' tables, in order, where it finds them.
func Check(ctx context.Context, conn *pgx.Conn, rules []TableRule) (tables []*Table, err error) {
	server := CheckServer(ctx, conn)
	tables, err = CheckTables(ctx, conn, rules)
	return tables, errors.Join(server, err)
}

// CheckServer is the part of Check that is about the server and the role which connects.
func CheckServer(ctx context.Context, conn *pgx.Conn) error {
	var problems []error
	var level, user string
	var replicates, recovery, readOnly bool
	err := conn.QueryRow(ctx, `SELECT current_setting('wal_level'), current_user::text,
		(SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
		pg_is_in_recovery(), current_setting('transaction_read_only')::bool`).Scan(&level, &user, &replicates, &recovery, &readOnly)
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
	if !replicates {
		problems = append(problems, &Problem{What: fmt.Sprintf("role %q may not replicate", user),
			Remedy: "ALTER ROLE " + quoteIdentifier(user) + " REPLICATION"})
	}
	return errors.Join(problems...)
}

// CheckTables is the part of Check that is about the tables.
func CheckTables(ctx context.Context, conn *pgx.Conn, rules []TableRule) (tables []*Table, err error) {
	var problems []error
	report := func(what, remedy string) { problems = append(problems, &Problem{What: what, Remedy: remedy}) }
	for _, rule := range rules {
		t, err := LoadTable(ctx, conn, rule.Schema, rule.Name)
		if err != nil {
			return nil, err
		}
		if t == nil {
			what, remedy, err := noTable(ctx, conn, rule)
			if err != nil {
				return nil, err
			}
			report(what, remedy)
		} else {
			t.check(rule, report)
		}
		tables = append(tables, t)
	}
	return tables, errors.Join(problems...)
}

// noTable says what stands in the place of a table.
func noTable(ctx context.Context, conn *pgx.Conn, rule TableRule) (what, remedy string, err error) {
	name := rule.Schema + "." + rule.Name
	var kind string
	err = conn.QueryRow(ctx, `SELECT CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table'
			WHEN 'S' THEN 'a sequence' WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index' WHEN 'c' THEN 'a type' ELSE 'no table' END
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`, rule.Schema, rule.Name).Scan(&kind)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Sprintf("table %s does not exist on the primary", name), "create it, or correct source.tables (names are case-sensitive)", nil
	case err != nil:
		return "", "", fmt.Errorf("reading the catalog of %s: %w", name, err)
	}
	return fmt.Sprintf("%s is %s: only a table has changes in the WAL", name, kind), "name in source.tables the table that holds the rows", nil
}

func (t *Table) check(rule TableRule, report func(what, remedy string)) {
	r := t.Relation
	name := pgx.Identifier{r.Schema, r.Name}.Sanitize()
	if t.Persist != 'p' {
		report(fmt.Sprintf("table %s is not logged, so its changes are not in the WAL", r), "ALTER TABLE "+name+" SET LOGGED")
	}
	if len(r.Key) == 0 {
		report(fmt.Sprintf("table %s has no replica identity: publishing it would make the application's UPDATE and DELETE fail", r),
			"give it a primary key, or ALTER TABLE "+name+" REPLICA IDENTITY USING INDEX <unique index>, or ... FULL")
		return
	}
	tenant := r.Column(rule.Tenant)
	if tenant < 0 {
		report(fmt.Sprintf("table %s has no column %q, which source.tables names as its tenant", r, rule.Tenant),
			"correct source.tables; the columns are "+strings.Join(r.Names(), ", "))
		return
	}
	if !r.Columns[tenant].Identity && !rule.InsertsOnly {
		report(fmt.Sprintf("tenant column %q is not in the replica identity of %s: a delete would not tell whose row it was", rule.Tenant, r),
			fmt.Sprintf("CREATE UNIQUE INDEX <index> ON %s (%s, <key>) and ALTER TABLE %s REPLICA IDENTITY USING INDEX <index>, or REPLICA IDENTITY FULL",
				name, quoteIdentifier(rule.Tenant), name))
	}
}

// Names are the names of the columns, in order.
func (r *Relation) Names() []string {
	names := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		names[i] = c.Name
	}
	return names
}

// Publish chooses what of t is published: the wanted columns and the replica identity. Names that the table does not have
// are left out: the statement that uses one fails on the external server, where its line is known.
func (t *Table) Publish(wanted []string) PublishedTable {
	p := PublishedTable{Table: t}
	for _, c := range t.Relation.Columns {
		if c.Identity || slices.Contains(wanted, c.Name) {
			p.Columns = append(p.Columns, c.Name)
		}
	}
	return p
}

// watchCreation tells once a second how many transactions the creation of the slot waits for: it needs all that run now
// to end (the Postgres manual, "Logical Decoding Concepts"; SnapBuildWaitSnapshot).
func (s Setup) watchCreation(ctx context.Context, creator uint32) {
	if s.Waiting == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		conn, err := s.Primary.Connect(ctx)
		if err != nil {
			continue
		}
		n, oldest, err := oldTransactions(ctx, conn, creator, 0)
		_ = conn.Close(ctx)
		if err == nil && n > 0 {
			s.Waiting(n, oldest)
		}
	}
}

// oldTransactions counts the transactions of the whole cluster that have an id and have been open for that time, without those of the
// process except (0: none), and describes the oldest one with the statement that ends it. A prepared transaction has no process: only pg_prepared_xacts has it.
func oldTransactions(ctx context.Context, conn *pgx.Conn, except uint32, open time.Duration) (n int, oldest string, err error) {
	err = conn.QueryRow(ctx, `WITH old AS (
			SELECT xact_start AS since, format('process %s of %s in database %s, open since %s: SELECT pg_terminate_backend(%s) ends it',
				pid, quote_ident(usename), quote_ident(datname), date_trunc('second', xact_start), pid) AS what
			FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> $1
			UNION ALL SELECT prepared, format('prepared transaction %L of %I in database %I, prepared at %s: COMMIT PREPARED or ROLLBACK PREPARED ends it',
				gid, owner, database, date_trunc('second', prepared)) FROM pg_prepared_xacts)
		SELECT count(*) OVER (), what FROM old WHERE since <= now() - make_interval(secs => $2) ORDER BY since NULLS LAST LIMIT 1`, int64(except), open.Seconds()).Scan(&n, &oldest)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", nil
	}
	return n, oldest, err
}
