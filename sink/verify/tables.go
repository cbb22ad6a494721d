package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
)

// comparedTable is a table that a mapping writes to. The recomputed table stands under the same name in front of the target.
type comparedTable struct {
	mapping *mapping.Mapping
	name    string
	key     []string // columns of the primary key; none: rows are told apart whole
	columns []string // writable columns
}

const (
	// Steps name tables without a schema. With recomputedFirst the steps write to, and look into, the recomputed tables.
	recomputedFirst = `SELECT set_config('search_path', 'pg_temp, ' || current_setting('search_path'), true), set_config('idle_in_transaction_session_timeout', '5min', true)`
	// From here on nothing but temporary tables can be written to, whatever a step does.
	readOnlySQL = `SET LOCAL transaction_read_only = on`
	copyTable   = `CREATE TEMPORARY TABLE %[1]s (LIKE public.%[1]s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING GENERATED) ON COMMIT DROP`
	tableKey    = `SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
		WHERE i.indrelid = $1::regclass AND i.indisprimary ORDER BY k.n`
	tableColumns = `SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`
	// verifyRows is how many rows are read from the primary at a time, each time with a short snapshot of its own.
	verifyRows = 5000
	// compareBytes bounds the answer with the differences of a table.
	compareBytes = 64 << 20
	// readBytes bounds the rows of one read, unless the first row is larger.
	readBytes = 4 << 20
)

// metadata reads the external database's metadata within a limited time.
func (c *comparison) metadata(ctx context.Context) (known external.Metadata, err error) {
	err = within(ctx, c.v.patience(), func(ctx context.Context) error {
		known, err = c.s.Metadata(ctx)
		return err
	})
	return known, err
}

// begin opens a transaction with an empty table in front of each target of the mappings. One transaction works through a pooler too; the
// transaction is rolled back in the end.
func (c *comparison) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.v.patience())
	defer cancel()
	if err := c.s.Begin(ctx); err != nil {
		return err
	}
	known, err := c.s.Metadata(ctx)
	if err != nil {
		return err
	}
	for _, m := range c.db.Mappings {
		if row, ok := known[m.Name]; !ok || row.Fingerprint != m.Fingerprint() {
			return &external.Error{Mapping: m.Name, Err: errors.New("the mapping was never filled here, or has changed since"),
				Remedy: "start outflow run, and wait until the destination's state is streaming"}
		}
	}
	if err := c.s.Exec(ctx, recomputedFirst); err != nil {
		return err
	}
	c.held, c.tables = known.Lowest(c.db.Mappings), nil
	for _, m := range c.db.Mappings {
		for _, name := range m.Writes() {
			if slices.ContainsFunc(c.tables, func(t *comparedTable) bool { return t.name == name }) {
				continue
			}
			t, err := c.copyTable(ctx, m, name)
			if err != nil {
				return err
			}
			c.tables = append(c.tables, t)
		}
	}
	err = c.s.Exec(ctx, readOnlySQL)
	return err
}

// copyTable makes the empty table.
func (c *comparison) copyTable(ctx context.Context, m *mapping.Mapping, name string) (*comparedTable, error) {
	t := &comparedTable{mapping: m, name: name}
	if err := c.s.Exec(ctx, fmt.Sprintf(copyTable, external.QuoteIdentifier(name))); err != nil {
		e := &external.Error{Mapping: m.Name, SQLState: external.SQLState(err), Err: fmt.Errorf("making a temporary table like %s: %w", name, err)}
		switch e.SQLState {
		case pgerror.InsufficientRights:
			e.Remedy = fmt.Sprintf("as the database's owner: GRANT TEMPORARY ON DATABASE %s TO %s (and SELECT on the table)",
				external.QuoteIdentifier(c.db.Config.Database), external.QuoteIdentifier(c.db.Config.User))
		case pgerror.UndefinedTable:
			e.Remedy = "outflow resync, which runs the mapping's schema again"
		}
		return nil, e
	}
	for _, q := range []struct {
		sql  string
		into *[]string
	}{{tableKey, &t.key}, {tableColumns, &t.columns}} {
		rows, err := c.s.Ask(ctx, 1, q.sql, "public."+external.QuoteIdentifier(name))
		if err != nil {
			return nil, fmt.Errorf("reading the columns of %s: %w", name, err)
		}
		for _, r := range rows {
			*q.into = append(*q.into, string(r[0]))
		}
	}
	return t, nil
}

