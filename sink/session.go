package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication"
)

// session is a connection to an external database together with what is known of that database: how far each mapping is,
// which types it has, which statements are prepared. It belongs to one goroutine at a time.
type session struct {
	d          *Destination
	conn       *pgconn.PgConn
	held       []int64 // by mapping: last_synced_sequence_id as we last saw or set it
	expected   []int64 // the same when what is in flight is committed
	types      map[string]bool
	statements map[statementKey]*mapping.Statement
	prepared   map[string]bool
	backfill   *backfill // nil: every mapping is complete
	epoch      int64     // the destination's when the session was opened, and so the metadata's
	least      int64     // what the database had at that time
	plan       string    // plan_cache_mode of the open transaction
	keepOpen   bool      // an error does not end the transaction: a savepoint is set
}

type statementKey struct {
	mapping, step int
	relation      *replication.Relation
}

// dialConfig reads an operator's connection string: any host and any sslmode, but nothing of ours that it could
// override. The process has no PG* variables any more when this is called.
func dialConfig(dsn string, o Options) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("the connection string cannot be read: %w", err)
	}
	// pgbouncer refuses other start-up parameters; the rest is set in each transaction.
	config.RuntimeParams = map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}
	config.ConnectTimeout = o.ConnectTimeout
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	return config, nil
}

// connect opens the destination's session and makes its metadata and tables ready.
func (d *Destination) connect(ctx context.Context) error {
	if d.fault != nil {
		return d.fault
	}
	c := d.router.connections
	d.mu.Lock()
	d.dialing = time.Now()
	doubtful := d.status.Attempts > 0
	d.mu.Unlock()
	admitted, err := c.acquireFor(ctx, doubtful)
	d.mu.Lock()
	d.dialing = time.Time{}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := d.dial(ctx)
	admitted()
	if err != nil {
		c.release()
		return explainConnect(err)
	}
	d.attach()
	if err := s.open(ctx); err != nil {
		s.close()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session = s
	d.status.SequenceID = s.lowest()
	d.caughtUp = s.backfill == nil
	if s.backfill != nil {
		d.due, d.status.Copied = true, s.backfill.cursor.Rows
	}
	return nil
}

func (d *Destination) dial(ctx context.Context) (*session, error) {
	c := d.router.connections
	if err := c.dials.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.dials.Release(1)
	ctx, cancel := context.WithTimeout(ctx, d.router.Options.ConnectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, d.config)
	if err != nil {
		return nil, err
	}
	return &session{d: d, conn: conn, types: map[string]bool{}, statements: map[statementKey]*mapping.Statement{},
		prepared: map[string]bool{}}, nil
}

func explainConnect(err error) error {
	e := newError(fmt.Errorf("connecting: %w", err))
	var known interface{ Remedy() string }
	if errors.As(err, &known) {
		e.Remedy = known.Remedy()
	}
	switch e.SQLState {
	case "28P01", "28000":
		e.Remedy = "check user and password of the destination's dsn, and pg_hba.conf there"
	case databaseMissing:
		e.Remedy = "create the database, or correct the destination's dsn"
	}
	return e
}

// close ends the connection and gives its place back.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.d.router.connections.release()
}

// usable reports whether the connection can take another transaction.
func (s *session) usable() bool { return !s.conn.IsClosed() && s.conn.TxStatus() == 'I' }

// lowest is the id up to which every mapping is synced.
func (s *session) lowest() int64 {
	if len(s.held) == 0 {
		return -1
	}
	return slices.Min(s.held)
}

// behind tells, by mapping, which have not applied the transaction with that id.
func (s *session) behind(id int64) []bool {
	b := make([]bool, len(s.held))
	for i, held := range s.held {
		b[i] = held < id
	}
	return b
}

// exec runs one statement with the extended protocol and returns its rows in text form.
func (s *session) exec(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.d.router.Options.StatementTimeout+s.d.router.Options.LockTimeout)
	defer cancel()
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	r := s.conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	return r.Rows, r.Err
}

