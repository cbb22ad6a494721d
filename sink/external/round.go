package external

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/failpoint"
	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/mapping"
)

const (
	beginSQL  = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
	commitSQL = "COMMIT"
	// advanceSQL moves last_synced_sequence_id from the value held by this process, in the transaction that began the batch, or
	// fails: another process wrote, the owner is another one, or a mapping ended the transaction. The division is the shortest
	// way to fail inside a pipeline, where the count cannot be read before COMMIT is sent.
	advanceSQL = `WITH moved AS (
		UPDATE "_stack_sync_metadata" m SET "last_synced_sequence_id" = $1::bigint, "mark" = $7, "updated_at" = now()
		FROM unnest($2::text[], $3::bigint[], $8::text[]) AS h (name, held, print)
		WHERE m."mapping_name" = h.name AND m."fingerprint" = h.print AND m."last_synced_sequence_id" = h.held AND ` + ownedSQL + `
		RETURNING 1)
	SELECT 1 / (count(*) = cardinality($2::text[]))::int FROM moved`
	// moveCursorSQL moves the cursor of a copy from the value held by this process, or fails the transaction: as advanceSQL does for live
	// changes. The ids must be those held by this process too: a chunk read before newer changes were applied is not merged any more.
	// The ids move with the cursor: everything below the chunk's horizon is applied.
	moveCursorSQL = `WITH moved AS (
		UPDATE "_stack_sync_metadata" m SET "backfill" = nullif($1, '')::jsonb, "mark" = $8, "updated_at" = now(),
			"last_synced_sequence_id" = greatest(m."last_synced_sequence_id", $9::bigint)
		FROM unnest($2::text[], $3::bigint[], $10::text[]) AS h (name, held, print)
		WHERE m."mapping_name" = h.name AND m."fingerprint" = h.print AND m."last_synced_sequence_id" = h.held AND m."backfill" = $7::jsonb AND ` + ownedSQL + `
		RETURNING 1)
	SELECT 1 / (count(*) = cardinality($2::text[]))::int FROM moved`
	// ownedSQL is the condition of both kinds of batch on the metadata: its owner, its epoch, and the transaction that began.
	ownedSQL = `m."tenant" = $4 AND m."source" = $5 AND m."epoch" = $6::bigint
		AND pg_current_xact_id()::text = current_setting('outflow.xid', true)`
)

// searchPath is public and the schemas of extensions: where the operators of an extension's type are not found, the server may
// silently compare values as text instead (citext; the Postgres manual, F.9).
const searchPath = `SELECT pg_catalog.concat_ws(', ', 'public', pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(n.nspname), ', '))
	FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname NOT IN ('public', 'pg_catalog')`

// settings is the statement that fixes, for one transaction, all settings that affect the work. Start-up parameters do not serve:
// pgbouncer refuses start-up parameters, and in transaction mode a session's settings pass to another client next. $1 is
// synchronous_commit, $2 plan_cache_mode. The statement also gives positions. jit compiles for every batch and makes a batch five to ten
// times slower.
func (o *Options) settings(positions string) string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	var b strings.Builder
	b.WriteString(`SELECT ` + positions + `, pg_catalog.set_config('synchronous_commit', $1, true), ` +
		`pg_catalog.set_config('plan_cache_mode', $2, true), pg_catalog.set_config('outflow.xid', pg_current_xact_id()::text, true)`)
	for _, s := range [][2]string{
		{"statement_timeout", ms(o.StatementTimeout)}, {"lock_timeout", ms(o.LockTimeout)},
		{"idle_in_transaction_session_timeout", ms(2 * o.LockTimeout)}, // a frozen process must not keep its locks

		{"jit", "off"}, {"DateStyle", "ISO, YMD"}, {"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"}, {"bytea_output", "hex"}, {"extra_float_digits", "3"}, {"lc_monetary", "C"},
		{"standard_conforming_strings", "on"}, {"array_nulls", "on"}, {"xmloption", "content"},
		{"row_security", "off"}, // a policy would hide rows from a DELETE: the server refuses the statement instead
	} {
		fmt.Fprintf(&b, ", pg_catalog.set_config('%s', '%s', true)", s[0], s[1])
	}
	fmt.Fprintf(&b, ", pg_catalog.set_config('search_path', (%s), true)", searchPath)
	return b.String()
}

// Round is the statements of one round trip, in order, so that an error finds its statement. The zero fields are those of a durable batch. A
// Round belongs to its session's goroutine.
type Round struct {
	Async       bool // set before Begin: COMMIT does not wait for the disk of the external server
	PlainInsert bool // set before Steps: rows new on the source are inserted without ON CONFLICT

	s         *Session
	p         *pgconn.Pipeline
	sent      []sent
	answered  int       // so many requests succeeded
	Positions Positions // as the settings' answer told
}

