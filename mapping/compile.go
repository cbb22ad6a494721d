package mapping

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"outflow/internal/strictyaml"
	"outflow/replication/wal"
)

// The columns of every step's relation beside the source's own. Such a column is filled only where a step names the column.
const (
	opColumn        = "_op"
	sequenceColumn  = "_sequence_id"
	committedColumn = "_committed_at"
)

// Statement is a step compiled against a relation: SQL with one text[] parameter a column.
type Statement struct {
	Mapping *Mapping
	Step    int
	Table   string // the step's from
	When    When
	SQL     string
	Name    string // for a prepared statement; the same SQL has the same name
	// Simple says that the statement inserts what it selects from the step's relation alone. The number of rows is then no matter to the
	// plan, and a new plan for each batch would only copy the rows several times.
	Simple bool
	// Plain is SQL without its ON CONFLICT: the same where nothing conflicts, at three quarters of the cost; else Plain fails with a
	// unique or exclusion violation. "" where the step is not Simple or has no ON CONFLICT.
	Plain     string
	PlainName string // as Name
	columns   []parameterColumn

	fragment Fragment
	prefix   int // characters of SQL before the mapping's own text
	cut      int // bytes of the mapping's own text left out in front (its WITH)
}

// parameterColumn is the source of one parameter: a column of the relation, or one of the special columns.
type parameterColumn struct {
	index   int // of the relation; -1 for a special column
	special string
}

// Compile makes a step's statement for rows of the relation. typeName gives the external database's name of a type of the primary, ""
// where there is none: a column of such a type arrives as text, an array of the type as text[].
func (m *Mapping) Compile(step int, rel *wal.Relation, typeName func(string) string) *Statement {
	s := m.Steps[step]
	st := &Statement{Mapping: m, Step: step, Table: s.From, When: s.When, Simple: simple(s), fragment: m.fragment(step)}
	var output, arrays []string
	add := func(c parameterColumn, name, typeName string) {
		n := len(st.columns)
		st.columns = append(st.columns, c)
		arrays = append(arrays, fmt.Sprintf("unnest($%d::text[]) AS c%d", n+1, n))
		output = append(output, fmt.Sprintf("u.c%d::%s AS %s", n, typeName, quote(name)))
	}
	for _, i := range m.stepColumns(s, rel) {
		add(parameterColumn{index: i}, rel.Columns[i].Name, TargetType(rel.Columns[i].Type, typeName))
	}
	if s.reads(sequenceColumn) {
		add(parameterColumn{-1, sequenceColumn}, sequenceColumn, "bigint")
	}
	if s.reads(committedColumn) {
		add(parameterColumn{-1, committedColumn}, committedColumn, "timestamptz")
	}
	if s.reads(opColumn) {
		add(parameterColumn{-1, opColumn}, opColumn, "text")
	}
	// unnest in the select list goes row by row; one unnest of all arrays in FROM is stored first, which costs a fifth of the whole
	// statement. The arrays are of one length, and so expand in step (the Postgres manual, 38.5.8).
	cte := fmt.Sprintf("%s AS (SELECT %s FROM (SELECT %s) AS u)", quote(relationName(s.From)),
		strings.Join(output, ", "), strings.Join(arrays, ", "))
	st.inFront(cte, s)
	st.Name = preparedName(st.SQL)
	if st.Simple {
		st.withoutConflict(s)
	}
	return st
}

// preparedName is a name for a prepared statement that follows from the SQL: two steps with the same SQL share one statement of a session,
// and a changed mapping never meets the plan of its old SQL. 8 bytes of SHA-256, because a name has at most 63 bytes.
func preparedName(sql string) string {
	sum := sha256.Sum256([]byte(sql))
	return "outflow_" + hex.EncodeToString(sum[:8])
}

// withoutConflict sets Plain where the step ends with ON CONFLICT.
func (st *Statement) withoutConflict(s Step) {
	for i := 1; i+1 < len(s.tokens); i++ {
		if s.tokens[i].is("on") && s.tokens[i+1].is("conflict") {
			if !slices.ContainsFunc(s.tokens[i:], func(t token) bool { return t.is("returning") }) {
				cut := s.tokens[len(s.tokens)-1].end - s.tokens[i-1].end
				st.Plain = st.SQL[:len(st.SQL)-cut]
				st.PlainName = preparedName(st.Plain)
			}
			return
		}
	}
}

