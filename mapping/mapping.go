package mapping

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"outflow/internal/strictyaml"
	"outflow/replication/wal"
)

// When says which of a batch's net changes a step sees.
type When string

// The values of a step's when.
const (
	Upsert When = "upsert"
	Delete When = "delete"
	Any    When = "any"
)

// Mapping is one loaded mapping. A Mapping is not changed after [Load] and [Mapping.Restrict], and safe for concurrent use then.
type Mapping struct {
	Name   string            `yaml:"name"`
	Target string            `yaml:"target"` // the filled table, for people
	Schema string            `yaml:"schema"` // idempotent DDL
	Steps  []Step            `yaml:"steps"`
	Keys   map[string]string `yaml:"keys"`  // source table to a query of the target's keys
	After  []string          `yaml:"after"` // mappings that run before this one

	doc         *strictyaml.Document
	fingerprint string // of the file, whatever Resolve makes of the tables' names
	ddl         []Fragment
	only        map[string][]string // by source table, see Restrict
	written     map[string]string   // by source table: the name in keys: of the file, where Resolve called the table otherwise
}

// Step is one set-based statement over the net changes of one source table.
type Step struct {
	From string `yaml:"from"`
	When When   `yaml:"when"`
	SQL  string `yaml:"sql"`

	tokens []token
	writes []Write     // see StepWrites
	read   []reference // names that may be columns of From
}

// reads reports whether the step's SQL names the column of the step's relation.
func (s Step) reads(column string) bool {
	return slices.ContainsFunc(s.read, func(r reference) bool { return r.name == column })
}

// Fragment is a piece of a mapping's SQL that runs as one statement, and knows the place of the piece.
type Fragment struct {
	SQL     string
	mapping *Mapping
	path    string
	offset  int // byte offset of SQL in the value at path
}

// Fault is an error with file, line and column.
type Fault = strictyaml.Error

// Fault makes an error at a byte offset of the fragment, with file, line and column.
func (f Fragment) Fault(offset int, format string, args ...any) *strictyaml.Error {
	e := f.mapping.doc.Errorf(f.path, format, args...)
	e.Line, e.Column = f.mapping.doc.Position(f.path, f.offset+offset)
	return e
}