// command is a statement to be sent.
type command struct {
	kind      kind
	label     string // for messages
	name      string // of the prepared statement; "" is sent with its text each time
	sql       string
	statement *mapping.Statement // nil for Outflow's own statements
	params    [][]byte
	oids      []uint32
	formats   []int16 // of the parameters; nil is text
	refusal   *Error  // of an assertion
}

// kind is what a command's answer means.
type kind int

const (
	ordinary  kind = iota
	settings       // the answer has the positions
	ownership      // division by zero says that the metadata is not as this process left the metadata
	assertion      // division by zero is the command's refusal
	commit
)

// sent is one message of a round that has an answer: the preparation of a command's statement, or the execution.
type sent struct {
	command
	prepares bool
}

// Pipeline sends rounds one behind the other, without a wait for the answers of the round before. The session does nothing else until the
// pipeline is closed.
type Pipeline struct {
	s *Session
	p *pgconn.Pipeline
}

// Pipeline begins a pipeline. The end of ctx ends the connection.
func (s *Session) Pipeline(ctx context.Context) *Pipeline {
	return &Pipeline{s, s.conn.StartPipeline(ctx)}
}

// Round is a new round behind the rounds before.
func (p *Pipeline) Round() *Round { return &Round{s: p.s, p: p.p} }

// Close ends the pipeline. Answers not yet read are read and passed over.
func (p *Pipeline) Close() error { return p.p.Close() }

// Exchange is one round trip of its own. fill queues the round's statements; where fill fails behind a queued statement, the connection is
// closed. The positions are those of the round's settings, zero where the round has none or the server tells none.
func (s *Session) Exchange(ctx context.Context, fill func(context.Context, *Round) error) (Positions, error) {
	ctx, cancel := context.WithTimeout(ctx, s.db.Options.AnswerTimeout())
	defer cancel()
	p := s.Pipeline(ctx)
	r := p.Round()
	err := fill(ctx, r)
	if err == nil {
		err = r.Flush()
	}
	if err != nil {
		_ = p.Close()
		return Positions{}, err
	}
	err = r.receive()
	return r.Positions, err
}

// queue queues a statement. Prepared statements save the parsing and planning of each batch; where a pooler does not keep prepared
// statements (pgbouncer before 1.21 in transaction mode), statements go unnamed.
func (r *Round) queue(q command) {
	params := q.params
	q.params = nil // the send buffer has a copy: a round in flight does not keep its rows twice
	if q.name == "" || r.s.db.Unnamed {
		r.p.SendQueryParams(q.sql, params, q.oids, q.formats, nil)
	} else {
		if !r.s.prepared[q.name] {
			r.p.SendPrepare(q.name, q.sql, q.oids)
			r.sent = append(r.sent, sent{q, true})
			r.s.prepared[q.name] = true
		}
		r.p.SendQueryPrepared(q.name, params, q.formats, nil)
	}
	r.sent = append(r.sent, sent{q, false})
}

// Exec queues a statement without parameters and without rows. label is for messages; the prepared statement is named after name.
func (r *Round) Exec(label, name, sql string) {
	r.queue(command{label: label, name: name, sql: sql})
}

// Assert queues a query that divides by zero where the transaction must not go on: then the round fails with the refusal.
func (r *Round) Assert(label, sql string, refusal *Error, args ...string) {
	r.queue(command{kind: assertion, label: label, sql: sql, refusal: refusal, params: texts(args...)})
}

// Begin queues BEGIN and the settings.
func (r *Round) Begin() error {
	if err := failpoint.Fail(failpoint.BeforeBegin); err != nil {
		return err
	}
	r.s.plan = genericPlan
	r.Exec("BEGIN", "outflow_begin", beginSQL)
	synchronous := "on"
	if r.Async {
		synchronous = "off"
	}
	r.queue(command{kind: settings, label: "settings", name: "outflow_settings", sql: r.s.settings, params: texts(synchronous, r.s.plan)})
	return nil
}

// manyRows is the number of rows above which the server plans a statement again.
const manyRows = 200

const genericPlan, customPlan = "force_generic_plan", "force_custom_plan"

// planFor has the server plan the statement again where the rows are many and joined with something: a generic plan takes every array
// for ten elements.
func (r *Round) planFor(st *mapping.Statement, rows int) {
	plan := genericPlan
	if rows > manyRows && !st.Simple {
		plan = customPlan
	}
	if plan != r.s.plan {
		r.s.plan = plan
		r.queue(command{label: "settings of the plan", name: "outflow_plan", sql: `SELECT set_config('plan_cache_mode', $1, true)`, params: texts(plan)})
	}
}