// inFront puts the CTE before the step's SQL, joining a WITH of the step.
func (st *Statement) inFront(cte string, s Step) {
	front, end := "WITH "+cte+" ", s.tokens[len(s.tokens)-1].end
	if s.tokens[0].is("with") {
		st.cut = s.tokens[0].end
		front = "WITH " + cte + ", "
		if len(s.tokens) > 1 && s.tokens[1].is("recursive") {
			st.cut = s.tokens[1].end
			front = "WITH RECURSIVE " + cte + ", "
		}
	}
	st.SQL = front + s.SQL[st.cut:end]
	st.prefix = utf8.RuneCountInString(front)
}

// simple reports whether a step is INSERT ... SELECT ... FROM its relation, with no other relation anywhere.
func simple(s Step) bool {
	count := map[string]int{}
	for i, t := range s.tokens {
		if t.kind == word {
			count[t.text]++
		}
		if !t.is("from") {
			continue
		}
		// FROM "Table" [AS] [alias], and then no comma
		rest := s.tokens[i+1:]
		if len(rest) == 0 || !rest[0].name() || rest[0].text != relationName(s.From) {
			return false
		}
		rest = rest[1:]
		for len(rest) > 0 && rest[0].name() && !slices.Contains(afterFrom, rest[0].text) {
			rest = rest[1:]
		}
		if len(rest) > 0 && (rest[0].op(",") || rest[0].op(".")) {
			return false
		}
	}
	return s.tokens[0].is("insert") && count["select"] == 1 && count["from"] == 1 && count["join"] == 0
}

// Words that may follow a table and its alias.
var afterFrom = []string{"on", "where", "group", "having", "order", "limit", "returning"}

// stepColumns are the indexes of the relation's columns that the step names; the key where the step names none, since a relation needs a
// column.
func (m *Mapping) stepColumns(s Step, rel *wal.Relation) []int {
	visible := m.Visible(s.From, rel.Names())
	var indexes []int
	for i := range rel.Columns {
		if name := rel.Columns[i].Name; s.reads(name) && slices.Contains(visible, name) {
			indexes = append(indexes, i)
		}
	}
	if len(indexes) == 0 {
		return rel.Key
	}
	return indexes
}

// TargetType is the type of an arriving column: the column's own type where the external database has the type, else text.
func TargetType(name string, typeName func(string) string) string {
	if found := typeName(name); found != "" {
		return found
	}
	if strings.HasSuffix(name, "[]") {
		return "text[]"
	}
	return "text"
}

// Names reports whether the statement needs the column of the relation.
func (st *Statement) Names(column int) bool {
	for _, c := range st.columns {
		if c.index == column {
			return true
		}
	}
	return false
}

// Fault makes an error at a position from the external server: characters from 1 of SQL; 0 is unknown.
func (st *Statement) Fault(position int32, format string, args ...any) *strictyaml.Error {
	own := int(position) - 1 - st.prefix
	if position <= 0 || own < 0 {
		return st.fragment.Fault(0, format, args...)
	}
	offset := st.cut
	for range own {
		_, size := utf8.DecodeRuneInString(st.fragment.SQL[min(offset, len(st.fragment.SQL)):])
		if size == 0 { // beyond the end: the server may say anything
			break
		}
		offset += size
	}
	return st.fragment.Fault(offset, format, args...)
}

// FaultAt makes an error at a position from the external server for one statement of a schema.
func (f Fragment) FaultAt(position int32, format string, args ...any) *strictyaml.Error {
	offset := 0
	for range max(0, int(position)-1) {
		_, size := utf8.DecodeRuneInString(f.SQL[min(offset, len(f.SQL)):])
		if size == 0 {
			break
		}
		offset += size
	}
	return f.Fault(offset, format, args...)
}

// relationName is the name of the source table in a step's SQL: the name of the table, without a schema.
func relationName(table string) string {
	_, name, _ := wal.SplitTable(table)
	return name
}

// quote makes an identifier of any name (the Postgres manual, 4.1.1). A name has no NUL: the lexer and the catalog refuse one.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// ParameterOIDs are the types of the statement's parameters.
func (st *Statement) ParameterOIDs() []uint32 {
	oids := make([]uint32, len(st.columns))
	for i := range oids {
		oids[i] = textArrayOID
	}
	return oids
}
