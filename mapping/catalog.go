package mapping

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"outflow/internal/strictyaml"
	"outflow/replication/wal"
)

// Resolve is the mapping with the configuration's names of the source tables. table gives the configuration's name for a step's from, or
// an error.
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

// Deleted describes the values of a deleted row of a table that the steps of a destination learn, beyond the columns of the replica
// identity.
type Deleted struct {
	Tenant     string // the tenant's column, which is always known
	Tombstones bool   // tombstones keep the row
	Swept      bool   // a mapping has keys for the table: a copy finds deleted rows by the keys, and knows nothing else of the rows
}

// CheckTable finds the faults of the steps that read a table, given the table on the primary. The error is a [strictyaml.Errors]; nil
// where all is well.
func (m *Mapping) CheckTable(t *wal.Table, deleted Deleted) error {
	var faults strictyaml.Errors
	for i := range m.Steps {
		s := &m.Steps[i]
		if s.From != t.Relation.Table {
			continue
		}
		said, removes := map[string]bool{}, m.Removes(i)
		for _, r := range s.read {
			r.finds = r.finds || removes // a WITH in front of a DELETE, too
			if message := s.fault(r, t, deleted); message != "" && !said[r.name] {
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

// fault says why a step cannot read the column, or is "".
func (s *Step) fault(r reference, t *wal.Table, deleted Deleted) string {
	rel, column := t.Relation, t.Relation.Column(r.name)
	switch {
	case slices.Contains(specials, r.name) && (column >= 0 || slices.Contains(t.Generated, r.name)):
		return fmt.Sprintf("%s has its own column %q, and Outflow adds a column of that name: rename the column on the primary, or remove it from the step", rel, r.name)
	case r.sure && slices.Contains(t.Generated, r.name):
		return fmt.Sprintf("column %q of %s is generated, so it is not in the stream: write its expression instead", r.name, rel)
	case column >= 0 && r.name != deleted.Tenant && s.ofDeleted(r):
		return s.unknown(r, rel, column, deleted)
	}
	return ""
}

// ofDeleted reports whether a step reads the column of deleted rows. A step for all rows that reads _op tells deleted rows apart, but not
// in the conditions for finding rows to delete: other conditions need a step of their own.
func (s *Step) ofDeleted(r reference) bool {
	return s.When == Delete || s.When == Any && (r.finds || !s.reads(opColumn))
}

// unknown says why a step cannot read the column of a deleted row, or is "".
func (s *Step) unknown(r reference, rel *wal.Relation, column int, deleted Deleted) string {
	identity, key := rel.Columns[column].Identity, slices.Contains(rel.Key, column)
	steps := ""
	if s.When == Any {
		steps = ", or write one step with when: delete and one with when: upsert"
	}
	switch {
	case key:
		return ""
	case r.finds: // the row may have had another value when the target was written last, and a changed value is no delete
		return fmt.Sprintf("rows to delete are found by the key of %s (%s), and %q may have changed since the target got the row: remove %q from the condition%s",
			rel, strings.Join(named(rel, rel.Key), ", "), r.name, r.name, steps)
	case !identity && !deleted.Tombstones:
		return fmt.Sprintf("a DELETE of %s brings only the replica identity's columns (%s), so %q is NULL here: read only those columns in the step%s, or ALTER TABLE %s REPLICA IDENTITY FULL",
			rel, strings.Join(identityOf(rel), ", "), r.name, steps, quote(rel.Schema)+"."+quote(rel.Name))
	case deleted.Swept:
		return fmt.Sprintf("a copy finds deleted rows of %s by keys: and knows only their key columns (%s), so %q would be NULL here: read only those columns in the step%s",
			rel, strings.Join(named(rel, rel.Key), ", "), r.name, steps)
	}
	return ""
}

// named are the names of the columns at the indexes.
func named(rel *wal.Relation, columns []int) []string {
	var names []string
	for _, i := range columns {
		names = append(names, rel.Columns[i].Name)
	}
	return names
}

// identityOf are the names of the columns of the replica identity: those that the old row of an UPDATE or DELETE has in the stream
// (the Postgres manual, ALTER TABLE, REPLICA IDENTITY).
func identityOf(rel *wal.Relation) []string {
	var names []string
	for _, c := range rel.Columns {
		if c.Identity {
			names = append(names, c.Name)
		}
	}
	return names
}

// specials are the columns of each step's relation beside the source's own.
var specials = []string{opColumn, sequenceColumn, committedColumn}

// Disguised finds a function of the whole row written like a column (the Postgres manual, 4.2.6): a name behind the relation's alias that
// is no column of the relation, in a step that the server took. nil where there is none.
func (m *Mapping) Disguised(step int, rel *wal.Relation) *Fault {
	s := m.Steps[step]
	known := slices.Concat(m.Visible(s.From, rel.Names()), specials)
	for _, r := range s.read {
		if r.sure && !slices.Contains(known, r.name) {
			return m.fragment(step).Fault(r.offset, "%q is not a column of %s, and as a function of the row it would see only the columns that leave the primary: name the columns", r.name, rel)
		}
	}
	return nil
}
