package mapping

import "slices"

// Write is a table to which a step writes.
type Write struct {
	Schema, Table string // as the SQL names the table; Schema is "" without a schema in the SQL
	Deletes       bool   // the step deletes rows of the table, and writes none there
}

// Name is the table's name as SQL: quoted, with the schema where Write has a schema.
func (w Write) Name() string {
	if w.Schema == "" {
		return quote(w.Table)
	}
	return quote(w.Schema) + "." + quote(w.Table)
}

// StepWrites are the tables that one step writes to, in the order of the step's SQL. A table written twice is there twice. The slice is
// the mapping's own and is not to be changed.
func (m *Mapping) StepWrites(step int) []Write { return m.Steps[step].writes }

// writes finds every table that a statement writes, in a WITH too: the order of steps and of copies follows from these tables.
func writes(tokens []token) []Write {
	var all []Write
	for i := range tokens {
		if w := written(tokens[i:]); w.Table != "" {
			all = append(all, w)
		}
	}
	return all
}

// Removes reports whether a step only deletes rows.
func (m *Mapping) Removes(step int) bool {
	all := m.StepWrites(step)
	return len(all) > 0 && !slices.ContainsFunc(all, func(w Write) bool { return !w.Deletes })
}

// Deletes reports whether a step deletes rows, perhaps among other writes.
func (m *Mapping) Deletes(step int) bool {
	return slices.ContainsFunc(m.Steps[step].tokens, func(t token) bool { return t.is("delete") })
}

// Writes are the tables to which the steps write, each once, as the SQL names the tables. A name with a schema in front is left out: the
// name means exactly one table, so nothing can stand in the place of the table.
func (m *Mapping) Writes() []string {
	var tables []string
	for i := range m.Steps {
		for _, w := range m.StepWrites(i) {
			if w.Schema == "" && !slices.Contains(tables, w.Table) {
				tables = append(tables, w.Table)
			}
		}
	}
	return tables
}

// written is the target table of INSERT INTO, MERGE INTO, UPDATE or DELETE FROM at the front of the tokens, or nothing.
func written(tokens []token) Write {
	at := func(i int) token {
		if i < len(tokens) {
			return tokens[i]
		}
		return token{kind: operator}
	}
	var w Write
	i := 1
	switch {
	case at(0).is("into"):
	case at(0).is("delete") && at(1).is("from"):
		i, w.Deletes = 2, true
	case at(0).is("update") && !slices.ContainsFunc(afterOtherUpdates, at(1).is):
	default:
		return w
	}
	if at(i).is("only") {
		i++
	}
	if !at(i).name() {
		return Write{}
	}
	w.Table = at(i).text
	if at(i+1).op(".") && at(i+2).name() {
		w.Schema, w.Table = w.Table, at(i+2).text
	}
	return w
}

// Words behind an UPDATE that starts no statement: ON CONFLICT DO UPDATE SET, WHEN MATCHED THEN UPDATE SET, SELECT ... FOR UPDATE OF.
var afterOtherUpdates = []string{"set", "of", "nowait", "skip", "limit", "offset", "as"}

// Specials are the columns that the steps name and that describe the change behind a row: the row is then made of more than the source's
// row.
func (m *Mapping) Specials() []string {
	var specials []string
	for _, special := range []string{sequenceColumn, committedColumn} {
		if slices.ContainsFunc(m.Steps, func(s Step) bool { return s.reads(special) }) {
			specials = append(specials, special)
		}
	}
	return specials
}