// recompute brings all rows of the tenant through the mappings, table by table.
func (c *comparison) recompute(ctx context.Context) error {
	c.recomputed = 0
	reads := mapping.Reads(c.db.Mappings)
	for _, table := range c.v.Tables {
		if !reads[table.Relation.Table] {
			continue
		}
		rel := c.v.Tables.Relation(table.Relation.Table)
		r := tableread.Range{Part: c.part(rel), Limit: verifyRows, Bytes: readBytes}
		for first := true; ; first = false {
			var chunk tableread.Chunk
			err := within(ctx, readPatience, func(ctx context.Context) (err error) {
				chunk, err = c.copier.Read(ctx, r)
				if large := (*tableread.Large)(nil); errors.As(err, &large) {
					wide := r
					wide.Bytes = tableread.Enough(large.Bytes)
					chunk, err = c.copier.Read(ctx, wide)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("reading rows of %s from the primary: %w", table.Relation, err)
			}
			err = within(ctx, c.v.Options.StatementTimeout+c.v.Options.LockTimeout, func(ctx context.Context) error {
				return c.recomputeRows(ctx, &mapping.Rows{Relation: chunk.Relation, Upserts: c.rows(chunk.Rows)})
			})
			if err != nil {
				return err
			}
			c.read = chunk.Horizon
			c.recomputed += len(chunk.Rows)
			if c.v.Progress != nil {
				c.v.Progress(len(chunk.Rows))
			}
			if first || chunk.Last {
				if err := within(ctx, c.v.patienceFor(c.recomputed), c.analyze); err != nil {
					return err
				}
			}
			if chunk.Last {
				break
			}
			r.Place = chunk.Next
		}
	}
	return nil
}

// recomputeRows brings rows through the mappings. The error names the row where the external database refuses a row.
func (c *comparison) recomputeRows(ctx context.Context, rows *mapping.Rows) error {
	const savepoint, back = "SAVEPOINT outflow_rows", "ROLLBACK TO SAVEPOINT outflow_rows"
	if err := c.s.Exec(ctx, savepoint); err != nil {
		return err
	}
	c.s.KeepOpen = true
	defer func() { c.s.KeepOpen = false }()
	refusal := c.apply(ctx, c.everyMapping(), rows)
	if refusal == nil || external.AsError(refusal).Verdict != external.RowFault {
		return refusal
	}
	for _, row := range rows.Upserts {
		if err := c.s.Exec(ctx, back); err != nil {
			return err
		}
		if err := c.apply(ctx, c.everyMapping(), &mapping.Rows{Relation: rows.Relation, Upserts: []mapping.Row{row}}); err != nil {
			e := *external.AsError(err)
			e.Table, e.Key = rows.Relation.Table, external.DescribeRow(rows.Relation, row.Tuple)
			e.Remedy = "correct the row on the primary, then verify again: a table is compared once all its rows can be recomputed"
			return &e
		}
	}
	return refusal // of rows that do not go together
}

// analyze lets the planner know the temporary tables, which autovacuum never sees.
func (c *comparison) analyze(ctx context.Context) error {
	for _, t := range c.tables {
		if err := c.s.Exec(ctx, `ANALYZE pg_temp.`+external.QuoteIdentifier(t.name)); err != nil {
			return fmt.Errorf("analyzing the recomputed %s: %w", t.name, err)
		}
	}
	return nil
}

// part are the rows of the database's tenant.
func (c *comparison) part(rel *wal.Relation) tableread.Part {
	return tableread.Part{Relation: rel, Tenant: c.v.Tables.TenantColumn(rel), Value: c.db.Tenant}
}

func (c *comparison) everyMapping() []bool {
	all := make([]bool, len(c.db.Mappings))
	for i := range all {
		all[i] = true
	}
	return all
}

func (c *comparison) rows(tuples []wal.Tuple) []mapping.Row {
	rows := make([]mapping.Row, len(tuples))
	now := time.Now()
	for i, t := range tuples {
		rows[i] = mapping.Row{Tuple: t, SequenceID: c.held, CommittedAt: now}
	}
	return rows
}

// apply runs the steps of some mappings over rows of one table, in the open transaction.
func (c *comparison) apply(ctx context.Context, mappings []bool, rows *mapping.Rows) error {
	if rows.Len(mapping.Any) == 0 {
		return nil
	}
	all := map[string]*mapping.Rows{rows.Relation.Table: rows}
	err := c.s.Compile(ctx, all)
	if err == nil {
		_, err = c.s.Exchange(ctx, func(ctx context.Context, r *external.Round) error { return r.Steps(ctx, mappings, all) })
	}
	if e := (*external.Error)(nil); errors.As(err, &e) && e.SQLState == pgerror.ReadOnlyTransaction {
		e.Remedy = "verify recomputes only mappings whose steps name their tables without a schema and use no sequences"
	}
	return err
}

// seen is the finding of a look at one table.
type seen struct {
	*comparedTable
	rows        int64
	differences map[string]difference // by the identity of the row
}

// difference is one row: hashes of the row as the primary's rows make the row and of the actual row; "" is none.
type difference struct {
	key            string // for people
	expected, here string
	again          bool // the look before found the same
}

// look is the findings of every table.
type look []*seen

// differencesMax bounds the differences kept of one table. More differences are told as this many.
const differencesMax = 100_000

// identity is the SQL that tells a row r from others, and the SQL that describes r to people.
func (t *comparedTable) identity() (id, key string) {
	if len(t.key) == 0 {
		return "encode(" + rowHash + ", 'hex')", `left("_row"::text, 200)`
	}
	var parts []string
	for _, column := range t.key {
		parts = append(parts, fmt.Sprintf(`%s || "_row".%s::text`, quoteLiteral(column+"="), external.QuoteIdentifier(column)))
	}
	id = "concat_ws(', ', " + strings.Join(parts, ", ") + ")"
	return id, id
}

// rowHash stands for the text of a whole row: text, since not every type can be compared (json), and rows that print alike in one session
// are alike.
const rowHash = `sha256(convert_to("_row"::text, 'UTF8'))`

// compareTable compares a table with the recomputed table as multisets of rows, both ways, in one statement and so in one snapshot: every
// row that EXCEPT ALL would find in either direction has a count other than zero.
func (c *comparison) compareTable(ctx context.Context, t *comparedTable) (*seen, error) {
	id, key := t.identity()
	sql := fmt.Sprintf(`SELECT id, min(key), hash, sum(n) FROM (
			SELECT %[1]s COLLATE "C" AS id, %[2]s AS key, %[3]s AS hash, 1 AS n FROM pg_temp.%[4]s AS "_row"
			UNION ALL SELECT %[1]s, %[2]s, %[3]s, -1 FROM public.%[4]s AS "_row") AS both_sides
		GROUP BY id, hash HAVING sum(n) <> 0 ORDER BY id LIMIT %[5]d`, id, key, rowHash, external.QuoteIdentifier(t.name), differencesMax)
	rows, err := c.s.AskWhole(ctx, compareBytes, 4, sql)
	if err != nil {
		return nil, err
	}
	counted, err := c.s.AskRow(ctx, 1, `SELECT count(*) FROM pg_temp.`+external.QuoteIdentifier(t.name))
	if err != nil {
		return nil, err
	}
	s := &seen{comparedTable: t, differences: map[string]difference{}}
	if s.rows, err = strconv.ParseInt(string(counted[0]), 10, 64); err != nil {
		return nil, err
	}
	for _, r := range rows {
		d := s.differences[string(r[0])]
		d.key = string(r[1])
		if hash := string(r[2]) + " " + string(r[3]); strings.HasPrefix(string(r[3]), "-") {
			d.here = hash
		} else {
			d.expected = hash
		}
		s.differences[string(r[0])] = d
	}
	return s, nil
}

// keep drops the differences that were not there before and notes the differences that are the same, where the look before proves
// something.
func (l look) keep(before look, proof bool) {
	for i, s := range l {
		for id, now := range s.differences {
			then, ok := before[i].differences[id]
			if !ok {
				delete(s.differences, id)
				continue
			}
			now.again = proof && then.expected == now.expected && then.here == now.here
			s.differences[id] = now
		}
	}
}

// open is how many rows differed at every look so far.
func (l look) open() int {
	n := 0
	for _, s := range l {
		n += len(s.differences)
	}
	return n
}

// settled is how many differences were the same at the look before.
func (l look) settled() int {
	n := 0
	for _, s := range l {
		n += s.settled()
	}
	return n
}

func (s *seen) settled() int { return len(s.settledIDs()) }

// settledIDs are sorted.
func (s *seen) settledIDs() []string {
	ids := []string{}
	for id, d := range s.differences {
		if d.again {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// comparison is the report of a look.
func (l look) comparison() Comparison {
	var c Comparison
	for _, s := range l {
		t := TableComparison{Mapping: s.mapping.Name, Table: s.name, Rows: s.rows}
		for _, id := range s.settledIDs() {
			d := s.differences[id]
			kind := "changed"
			switch {
			case d.here == "":
				kind = "missing"
				t.Missing++
			case d.expected == "":
				kind = "extra"
				t.Extra++
			default:
				t.Changed++
			}
			if len(t.First) < firstShown {
				t.First = append(t.First, Difference{Kind: kind, Key: d.key})
			}
		}
		c.Tables = append(c.Tables, t)
	}
	return c
}

func quoteLiteral(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
