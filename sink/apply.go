package sink

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
func (o Options) settings(positions string) string {
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

// round is the pipeline of one round trip: the requests sent, in order, so that an error finds its statement.
type round struct {
	s    *session
	p    *pgconn.Pipeline
	sent []sent

	answered int // so many requests succeeded
}

// sent is one request of a round.
type sent struct {
	prepare   string             // name of a statement being prepared; "" is an execution
	statement *mapping.Statement // nil for Outflow's own statements
	stage     string             // for messages: BEGIN, settings, ...
	kept      *keysQuery         // whose keys must all be left; nil mostly
	removed   *page              // whose keys the round removes, where kept is not nil
}

func (s *session) round(ctx context.Context) *round {
	return &round{s: s, p: s.conn.StartPipeline(ctx)}
}

// run queues a statement. Prepared statements save the parsing and planning of each batch; where a pooler does not keep prepared
// statements (pgbouncer before 1.21 in transaction mode), statements go unnamed.
func (r *round) run(stage, name, sql string, st *mapping.Statement, params [][]byte, oids []uint32, formats []int16) {
	if r.s.d.unnamed {
		r.p.SendQueryParams(sql, params, oids, formats, nil)
	} else {
		if !r.s.prepared[name] {
			r.p.SendPrepare(name, sql, oids)
			r.sent = append(r.sent, sent{prepare: name, statement: st, stage: stage})
			r.s.prepared[name] = true
		}
		r.p.SendQueryPrepared(name, params, formats, nil)
	}
	r.sent = append(r.sent, sent{statement: st, stage: stage})
}

func (r *round) begin(b *batch) error {
	if err := failpoint.Fail(failpoint.BeforeBegin); err != nil {
		return err
	}
	r.s.plan = genericPlan
	r.run("BEGIN", "outflow_begin", beginSQL, nil, nil, nil, nil)
	commit := "on"
	if b.async {
		commit = "off"
	}
	r.run("settings", "outflow_settings", r.s.settings(), nil, texts(commit, r.s.plan), nil, nil)
	return nil
}

// manyRows is the number of rows above which the server plans a statement again.
const manyRows = 200

const genericPlan, customPlan = "force_generic_plan", "force_custom_plan"

// planFor has the server plan the statement again where the rows are many and joined with something: a generic plan takes every array
// for ten elements.
func (r *round) planFor(st *mapping.Statement, rows int) {
	plan := genericPlan
	if rows > manyRows && !st.Simple {
		plan = customPlan
	}
	if plan != r.s.plan {
		r.s.plan = plan
		r.run("settings of the plan", "outflow_plan", `SELECT set_config('plan_cache_mode', $1, true)`, nil, texts(plan), nil, nil)
	}
}

// steps queues the statements of all mappings that are behind, for the tables changed by the batch: see order.
func (r *round) steps(ctx context.Context, b *batch, rows map[string]*mapping.Rows) error {
	if err := r.s.d.refuseForeign(rows); err != nil {
		return err
	}
	for _, place := range r.s.order.steps {
		step := r.s.d.mappings[place.mapping].Steps[place.step]
		table := rows[step.From]
		if !b.mappings[place.mapping] || table == nil || table.Len(step.When) == 0 {
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
		if b.hopeful && table.New && st.Plain != "" {
			name, sql = st.PlainName, st.Plain
		}
		r.run("step", name, sql, st, params, st.ParameterOIDs(), binaryFormat)
		if err := failpoint.Fail(failpoint.StepQueued); err != nil {
			return err
		}
	}
	return nil
}

var binaryFormat = []int16{1}

// advance queues the metadata's compare-and-set, and COMMIT.
func (r *round) advance(b *batch) error {
	if err := failpoint.Fail(failpoint.BeforeAdvance); err != nil {
		return err
	}
	names, held, prints := r.s.holding(b.mappings)
	r.run("metadata", "outflow_advance", advanceSQL, nil, texts(strconv.FormatInt(b.last, 10), names, held, r.s.d.Tenant,
		r.s.d.router.SourceID, strconv.FormatInt(r.s.epoch, 10), r.s.d.router.checkpointer.checkpointID(), prints), nil, nil)
	return r.commit()
}

// holding are the chosen mappings, their ids after the commit of everything sent so far, and their fingerprints, as array literals.
func (s *session) holding(chosen []bool) (names, ids, prints string) {
	var n, h, p []string
	for i, m := range s.d.mappings {
		if chosen[i] {
			n = append(n, `"`+m.Name+`"`) // null would be NULL
			h = append(h, strconv.FormatInt(s.expected[i], 10))
			p = append(p, m.Fingerprint()) // hexadecimal
		}
	}
	return "{" + strings.Join(n, ",") + "}", "{" + strings.Join(h, ",") + "}", "{" + strings.Join(p, ",") + "}"
}

func (r *round) commit() error {
	if err := failpoint.Fail(failpoint.BeforeCommit); err != nil {
		return err
	}
	r.run("COMMIT", "outflow_commit", commitSQL, nil, nil, nil, nil)
	return nil
}

// flush sends the round.
func (r *round) flush() error {
	r.s.place.ask()
	if err := r.p.Sync(); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// receive reads all answers and ends the round. The error is the error of the first failed request.
func (r *round) receive() error {
	failed := r.read()
	if err := r.p.Close(); failed == nil && err != nil {
		failed = fmt.Errorf("receiving: %w", pgerror.WithoutValues(err))
	}
	if failed != nil {
		r.failed()
	}
	return failed
}

// read reads the answers up to the round's end, where another round may follow on the same pipeline.
func (r *round) read() error {
	began := time.Now()
	err := r.readAll()
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return r.s.named(err, began)
}

func (r *round) readAll() error {
	var failed error
	defer r.s.place.answered()
	for i := 0; failed == nil && i < len(r.sent); i++ {
		r.s.place.ask()
		if failed = r.answer(r.sent[i]); failed == nil {
			r.answered++
		}
	}
	for {
		result, err := r.p.GetResults()
		if _, end := result.(*pgconn.PipelineSync); end {
			break
		}
		if asPgError(err) == nil && (err != nil || result == nil) { // the connection is broken
			return cmp.Or(failed, fmt.Errorf("receiving: %w", cmp.Or(err, errors.New("the connection ended"))))
		}
	}
	if failed == nil {
		r.s.d.lastRound.set(time.Now())
	}
	return failed
}

// failed puts the session in order after a failed round, when the round's pipeline has ended.
func (r *round) failed() {
	r.s.expected = append(r.s.expected[:0], r.s.held...)
	if !r.s.keepOpen {
		r.s.rollback()
	}
	r.unprepare()
}

// unprepare forgets the statements without an answer to their preparation. Closing a statement that does not exist is no error
// (the Postgres manual, "Message Flow", "Extended Query").
func (r *round) unprepare() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, q := range r.sent[r.answered:] {
		if q.prepare == "" {
			continue
		}
		delete(r.s.prepared, q.prepare)
		if !r.s.conn.IsClosed() && r.s.conn.Deallocate(ctx, q.prepare) != nil {
			r.s.abandon()
		}
	}
}

// abandon ends the connection; the session's place is given back by close.
func (s *session) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

func (r *round) answer(q sent) error {
	if q.stage == "COMMIT" {
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
	for q.stage == "settings" && reader.NextRow() {
		r.s.d.flushed(reader.Values())
	}
	tag, err := reader.Close()
	if err != nil {
		return r.explain(q, err)
	}
	if q.stage != "COMMIT" {
		return nil
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("the server answered COMMIT with %s", tag)
	}
	return failpoint.Fail(failpoint.Committed)
}

// explain adds the failing request or statement to an error.
func (r *round) explain(q sent, err error) error {
	if q.prepare == "" {
		err = pgerror.WithoutValues(err)
	}
	err = pgerror.Bounded(err)
	state := sqlstate(err)
	switch {
	case state == duplicatePrepared || state == unknownPrepared:
		r.s.d.unnamed = true
		return newError(fmt.Errorf("a pooler does not keep prepared statements, going on without: %w", err))
	case q.stage == "settings":
		return r.s.unpositioned(err)
	case q.stage == "metadata" && state == divisionByZero:
		return &Error{verdict: conflict, Err: errors.New(
			"the metadata is not what this process left: another one wrote, or a mapping ended the transaction")}
	case q.kept != nil && state == divisionByZero:
		return lostKept(q.removed, q.kept)
	case q.statement != nil:
		return r.s.explainStatement(q.statement, err)
	}
	return fmt.Errorf("%s: %w", q.stage, err)
}

func texts(values ...string) [][]byte {
	params := make([][]byte, len(values))
	for i, v := range values {
		params[i] = []byte(v)
	}
	return params
}

func asPgError(err error) *pgconn.PgError {
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

// compile makes the batch's statements before the pipeline starts: compiling may ask the server for types.
func (s *session) compile(ctx context.Context, all map[string]*mapping.Rows) error {
	for mi, m := range s.d.mappings {
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

// committed notes the ids that the external database has now.
func (d *Destination) committed(b *batch) {
	for i := range b.mappings {
		if b.mappings[i] {
			d.session.held[i] = b.last
		}
	}
	d.session.expect(b)
	if bf := d.session.backfill; bf != nil && b.cursor != nil {
		bf.cursor, bf.stored = *b.cursor, b.cursor.String()
	}
	d.session.backfill.track(b.transactions)
	d.succeeded(b, !b.async)
}
