package external

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/replication/primary"
)

// Checker finds out beforehand which faults would keep an external database from being filled. A check works in transactions that
// end in a rollback, and leaves nothing behind. Safe for concurrent use.
type Checker struct {
	Options  Options
	SourceID string       // the source as the metadata of external databases names the source, "" where nothing ever ran
	Tables   SourceTables // the primary's tables that are in order
	Highest  int64        // the highest id that the primary can have given, -1 where the id is not known
}

// checkLocks is how long a check waits for a lock: the process that fills the database holds its locks for moments only.
const checkLocks = 2 * time.Second

// Check looks at one external database. The specification's mappings may be empty where the primary could not be asked. server
// identifies the database and its server, so that two destinations with one database are found; server is "" where the database
// did not answer.
func (c *Checker) Check(ctx context.Context, t DestinationSpec) (found primary.Findings, server string) {
	if t.Fault != nil {
		fail(&found, "configuration", t.Fault)
		return found, ""
	}
	options := c.Options
	options.LockTimeout = min(options.LockTimeout, checkLocks)
	db, err := NewDatabase(&Owner{c.SourceID, t.Tenant, t.Name}, t, options, c.Tables, zap.NewNop())
	if err != nil {
		fail(&found, "connection", err)
		return found, ""
	}
	defer func() {
		if cause := recover(); cause != nil {
			fail(&found, "database", Panicked(cause))
		}
	}()
	db.Unnamed = true // a pooler would keep prepared statements
	s, err := db.DialAlone(ctx)
	if err != nil {
		err := AsError(err)
		if err.Remedy == "" && err.SQLState == "" {
			err.Remedy = "check that the server runs, and check host, port and sslmode of the destination's dsn"
		}
		fail(&found, "connection", err)
		return found, ""
	}
	defer s.Close()
	k := &check{Checker: c, s: s, found: &found}
	server, writable := k.server(ctx)
	if !writable {
		found.Skip("mappings", "nothing can be written")
		return found, server
	}
	known, ok := k.owner(ctx)
	if !ok {
		return found, server
	}
	k.mappings(ctx, known)
	return found, server
}

// check is the look at one external database.
type check struct {
	*Checker
	s     *Session
	found *primary.Findings
}

// fail notes an error with its remedy.
func fail(found *primary.Findings, check string, err error) {
	e := AsError(err)
	plain := *e
	plain.Mapping, plain.Remedy = "", "" // both stand beside the error
	found.Fail(check, e.Remedy, "%s", fit.Text(plain.Error(), fit.Reason))
}

const inspectServer = `SELECT current_setting('server_version'), current_setting('server_version_num'), pg_is_in_recovery(),
	current_setting('transaction_read_only') = 'on', pg_encoding_to_char(d.encoding), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
	coalesce((SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'public'), false),
	has_database_privilege(d.oid, 'TEMP'), current_user::text, d.oid::text || '@' || pg_postmaster_start_time()::text,
	least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
			- (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
		CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit - (SELECT count(*) FROM pg_stat_activity WHERE datid = d.oid) END,
		CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit - (SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid) END)
	FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user`

// oldestExternal is the first version of Postgres that mappings are applied to.
const oldestExternal = 130000

// server looks at the server and at the rights of the role there.
func (k *check) server(ctx context.Context) (identity string, writable bool) {
	asked := time.Now()
	row, err := k.s.AskRow(ctx, 11, inspectServer)
	answered := time.Now()
	if err != nil {
		fail(k.found, "server", fmt.Errorf("reading the server's settings: %w", err))
		return "", false
	}
	column := func(i int) string { return string(row[i]) }
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(column(i), 10, 64) // the query casts the column
		return n
	}
	user, recovery, readOnly := column(8), column(2) == "t", column(3) == "t"
	k.found.Pass("connection", "PostgreSQL %s at %s:%d/%s, as %s", column(0), k.s.db.Config.Host, k.s.db.Config.Port, k.s.db.Config.Database, user)
	if number(1) < oldestExternal {
		k.found.Fail("version", "upgrade the server", "PostgreSQL %s is too old: mappings need version 13 or newer", column(0))
	}
	switch {
	case recovery:
		k.found.Fail("writable", "use the primary of that cluster in the destination's dsn", "the server is a standby")
	case readOnly:
		k.found.Fail("writable", fmt.Sprintf("ALTER ROLE %q RESET default_transaction_read_only, and the same for the database", user), "transactions are read only")
	}
	if encoding := column(4); encoding != "UTF8" {
		k.found.Warn("encoding", "use a database with ENCODING 'UTF8'", "%s: a value with a character that this encoding lacks is refused, and the destination halts", encoding)
	}
	if free := number(10); free < 1 {
		k.found.Warn("connections", "raise the limit, or connect other clients through a pooler", "this connection was the last one: the next may be refused")
	}
	primary.InspectClock(time.UnixMicro(number(5)), asked, answered, k.found)
	if column(6) != "t" {
		k.found.Fail("schema public", fmt.Sprintf("as the database's owner: GRANT USAGE, CREATE ON SCHEMA public TO %q", user), "role %q may not create tables in the schema", user)
	}
	if column(7) != "t" {
		k.found.Warn("temporary tables", fmt.Sprintf("GRANT TEMPORARY ON DATABASE %q TO %q", k.s.db.Config.Database, user), "role %q may not create temporary tables, which outflow verify needs", user)
	}
	return column(9), !recovery && !readOnly
}