// isTrue reports whether the answer is one row with one column that is true.
func isTrue(rows [][][]byte) bool {
	return len(rows) == 1 && len(rows[0]) == 1 && string(rows[0][0]) == "t"
}

// The metadata table is a contract: the first three columns are read by others, the rest is ours.
const (
	createMetadata = `CREATE TABLE IF NOT EXISTS "_stack_sync_metadata" (
		"mapping_name" text PRIMARY KEY,
		"last_synced_sequence_id" bigint NOT NULL DEFAULT -1,
		"updated_at" timestamp NOT NULL DEFAULT now())`
	extendMetadata = `ALTER TABLE "_stack_sync_metadata"
		ADD COLUMN IF NOT EXISTS "fingerprint" text,
		ADD COLUMN IF NOT EXISTS "tenant" text,
		ADD COLUMN IF NOT EXISTS "source" text,
		ADD COLUMN IF NOT EXISTS "epoch" bigint,
		ADD COLUMN IF NOT EXISTS "backfill" jsonb,
		ADD COLUMN IF NOT EXISTS "mark" text`
	readMetadata = `SELECT "mapping_name", "last_synced_sequence_id", "fingerprint", "tenant", "source", "epoch", "backfill", "mark"
		FROM public."_stack_sync_metadata"`
	// A table that has no owner yet is an older system's: its ids are not ours.
	adoptMetadata = `UPDATE "_stack_sync_metadata"
		SET "tenant" = $1, "source" = $2, "last_synced_sequence_id" = -1, "fingerprint" = NULL WHERE "source" IS NULL`
	// A mapping that is filled anew: it takes live changes from what the stream still has, the rest is copied.
	fillMapping = `INSERT INTO "_stack_sync_metadata" AS m
			("mapping_name", "tenant", "source", "fingerprint", "epoch", "backfill", "last_synced_sequence_id", "mark")
		VALUES ($1, $2, $3, $4, $5::bigint, $6::jsonb, $7::bigint, $8)
		ON CONFLICT ("mapping_name") DO UPDATE SET "fingerprint" = excluded."fingerprint", "epoch" = excluded."epoch",
			"backfill" = excluded."backfill", "mark" = excluded."mark", "updated_at" = now(),
			"last_synced_sequence_id" = greatest(m."last_synced_sequence_id", excluded."last_synced_sequence_id")`
	// Others that are being filled begin again with it, so that all of them are at one place.
	refillMappings = `UPDATE "_stack_sync_metadata" SET "backfill" = $1::jsonb WHERE "backfill" IS NOT NULL`
)

// metadata is what the external database says of a mapping.
type metadata struct {
	id                          int64
	fingerprint, tenant, source string
	epoch                       int64  // 0 where it has none
	backfill                    string // cursor of a backfill in progress, "" where there is none
	mark                        string // the primary's newest checkpoint when the row was last written
}

// open reads the metadata and makes ready what is missing: the metadata table, each mapping's row and tables.
func (s *session) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.router.Options.StatementTimeout)
	defer cancel()
	known, err := s.metadata(ctx)
	if err != nil {
		return err
	}
	if err := s.checkContinuity(ctx, known); err != nil {
		return err
	}
	if !s.ready(known) || (s.d.router.Options.Quarantine && !s.hasQuarantine(ctx)) {
		if err := s.install(ctx, known == nil); err != nil {
			return err
		}
		if known, err = s.metadata(ctx); err != nil {
			return err
		}
	}
	s.held = s.held[:0]
	for _, m := range s.d.mappings {
		s.held = append(s.held, known[m.Name].id)
	}
	s.expected = append(s.expected[:0], s.held...)
	if s.backfill, err = newBackfill(s, known); err != nil {
		return err
	}
	return s.check(ctx)
}

