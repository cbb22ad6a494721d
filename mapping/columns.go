package mapping

import "slices"

// Restrict hides the other columns of a source table from the mapping: to the steps those columns do not exist. The key is always there.
// Restrict is for mappings that tenants write: the operator decides which columns a tenant's mapping may name.
func (m *Mapping) Restrict(table string, columns []string) {
	if m.only == nil {
		m.only = map[string][]string{}
	}
	m.only[table] = columns
}

// Visible are the columns of a source table that the mapping's steps may name.
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

// Columns are the given columns of a source table that the mapping's steps name, in the given order. Deleted rows carry only the key
// unless the source has more, so deletes are the columns named only by "when: delete" and "when: any" steps.
func (m *Mapping) Columns(table string, all []string) (named, deletes []string) {
	all = m.Visible(table, all)
	inAny, inDelete := map[string]bool{}, map[string]bool{}
	for _, s := range m.Steps {
		if s.From != table {
			continue
		}
		for _, r := range s.read {
			inAny[r.name] = true
			if s.When != Upsert {
				inDelete[r.name] = true
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