var nameRule = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,62}$`)

// Load reads and checks one mapping. file is for messages. The error is a [strictyaml.Errors] with every fault, each with line and column.
func Load(file string, src []byte) (*Mapping, error) {
	m := &Mapping{}
	doc, err := strictyaml.Decode(file, src, m)
	if err != nil {
		return nil, err
	}
	m.doc, m.fingerprint = doc, m.sum()
	var faults strictyaml.Errors
	report := func(e *strictyaml.Error) bool {
		faults = append(faults, e)
		return len(faults) < maxFaults
	}
	m.check(report)
	if len(faults) > 0 {
		faults.Sort()
		return nil, faults
	}
	return m, nil
}

// maxFaults bounds the found faults: each is looked for in the whole text, and the writer of a mapping may be hostile.
const maxFaults = 20

// reporter takes a fault, and returns false when the reporter has enough.
type reporter func(*strictyaml.Error) bool

// check reports the faults of form, in the order name, target, schema, steps, keys, and stops when the reporter has enough.
func (m *Mapping) check(report reporter) {
	switch {
	case m.Name == "":
		report(m.doc.Errorf("", `a mapping needs a "name"`))
	case !nameRule.MatchString(m.Name):
		report(m.doc.Errorf("name", "a mapping's name is a letter or _, then letters, digits, _ or -, at most 63 characters"))
	}
	if m.Target == "" {
		report(m.doc.Errorf("", `a mapping needs a "target", the table that it fills`))
	}
	if len(m.Steps) == 0 {
		report(m.doc.Errorf("steps", `a mapping needs "steps"`))
	}
	if slices.Contains(m.After, m.Name) {
		report(m.doc.Errorf("after", "mapping %q cannot run after itself", m.Name))
	}
	if !m.checkSchema(report) {
		return
	}
	for i := range m.Steps {
		if !m.checkStep(i, report) {
			return
		}
	}
	more := true
	enough := func(e *strictyaml.Error) bool {
		more = report(e)
		return more
	}
	for _, table := range slices.Sorted(maps.Keys(m.Keys)) {
		if m.checkKeys(table, enough); !more {
			return
		}
	}
}

// checkKeys checks a query of keys. The query runs in parentheses, behind parameters of Outflow's.
func (m *Mapping) checkKeys(table string, report reporter) {
	query := m.Keys[table]
	f := Fragment{SQL: query, mapping: m, path: "keys." + table}
	tokens, ok := f.single(report, "select", "with")
	if !ok {
		return
	}
	m.Keys[table] = query[tokens[0].offset:tokens[len(tokens)-1].end]
	if !m.reads(table) {
		report(m.doc.Errorf("keys."+table, "no step reads from %q; the steps read from: %s", table, strings.Join(m.Tables(), ", ")))
	}
	for i, t := range tokens {
		if t.kind == parameter {
			report(f.Fault(t.offset, "%s: keys have no parameters", t.text))
			return
		}
		statement := tokens[i:]
		if t.is("insert") || t.is("merge") {
			statement = tokens[i+1:] // written looks at INTO
		}
		if i > 0 && tokens[i-1].op("(") && written(statement).Table != "" {
			report(f.Fault(t.offset, "keys may only read what the target holds; found %s", strings.ToUpper(t.text)))
			return
		}
	}
}

// checkSchema splits the DDL into statements, each run by itself, and refuses statements that end Outflow's transaction.
func (m *Mapping) checkSchema(report reporter) bool {
	whole := Fragment{SQL: m.Schema, mapping: m, path: "schema"}
	tokens, err := lex(m.Schema)
	if err != nil {
		return report(whole.lexFault(err))
	}
	for _, s := range statements(tokens) {
		first, last := s[0], s[len(s)-1]
		if slices.Contains(forbiddenInSchema, first.text) && first.kind == word &&
			!report(whole.Fault(first.offset, "%s is not allowed in a schema, which runs in a transaction of Outflow", strings.ToUpper(first.text))) {
			return false
		}
		if place, what, remedy := outsideTransactions(s); what != "" &&
			!report(whole.Fault(place, "%s cannot run in a transaction, but a schema runs in one: %s", what, remedy)) {
			return false
		}
		m.ddl = append(m.ddl, Fragment{SQL: m.Schema[first.offset:last.end], mapping: m, path: "schema", offset: first.offset})
	}
	return true
}

// Words that may not stand first in a statement. COPY would wait for data on the connection.
var (
	forbiddenInSchema = []string{"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare",
		"copy", "vacuum", "listen", "unlisten", "discard", "set", "reset", "checkpoint", "cluster", "load", "declare", "fetch", "move", "close"}
	allowedInStep = []string{"insert", "update", "delete", "merge", "select", "with"}
)

// outsideTransactions finds in one statement the command that the server refuses in a transaction block (PreventInTransactionBlock in the
// server's sources): the command, the place and the remedy; "" where there is nothing.
func outsideTransactions(statement []token) (place int, what, remedy string) {
	const byHand = "run it by hand, once"
	first := statement[0]
	second := token{kind: operator}
	if len(statement) > 1 {
		second = statement[1]
	}
	for _, t := range statement { // the word is reserved; REFRESH MATERIALIZED VIEW may have it in a transaction
		if t.is("concurrently") && slices.ContainsFunc([]string{"create", "drop", "reindex", "alter"}, first.is) {
			return t.offset, "CONCURRENTLY", "remove the word, or " + byHand
		}
	}
	switch {
	case first.is("alter") && second.is("system"),
		slices.ContainsFunc([]string{"database", "tablespace", "subscription"}, second.is) && (first.is("create") || first.is("drop")),
		first.is("reindex") && slices.ContainsFunc([]string{"database", "system", "schema"}, second.is):
		return first.offset, strings.ToUpper(first.text + " " + second.text), byHand
	}
	return 0, "", ""
}

// checkStep checks one step and keeps what later calls need: tokens, the tables written, and the names read. false: the reporter has enough.
func (m *Mapping) checkStep(i int, report reporter) bool {
	s := &m.Steps[i]
	path := fmt.Sprintf("steps[%d]", i)
	if s.From == "" {
		report(m.doc.Errorf(path, `a step needs "from", a source table`))
	} else if _, _, ok := wal.SplitTable(s.From); !ok {
		report(m.doc.Errorf(path+".from", `"from" is name, schema.name, or "name" in double quotes if it has a dot; found %s`, s.From))
	}
	switch s.When {
	case Upsert, Delete, Any:
	default:
		report(m.doc.Errorf(path+".when", `"when" is upsert, delete or any; found %q`, s.When))
	}
	if s.SQL == "" {
		return report(m.doc.Errorf(path, `a step needs "sql"`))
	}
	f := m.fragment(i)
	more := true
	tokens, ok := f.single(func(e *strictyaml.Error) bool { more = report(e); return more }, allowedInStep...)
	if !ok {
		return more
	}
	s.tokens, s.writes = tokens, writes(tokens)
	for i, t := range tokens {
		if t.kind == parameter && !report(f.Fault(t.offset, "%s: a mapping has no parameters; its rows are the relation %q", t.text, relationName(s.From))) {
			return false
		}
		if t.op("*") && isStar(tokens[:i]) && !report(f.Fault(t.offset, "* is not allowed: name the columns, because only named columns leave the primary")) {
			return false
		}
	}
	understood := read(tokens, relationName(s.From))
	s.read = understood.references
	for _, refused := range understood.refusals {
		if !report(f.Fault(refused.offset, "%s", refused.message)) {
			return false
		}
	}
	return true
}

// isStar reports whether a * behind the tokens before is "all columns" and not a multiplication, count(*) or OPERATOR(schema.*).
func isStar(before []token) bool {
	if len(before) == 0 {
		return false
	}
	t := before[len(before)-1]
	if n := len(before) - 4; t.op(".") && n >= 0 && before[n].is("operator") && before[n+1].op("(") {
		return false
	}
	return t.op(".") || t.op(",") || t.is("select") || t.is("all") || t.is("distinct") || t.is("returning")
}

// fragment is the SQL of a step with its place in the file.
func (m *Mapping) fragment(step int) Fragment {
	return Fragment{SQL: m.Steps[step].SQL, mapping: m, path: fmt.Sprintf("steps[%d].sql", step)}
}

// single checks that the fragment is a single statement beginning with an allowed word, and returns the tokens.
func (f Fragment) single(report reporter, allowed ...string) ([]token, bool) {
	tokens, err := lex(f.SQL)
	if err != nil {
		report(f.lexFault(err))
		return nil, false
	}
	all := statements(tokens)
	switch {
	case len(all) == 0:
		report(f.Fault(0, "there is no statement"))
		return nil, false
	case len(all) > 1:
		report(f.Fault(all[1][0].offset, "a second statement: put each statement into a step of its own"))
		return nil, false
	}
	if first := all[0][0]; first.kind != word || !slices.Contains(allowed, first.text) {
		what := "a step begins"
		if strings.HasPrefix(f.path, "keys.") {
			what = "keys begin"
		}
		last := len(allowed) - 1
		report(f.Fault(first.offset, "%s with %s or %s; found %q", what, strings.ToUpper(strings.Join(allowed[:last], ", ")), strings.ToUpper(allowed[last]), first.text))
		return nil, false
	}
	return all[0], true
}

// KeysFault makes an error about the keys of a table.
func (m *Mapping) KeysFault(table, format string, args ...any) *Fault {
	if written, ok := m.written[table]; ok {
		table = written
	}
	return m.doc.Errorf("keys."+table, format, args...)
}

// lexFault gives an error of lex its file, line and column.
func (f Fragment) lexFault(err error) *strictyaml.Error {
	offset := 0
	if e, ok := err.(*lexError); ok { //nolint:errorlint // lex returns it unwrapped
		offset = e.offset
	}
	return f.Fault(offset, "%s", err)
}

// DDL are the statements of the schema, in order.
func (m *Mapping) DDL() []Fragment { return m.ddl }

// Tables are the source tables read by the steps, each once, in the order of the steps.
func (m *Mapping) Tables() []string {
	var tables []string
	for _, s := range m.Steps {
		if !slices.Contains(tables, s.From) {
			tables = append(tables, s.From)
		}
	}
	return tables
}

// reads reports whether a step reads from the source table.
func (m *Mapping) reads(table string) bool { return slices.Contains(m.Tables(), table) }

// Fingerprint changes with every change of the mapping's work; layout and comments of the file do not count, comments within the SQL do.
func (m *Mapping) Fingerprint() string { return m.fingerprint }

// Identity is the name and the fingerprint, as outflow.destination_state notes both.
func (m *Mapping) Identity() string { return m.Name + ":" + m.fingerprint }

// sum is the fingerprint: a hash of the decoded values, so that layout, quotes and comments of the YAML do not count. The SQL counts as written:
// a comment inside it may be a hint for an extension. 8 bytes suffice, since the fingerprint tells versions of one mapping apart.
func (m *Mapping) sum() string {
	b, err := json.Marshal(struct {
		Name, Target, Schema string
		Steps                []Step
		Keys                 map[string]string
		After                []string
	}{m.Name, m.Target, m.Schema, m.Steps, m.Keys, m.After})
	if err != nil {
		panic(err) // strings, slices and maps of strings only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Size is about how much memory the mapping holds, in bytes: several times its text.
func (m *Mapping) Size() int64 {
	const document, step, tokenBytes, fragment = 4, 1500, 48, 128 // a byte of text, in the parsed document too; a step; and so on
	text := len(m.Name) + len(m.Target) + len(m.Schema)
	size := int64(len(m.ddl) * fragment)
	for _, s := range m.Steps {
		text += len(s.From) + len(s.SQL)
		size += step + tokenBytes*int64(cap(s.tokens)+cap(s.read))
	}
	for table, query := range m.Keys {
		text += len(table) + len(query)
	}
	for _, name := range m.After {
		text += len(name)
	}
	return size + document*int64(text)
}