// checkContinuity compares what the external database has with what the primary was told that it has. Less means that it
// was restored from a backup, emptied or swapped: the stream cannot fill the gap, so a new epoch has it copied anew.
func (s *session) checkContinuity(ctx context.Context, known map[string]metadata) error {
	d := s.d
	if err := s.checkAhead(ctx, known); err != nil {
		return err
	}
	s.remember()
	if s.least < 0 {
		return nil // the primary knows nothing of it: it is new
	}
	gap := known == nil
	for _, m := range d.mappings {
		if row, ok := known[m.Name]; ok && row.epoch == s.epoch && row.id < s.least {
			gap = true
		}
	}
	if !gap {
		return nil
	}
	d.log.Warn("the external database has less than it had: it is copied anew", zap.Int64("sequence_id", s.least))
	if err := d.raiseEpoch(ctx, "the external database went back: restored, emptied or swapped"); err != nil {
		return err
	}
	s.remember()
	return nil
}

// wantedEpoch is what the external database's metadata must say, or it is copied anew.
func (d *Destination) wantedEpoch() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.epoch
}

// remember notes for the whole session what the destination is to be: another goroutine may raise the epoch meanwhile, and
// the session then ends.
func (s *session) remember() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.epoch, s.least = s.d.epoch, max(s.d.note, s.d.released)
}

// checkAhead refuses an external database that has ids which the primary has not given yet: the primary went back. Changes
// with lower ids would be taken for old ones and skipped.
func (s *session) checkAhead(ctx context.Context, known map[string]metadata) error {
	r := s.d.router
	highest := int64(-1)
	for _, m := range known {
		highest = max(highest, m.id)
		if m.epoch != s.d.wantedEpoch() {
			continue // it is copied anew, with ids above all that were given
		}
		if remembers, err := r.State.knows(ctx, m.mark); err != nil {
			return err
		} else if !remembers {
			return &Error{verdict: needsHuman, Err: fmt.Errorf("the external database was written after checkpoint %s, which the primary "+
				"does not know: the primary was restored from a backup", m.mark), Remedy: resetRemedy}
		}
	}
	if highest <= r.SequenceID(r.Reader.Position()) {
		return nil
	}
	now, err := (&replication.Copier{Primary: r.Primary}).Once(ctx) // the stream may only be behind
	if err != nil {
		return err
	}
	if highest <= r.SequenceID(now.Horizon) {
		return nil
	}
	return &Error{verdict: needsHuman, Err: fmt.Errorf("the external database has sequence id %d, and the primary has come to %d: "+
		"the primary was restored from a backup", highest, r.SequenceID(now.Horizon)),
		Remedy: resetRemedy}
}

// metadata reads the table; nil means that it does not exist, or not with our columns.
func (s *session) metadata(ctx context.Context) (map[string]metadata, error) {
	rows, err := s.exec(ctx, readMetadata)
	if state := sqlstate(err); state == undefinedTable || state == undefinedColumn {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading _stack_sync_metadata: %w", err)
	}
	known := map[string]metadata{}
	for _, r := range rows {
		if len(r) != 8 {
			return nil, errors.New("reading _stack_sync_metadata: the server gives other columns")
		}
		m := metadata{fingerprint: string(r[2]), tenant: string(r[3]), source: string(r[4]), backfill: string(r[6]), mark: string(r[7])}
		if m.id, err = strconv.ParseInt(string(r[1]), 10, 64); err == nil && r[5] != nil {
			m.epoch, err = strconv.ParseInt(string(r[5]), 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("reading _stack_sync_metadata: %w", err)
		}
		known[string(r[0])] = m
		if m.source != "" && (m.source != s.d.router.SourceID || m.tenant != s.d.Tenant) {
			return nil, &Error{verdict: needsHuman,
				Err:    fmt.Errorf("the database holds the rows of tenant %q of source %s; two would mix", m.tenant, m.source),
				Remedy: "give this destination a database of its own, or empty this one: drop the mappings' tables and _stack_sync_metadata"}
		}
	}
	return known, nil
}

func (s *session) hasQuarantine(ctx context.Context) bool {
	rows, err := s.exec(ctx, `SELECT to_regclass('public."_stack_sync_quarantine"') IS NOT NULL`)
	return err == nil && isTrue(rows)
}

// ready reports whether every mapping has its row, its tables and the stream's continuity.
func (s *session) ready(known map[string]metadata) bool {
	for _, m := range s.d.mappings {
		if !s.readyFor(m, known) {
			return false
		}
	}
	return true
}

func (s *session) readyFor(m *mapping.Mapping, known map[string]metadata) bool {
	row, ok := known[m.Name]
	return ok && row.source != "" && row.fingerprint == m.Fingerprint() && row.epoch == s.epoch
}

// install creates what is missing in one transaction. A mapping that is new, has changed, or is of an earlier epoch has
// its schema run and is filled anew.
func (s *session) install(ctx context.Context, fresh bool) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	err := s.installAll(ctx, fresh)
	if err == nil {
		_, err = s.exec(ctx, "COMMIT")
	}
	if err != nil {
		s.rollback()
	}
	return err
}