// owner finds the owner of the rows in the database.
func (k *check) owner(ctx context.Context) (known Metadata, ok bool) {
	const check = "_stack_sync_metadata"
	known, err := k.s.Metadata(ctx)
	if err != nil {
		fail(k.found, check, err)
		return nil, false
	}
	highest := int64(-1)
	for _, m := range known {
		highest = max(highest, m.SequenceID)
	}
	switch {
	case known == nil:
		k.found.Pass(check, "the table does not exist: the database is filled from the beginning")
	case k.Highest >= 0 && highest > k.Highest:
		k.found.Fail(check, "run: outflow run --slot-reset, which raises the ids and copies every destination again",
			"the database has sequence id %d, but the primary is at %d: the primary was restored from a backup", highest, k.Highest)
	default:
		k.found.Pass(check, "of this tenant, up to sequence id %d", highest)
	}
	if known != nil {
		const mayWrite = `SELECT has_table_privilege('public."_stack_sync_metadata"', 'INSERT') AND has_table_privilege('public."_stack_sync_metadata"', 'UPDATE')`
		if row, err := k.s.AskRow(ctx, 1, mayWrite); err == nil && string(row[0]) != "t" {
			user := k.s.db.Config.User
			k.found.Fail(check, fmt.Sprintf("make %q the owner of the table, and of the mappings' tables", user), "role %q may not write to the table", user)
		}
	}
	return known, true
}

// mappings runs the statements of a first fill in one transaction, which is rolled back, and prepares every step.
func (k *check) mappings(ctx context.Context, known Metadata) {
	if len(k.s.db.Mappings) == 0 {
		return
	}
	if err := k.s.Begin(ctx); err != nil {
		fail(k.found, "mappings", err)
		return
	}
	defer k.s.Rollback()
	if known == nil && !k.try(ctx, "_stack_sync_metadata", func(ctx context.Context) error { return k.s.CreateMetadata(ctx) }) {
		return
	}
	for mi, m := range k.s.db.Mappings {
		check := "mapping " + m.Name
		row, exists := known[m.Name]
		if !exists || row.Fingerprint != m.Fingerprint() { // else the mapping's tables are there, and need not be touched
			if !k.try(ctx, check, func(ctx context.Context) error { return k.schema(ctx, m) }) {
				continue
			}
		}
		fine := true
		for si := range m.Steps {
			fine = k.try(ctx, check, func(ctx context.Context) error { return k.step(ctx, mi, si) }) && fine
		}
		for _, table := range m.Tables() {
			fine = k.try(ctx, check, func(ctx context.Context) error { return k.s.prepareKeys(ctx, m, table) }) && fine
		}
		if fine {
			k.found.Pass(check, "%d steps prepared", len(m.Steps))
		}
	}
	k.unswept()
}

// try runs f behind a savepoint, so that the check can go on after a failure of f.
func (k *check) try(ctx context.Context, check string, f func(context.Context) error) bool {
	err := k.s.Exec(ctx, "SAVEPOINT outflow_check")
	if err == nil {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, k.Options.AnswerTimeout())
		err = k.s.named(f(limited), began)
		cancel()
	}
	if err == nil {
		return true
	}
	fail(k.found, check, err)
	_ = k.s.Exec(ctx, "ROLLBACK TO SAVEPOINT outflow_check") // where the rollback fails, the next statement fails too
	return false
}

func (k *check) schema(ctx context.Context, m *mapping.Mapping) error {
	for _, f := range m.DDL() {
		if err := k.s.Exec(ctx, f.SQL); err != nil {
			return explainDDL(faultOf(m.Name, f.FaultAt, err), k.s.db.Config.User)
		}
	}
	return nil
}

// step prepares a step, and has the server plan the step without rows: only planning looks at rights on tables.
func (k *check) step(ctx context.Context, mi, si int) error {
	if err := k.s.prepareStep(ctx, mi, si); err != nil {
		return err
	}
	m := k.s.db.Mappings[mi]
	st, err := k.s.statement(ctx, mi, si, k.Tables.Relation(m.Steps[si].From))
	if err != nil {
		return err
	}
	nulls := make([][]byte, len(st.ParameterOIDs()))
	if _, err := k.s.conn.ExecParams(ctx, "EXPLAIN "+st.SQL, nulls, st.ParameterOIDs(), nil, nil).Close(); err != nil {
		return explainDDL(fmt.Errorf("step %d: %w", si+1, pgerror.Bounded(err)), k.s.db.Config.User)
	}
	return nil
}

// unswept warns of tables whose rows no mapping's keys can find again.
func (k *check) unswept() {
	for _, m := range k.s.db.Mappings {
		for _, table := range m.Tables() {
			if tables := unkeyed(k.s.db.Mappings, m, table); len(tables) > 0 {
				k.found.Warn("keys of "+table, "add keys: to mapping "+m.Name,
					"no mapping has keys of %s: a TRUNCATE, or changes that the stream lacks, halt the destination until an operator acts", strings.Join(tables, ", "))
			}
		}
	}
}