// Steps queues the steps of the chosen mappings for the changed tables, in the order of [Order]. The statements were compiled before.
func (r *Round) Steps(ctx context.Context, chosen []bool, rows map[string]*mapping.Rows) error {
	if err := r.s.refuseForeign(rows); err != nil {
		return err
	}
	for _, place := range r.s.Order.steps {
		step := r.s.db.Mappings[place.mapping].Steps[place.step]
		table := rows[step.From]
		if !chosen[place.mapping] || table == nil || table.Len(step.When) == 0 {
			continue
		}
		st, err := r.s.statement(ctx, place.mapping, place.step, table.Relation)
		if err != nil {
			return err
		}
		params, err := st.Parameters(table)
		if err != nil {
			return err
		}
		r.planFor(st, table.Len(step.When))
		name, sql := st.Name, st.SQL
		if r.PlainInsert && table.New && st.Plain != "" {
			name, sql = st.PlainName, st.Plain
		}
		r.queue(command{label: "step", name: name, sql: sql, statement: st, params: params, oids: st.ParameterOIDs(), formats: binaryFormat})
		if err := failpoint.Fail(failpoint.StepQueued); err != nil {
			return err
		}
	}
	return nil
}

var binaryFormat = []int16{1}

// Quarantine queues the row for the quarantine.
func (r *Round) Quarantine(q *Quarantined) error {
	if err := failpoint.Fail(failpoint.BeforeQuarantine); err != nil {
		return err
	}
	r.queue(command{label: "quarantine", name: "outflow_quarantine", sql: addQuarantined, params: texts(q.parameters(r.s)...)})
	return nil
}

// Advance queues the metadata's compare-and-set, which moves the chosen mappings to an id, and COMMIT. checkpoint is the primary's newest
// checkpoint.
func (r *Round) Advance(chosen []bool, id int64, checkpoint string) error {
	if err := failpoint.Fail(failpoint.BeforeAdvance); err != nil {
		return err
	}
	names, held, prints := r.s.holding(chosen)
	r.queue(command{kind: ownership, label: "metadata", name: "outflow_advance", sql: advanceSQL, params: texts(strconv.FormatInt(id, 10), names, held,
		r.s.db.Tenant, r.s.db.SourceID, strconv.FormatInt(r.s.Epoch, 10), checkpoint, prints)})
	return r.commit()
}

// MoveCursor queues the compare-and-set of a copy's cursor, "" where the copy is complete, and COMMIT. The chosen mappings, which have the
// cursor from, have everything up to an id by then.
func (r *Round) MoveCursor(chosen []bool, from, to string, id int64, checkpoint string) error {
	if err := failpoint.Fail(failpoint.BeforeAdvance); err != nil {
		return err
	}
	names, held, prints := r.s.holding(chosen)
	r.queue(command{kind: ownership, label: "metadata", name: "outflow_cursor", sql: moveCursorSQL, params: texts(to, names, held,
		r.s.db.Tenant, r.s.db.SourceID, strconv.FormatInt(r.s.Epoch, 10), from, checkpoint, strconv.FormatInt(id, 10), prints)})
	return r.commit()
}

// holding are the chosen mappings, their ids after the commit of everything sent so far, and their fingerprints, as array literals.
func (s *Session) holding(chosen []bool) (names, ids, prints string) {
	var n, h, p []string
	for i, m := range s.db.Mappings {
		if chosen[i] {
			n = append(n, `"`+m.Name+`"`) // null would be NULL
			h = append(h, strconv.FormatInt(s.expected[i], 10))
			p = append(p, m.Fingerprint()) // hexadecimal
		}
	}
	return "{" + strings.Join(n, ",") + "}", "{" + strings.Join(h, ",") + "}", "{" + strings.Join(p, ",") + "}"
}

func (r *Round) commit() error {
	if err := failpoint.Fail(failpoint.BeforeCommit); err != nil {
		return err
	}
	r.queue(command{kind: commit, label: "COMMIT", name: "outflow_commit", sql: commitSQL})
	return nil
}