func (s *session) installAll(ctx context.Context, fresh bool) error {
	tenant, source := s.d.Tenant, s.d.router.SourceID
	if fresh {
		for _, ddl := range []string{createMetadata, extendMetadata} {
			if _, err := s.exec(ctx, ddl); err != nil {
				return explainDDL(fmt.Errorf("creating _stack_sync_metadata: %w", err), s.d.config.User)
			}
		}
	}
	if s.d.router.Options.Quarantine {
		if _, err := s.exec(ctx, createQuarantine); err != nil {
			return explainDDL(fmt.Errorf("creating _stack_sync_quarantine: %w", err), s.d.config.User)
		}
	}
	if _, err := s.exec(ctx, adoptMetadata, tenant, source); err != nil {
		return fmt.Errorf("adopting _stack_sync_metadata: %w", err)
	}
	known, err := s.metadata(ctx)
	if err != nil {
		return err
	}
	anew := map[string]bool{}
	for _, m := range s.d.mappings { // each after those that it reads
		reads := slices.ContainsFunc(m.After, func(name string) bool { return anew[name] })
		if s.readyFor(m, known) && !reads {
			continue
		}
		if known[m.Name].epoch > s.epoch {
			return &Error{verdict: conflict, Err: fmt.Errorf("another process has begun epoch %d", known[m.Name].epoch)}
		}
		anew[m.Name] = true
		for _, f := range m.DDL() {
			if _, err := s.exec(ctx, f.SQL); err != nil {
				return explainDDL(faultOf(m.Name, f.FaultAt, err), s.d.config.User)
			}
		}
		if s.conn.TxStatus() != 'T' {
			return &Error{Mapping: m.Name, verdict: needsHuman, Err: fmt.Errorf("its schema ended the transaction that it ran in")}
		}
		least := strconv.FormatInt(s.least, 10)
		_, err := s.exec(ctx, fillMapping, m.Name, tenant, source, m.Fingerprint(), strconv.FormatInt(s.epoch, 10), firstCursor.String(), least, *s.d.router.mark.Load())
		if err == nil {
			_, err = s.exec(ctx, refillMappings, firstCursor.String())
		}
		if err != nil {
			return fmt.Errorf("writing _stack_sync_metadata: %w", err)
		}
		s.d.log.Info("the mapping is filled from the primary", zap.String("mapping", m.Name), zap.String("fingerprint", m.Fingerprint()))
	}
	return nil
}

func explainDDL(err error, user string) error {
	e := newError(err)
	if e.SQLState == insufficientPrivilege {
		e.Remedy = fmt.Sprintf(`as the database's owner: GRANT USAGE, CREATE ON SCHEMA public TO %q (tables that exist already must belong to it)`, user)
	}
	switch pgErr := asPgError(err); {
	case pgErr != nil && strings.HasPrefix(pgErr.ConstraintName, "pg_"):
		e.verdict = retry // two sessions make the same table: IF NOT EXISTS looks too early
	case e.verdict == rowFault:
		e.verdict = needsHuman // DDL has no rows
	}
	return e
}

// begin opens a transaction with the settings that the work depends on.
func (s *session) begin(ctx context.Context) error {
	if _, err := s.exec(ctx, beginSQL); err != nil {
		return fmt.Errorf("BEGIN: %w", err)
	}
	s.plan = "auto"
	if _, err := s.exec(ctx, s.d.router.settings, "on", s.plan); err != nil {
		return fmt.Errorf("setting up the transaction: %w", err)
	}
	return nil
}

