package mapping

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"outflow/internal/strictyaml"
	"outflow/replication"
)

// Resolve is the mapping with its source tables called as the configuration calls them. table gives the configuration's name for a
// step's from, or an error.
func (m *Mapping) Resolve(table func(from string) (string, error)) (*Mapping, error) {
	resolved := *m
	resolved.Steps, resolved.Keys, resolved.written = slices.Clone(m.Steps), map[string]string{}, map[string]string{}
	names := map[string]string{}
	for i := range resolved.Steps {
		s := &resolved.Steps[i]
		if _, known := names[s.From]; !known {
			name, err := table(s.From)
			if err != nil {
				return nil, fmt.Errorf("mapping %q reads from %q, %w", m.Name, s.From, err)
			}
			names[s.From] = name
		}
		s.From = names[s.From]
	}
	for from, query := range m.Keys {
		resolved.Keys[names[from]], resolved.written[names[from]] = query, cmp.Or(m.written[from], from)
	}
	return &resolved, nil
}

// CheckTable finds what the steps that read a table cannot do with the table as it is on the primary. tombstones says that a deleted row
// may come with columns that the table's replica identity does not have. The error is a [strictyaml.Errors]; nil where all is well.
func (m *Mapping) CheckTable(t *replication.Table, tenant string, tombstones bool) error {
	var faults strictyaml.Errors
	for i := range m.Steps {
		s := &m.Steps[i]
		if s.From != t.Relation.Table {
			continue
		}
		said := map[string]bool{}
		for _, r := range s.read {
			if message := s.fault(r, t, tombstones && s.readsKey(t.Relation, tenant)); message != "" && !said[r.name] {
				said[r.name] = true
				faults = append(faults, m.fragment(i).Fault(r.offset, "%s", message))
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	faults.Sort()
	return faults
}

// readsKey reports whether a step reads a column that names a row among its tenant's. A step that does not would do nothing at all for a
// DELETE without a tombstone.
func (s *Step) readsKey(rel *replication.Relation, tenant string) bool {
	return slices.ContainsFunc(rel.Columns, func(c replication.Column) bool { return c.Identity && c.Name != tenant && s.reads(c.Name) })
}

// fault says why a step cannot read that column, or is "". more says that deletes may bring more than the replica identity.
func (s *Step) fault(r reference, t *replication.Table, more bool) string {
	rel, column := t.Relation, t.Relation.Column(r.name)
	switch {
	case slices.Contains(specials, r.name) && (column >= 0 || slices.Contains(t.Generated, r.name)):
		return fmt.Sprintf("%s has a column %q of its own, and Outflow gives a column of that name: rename the column on the primary, or leave it out of the step", rel, r.name)
	case r.sure && slices.Contains(t.Generated, r.name):
		return fmt.Sprintf("column %q of %s is generated, and the stream does not have it: write its expression in its place", r.name, rel)
	case column < 0 || s.When == Upsert || rel.Columns[column].Identity || more:
		return ""
	case s.When == Any && s.reads(opColumn): // it tells deletes apart
		return ""
	}
	return fmt.Sprintf("a DELETE of %s brings only the replica identity's columns (%s), so %q is NULL here: let the step name rows by those, or ALTER TABLE %s REPLICA IDENTITY FULL",
		rel, strings.Join(identityOf(rel), ", "), r.name, quote(rel.Schema)+"."+quote(rel.Name))
}

// BeyondKey are the columns of a table that delete steps read and that are not of its key: a sweep knows only that.
func (m *Mapping) BeyondKey(rel *replication.Relation) []string {
	var beyond []string
	for i, c := range rel.Columns {
		reads := func(s Step) bool { return s.From == rel.Table && s.When == Delete && s.reads(c.Name) }
		if !slices.Contains(rel.Key, i) && slices.ContainsFunc(m.Steps, reads) {
			beyond = append(beyond, c.Name)
		}
	}
	return beyond
}

func identityOf(rel *replication.Relation) []string {
	var names []string
	for _, c := range rel.Columns {
		if c.Identity {
			names = append(names, c.Name)
		}
	}
	return names
}

// specials are the columns that each step's relation has beside the source's own.
var specials = []string{opColumn, sequenceColumn, committedColumn}

// Disguised finds a function of the whole row that is written as a column is (the Postgres manual, 4.2.6): a name behind the relation's
// alias that is no column of it, in a step that the server took. nil where there is none.
func (m *Mapping) Disguised(step int, rel *replication.Relation) *Fault {
	s := m.Steps[step]
	known := slices.Concat(m.Visible(s.From, rel.Names()), specials)
	for _, r := range s.read {
		if r.sure && !slices.Contains(known, r.name) {
			return m.fragment(step).Fault(r.offset, "%q is no column of %s, and as a function of its row it would see only the columns that travel: name the columns", r.name, rel)
		}
	}
	return nil
}
