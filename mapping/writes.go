package mapping

import "slices"

// Writes are the tables that the steps write to, each once, as the SQL names them. A name with a schema in front is not
// among them: it means that table and no other, so nothing can stand in its place.
func (m *Mapping) Writes() []string {
	var tables []string
	for _, s := range m.Steps {
		for i := range s.tokens {
			if name := written(s.tokens[i:]); name != "" && !slices.Contains(tables, name) {
				tables = append(tables, name)
			}
		}
	}
	return tables
}

// written is the table that INSERT INTO, MERGE INTO, UPDATE or DELETE FROM at the front of the tokens writes to, or "".
func written(tokens []token) string {
	at := func(i int) token {
		if i < len(tokens) {
			return tokens[i]
		}
		return token{kind: operator}
	}
	i := 1
	switch {
	case at(0).is("into"):
	case at(0).is("delete") && at(1).is("from"):
		i = 2
	case at(0).is("update") && !slices.ContainsFunc(afterOtherUpdates, at(1).is):
	default:
		return ""
	}
	if at(i).is("only") {
		i++
	}
	if !at(i).name() || at(i+1).op(".") {
		return ""
	}
	return at(i).text
}

// What follows an UPDATE that is none: ON CONFLICT DO UPDATE SET, WHEN MATCHED THEN UPDATE SET, SELECT ... FOR UPDATE OF.
var afterOtherUpdates = []string{"set", "of", "nowait", "skip", "limit", "offset", "as"}

// Specials are the columns that the steps name and that tell of the change which brought a row: what the row is made of is
// then more than the source's row.
func (m *Mapping) Specials() []string {
	var specials []string
	for _, special := range []string{sequenceColumn, committedColumn} {
		if slices.ContainsFunc(m.Steps, func(s Step) bool { return s.reads(special) }) {
			specials = append(specials, special)
		}
	}
	return specials
}