// rollback ends a failed transaction; a connection where that fails is closed.
func (s *session) rollback() {
	if s.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.conn.TxStatus() != 'I' {
		_, _ = s.exec(ctx, "ROLLBACK")
	}
}

// check prepares every step for the tables as they are known now, so that a mapping that cannot work is found before it
// is used, with its line.
func (s *session) check(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.rollback()
	for mi, m := range s.d.mappings {
		for si := range m.Steps {
			if err := s.prepareStep(ctx, mi, si); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepareStep prepares one step on the external server, which finds what is wrong with it.
func (s *session) prepareStep(ctx context.Context, mi, si int) error {
	m := s.d.mappings[mi]
	from := m.Steps[si].From
	rel := s.d.router.relation(from)
	if rel == nil {
		return &Error{Mapping: m.Name, Table: from, verdict: needsHuman,
			Err:    fmt.Errorf("step %d reads from %q, which is not a table of source.tables", si+1, from),
			Remedy: "add the table to source.tables, or correct the mapping"}
	}
	st, err := s.statement(ctx, mi, si, rel)
	if err != nil || s.prepared[st.Name] {
		return err
	}
	name := st.Name
	if s.d.unnamed {
		name = ""
	}
	_, err = s.conn.Prepare(ctx, name, st.SQL, st.ParameterOIDs())
	if sqlstate(err) == duplicatePrepared { // of another client of a pooler
		s.d.unnamed = true
		return newError(fmt.Errorf("a pooler does not keep prepared statements, going on without: %w", err))
	}
	if err != nil {
		return s.explainStatement(st, err)
	}
	s.prepared[st.Name] = true
	return nil
}

// statement compiles a step for a relation, once a session.
func (s *session) statement(ctx context.Context, mi, si int, rel *replication.Relation) (*mapping.Statement, error) {
	key := statementKey{mi, si, rel}
	if st, ok := s.statements[key]; ok {
		return st, nil
	}
	if err := s.loadTypes(ctx, rel); err != nil {
		return nil, err
	}
	st := s.d.mappings[mi].Compile(si, rel, func(name string) bool { return s.types[name] })
	s.statements[key] = st
	return st, nil
}

// loadTypes asks which of the relation's types the external database has.
func (s *session) loadTypes(ctx context.Context, rel *replication.Relation) error {
	var unknown []string
	for _, c := range rel.Columns {
		if _, ok := s.types[c.Type]; !ok && !slices.Contains(unknown, c.Type) {
			unknown = append(unknown, c.Type)
		}
	}
	for _, name := range unknown {
		rows, err := s.exec(ctx, `SELECT to_regtype($1) IS NOT NULL`, name)
		if err != nil {
			return fmt.Errorf("looking for type %s: %w", name, err)
		}
		s.types[name] = isTrue(rows)
	}
	return nil
}

// explainStatement gives an error of a step the place in the mapping's file, and where a column is missing, what there is.
func (s *session) explainStatement(st *mapping.Statement, err error) *Error {
	e := newError(faultOf(st.Mapping.Name, st.Fault, err))
	e.Table = st.Table
	if e.SQLState == undefinedColumn {
		if rel := s.d.router.relation(st.Table); rel != nil {
			e.Remedy = fmt.Sprintf("%s has the columns %s; a column that is not published is added to columns: of its table in source.tables",
				st.Table, strings.Join(st.Mapping.Visible(st.Table, rel.Names()), ", "))
		}
	}
	return e
}

// faultOf turns an error with a position into one with file, line and column.
func faultOf(name string, fault func(position int32, format string, args ...any) *mapping.Fault, err error) *Error {
	e := &Error{Mapping: name, verdict: classify(err), SQLState: sqlstate(err), Err: err}
	if pgErr := asPgError(err); pgErr != nil {
		where := fault(pgErr.Position, "%s", serverText(pgErr))
		e.Err = fmt.Errorf("%w (SQLSTATE %s)", where, pgErr.Code)
	}
	return e
}
