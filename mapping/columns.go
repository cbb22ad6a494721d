package mapping

import "slices"

// columns returns which of the given columns of table the SQL names. The answer may be too large, never too small: an
// identifier counts unless it is qualified with something other than the table or an alias of it.
func columns(tokens []token, table string, all []string) map[string]bool {
	aliases := map[string]bool{table: true}
	for i, t := range tokens {
		if !t.name() || t.text != table || i+1 >= len(tokens) {
			continue
		}
		next := tokens[i+1]
		if next.is("as") && i+2 < len(tokens) {
			next = tokens[i+2]
		}
		if next.name() {
			aliases[next.text] = true // a keyword such as WHERE does no harm here
		}
	}
	known := map[string]bool{}
	for _, c := range all {
		known[c] = true
	}
	named := map[string]bool{}
	for i, t := range tokens {
		if !t.name() || !known[t.text] {
			continue
		}
		if i >= 2 && tokens[i-1].op(".") && tokens[i-2].name() && !aliases[tokens[i-2].text] {
			continue
		}
		named[t.text] = true
	}
	return named
}

// names reports whether the SQL has that identifier anywhere.
func names(tokens []token, identifier string) bool {
	for _, t := range tokens {
		if t.name() && t.text == identifier {
			return true
		}
	}
	return false
}

// Restrict hides the other columns of a source table from the mapping: to its steps they do not exist. The key is always there.
// It is for mappings that tenants write: which columns they may name is the operator's word.
func (m *Mapping) Restrict(table string, columns []string) {
	if m.only == nil {
		m.only = map[string][]string{}
	}
	m.only[table] = columns
}

// Visible are those of a source table's columns that the mapping's steps may name.
func (m *Mapping) Visible(table string, all []string) []string {
	only, restricted := m.only[table]
	if !restricted {
		return all
	}
	var visible []string
	for _, c := range all {
		if slices.Contains(only, c) {
			visible = append(visible, c)
		}
	}
	return visible
}

// Columns are those of the given columns of a source table that the mapping's steps name, in the given order. Deleted
// rows carry only their key unless the source has more, so deletes is what only "when: delete" and "when: any" steps name.
func (m *Mapping) Columns(table string, all []string) (named, deletes []string) {
	all = m.Visible(table, all)
	inAny, inDelete := map[string]bool{}, map[string]bool{}
	for _, s := range m.Steps {
		if s.From != table {
			continue
		}
		for c := range columns(s.tokens, relationName(table), all) {
			inAny[c] = true
			if s.When != Upsert {
				inDelete[c] = true
			}
		}
	}
	for _, c := range all {
		if inAny[c] {
			named = append(named, c)
		}
		if inDelete[c] {
			deletes = append(deletes, c)
		}
	}
	return named, deletes
}