// Flush sends the round.
func (r *Round) Flush() error {
	r.s.Place.ask()
	if err := r.p.Sync(); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// receive reads all answers and ends the round's pipeline. The error is the error of the first failed request.
func (r *Round) receive() error {
	failed := r.Read()
	if err := r.p.Close(); failed == nil && err != nil {
		failed = fmt.Errorf("receiving: %w", pgerror.WithoutValues(err))
	}
	if failed != nil {
		r.Failed()
	}
	return failed
}

// Read reads the answers up to the round's end, where another round may follow on the same pipeline.
func (r *Round) Read() error {
	began := time.Now()
	err := r.readAll()
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return r.s.named(err, began)
}

func (r *Round) readAll() error {
	var failed error
	defer r.s.Place.answered()
	for i := 0; failed == nil && i < len(r.sent); i++ {
		r.s.Place.ask()
		if failed = r.answer(&r.sent[i]); failed == nil {
			r.answered++
		}
	}
	for {
		result, err := r.p.GetResults()
		if _, end := result.(*pgconn.PipelineSync); end {
			break
		}
		if serverError(err) == nil && (err != nil || result == nil) { // the connection is broken
			return cmp.Or(failed, fmt.Errorf("receiving: %w", cmp.Or(err, errors.New("the connection ended"))))
		}
	}
	if failed == nil {
		r.s.db.Answered.Set(time.Now())
	}
	return failed
}

// Failed puts the session in order after a failed round, when the round's pipeline has ended.
func (r *Round) Failed() {
	r.s.expected = append(r.s.expected[:0], r.s.Held...)
	if !r.s.KeepOpen {
		r.s.Rollback()
	}
	r.unprepare()
}

// unprepare forgets the statements without an answer to their preparation. Closing a statement that does not exist is no error
// (the Postgres manual, "Message Flow", "Extended Query").
func (r *Round) unprepare() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, q := range r.sent[r.answered:] {
		if !q.prepares {
			continue
		}
		delete(r.s.prepared, q.name)
		if !r.s.conn.IsClosed() && r.s.conn.Deallocate(ctx, q.name) != nil {
			r.s.abandon()
		}
	}
}

func (r *Round) answer(q *sent) error {
	if q.kind == commit {
		if err := failpoint.Fail(failpoint.CommitSent); err != nil {
			return err
		}
	}
	result, err := r.p.GetResults()
	if err != nil {
		return r.explain(q, err)
	}
	reader, ok := result.(*pgconn.ResultReader)
	if !ok {
		return nil // the description of a prepared statement
	}
	for q.kind == settings && reader.NextRow() {
		r.Positions = positionsOf(reader.Values())
	}
	tag, err := reader.Close()
	if err != nil {
		return r.explain(q, err)
	}
	if q.kind != commit {
		return nil
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("the server answered COMMIT with %s", tag)
	}
	return failpoint.Fail(failpoint.Committed)
}

// explain adds the failing request or statement to an error.
func (r *Round) explain(q *sent, err error) error {
	if !q.prepares {
		err = pgerror.WithoutValues(err)
	}
	err = pgerror.Bounded(err)
	state := SQLState(err)
	switch {
	case state == pgerror.DuplicatePrepared || state == pgerror.UnknownPrepared:
		r.s.db.Unnamed = true
		return AsError(fmt.Errorf("a pooler does not keep prepared statements; going on without them: %w", err))
	case q.kind == settings:
		return r.s.unpositioned(err)
	case q.kind == ownership && state == pgerror.DivisionByZero:
		return &Error{Verdict: Conflict, Err: errors.New(
			"the metadata has changed: another process wrote, or a mapping ended the transaction")}
	case q.kind == assertion && state == pgerror.DivisionByZero:
		return q.refusal
	case q.statement != nil:
		return r.s.explainStatement(q.statement, err)
	}
	return fmt.Errorf("%s: %w", q.label, err)
}

func texts(values ...string) [][]byte {
	params := make([][]byte, len(values))
	for i, v := range values {
		params[i] = []byte(v)
	}
	return params
}

func serverError(err error) *pgconn.PgError {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr
	}
	return nil
}

// serverText is a server's error as shown to an operator, without values of rows: see [pgerror.WithoutValues].
func serverText(e *pgconn.PgError) string {
	text := e.Message
	if e.ConstraintName != "" && !strings.Contains(text, e.ConstraintName) {
		text += "; constraint " + e.ConstraintName
	}
	for _, more := range []string{e.Detail, e.Hint} {
		if more != "" {
			text += "; " + more
		}
	}
	return fit.Text(text, fit.Reason)
}

// Compile makes the batch's statements before the pipeline starts: compiling may ask the server for types.
func (s *Session) Compile(ctx context.Context, all map[string]*mapping.Rows) error {
	for mi, m := range s.db.Mappings {
		for si, step := range m.Steps {
			if rows := all[step.From]; rows != nil {
				if _, err := s.statement(ctx, mi, si, rows.Relation); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Compiled reports whether the statements for the rows are known: compiling may ask the server, which a pipeline does not allow.
func (s *Session) Compiled(all map[string]*mapping.Rows) bool {
	for mi, m := range s.db.Mappings {
		for si, step := range m.Steps {
			if rows := all[step.From]; rows != nil && s.statements[statementKey{mi, si, rows.Relation}] == nil {
				return false
			}
		}
	}
	return true
}
