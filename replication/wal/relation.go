package wal

import "slices"

// Relation describes a published table at the time of the changes referring to the Relation. An altered table gets a
// new Relation; an unaltered table keeps the pointer within a session.
type Relation struct {
	OID      uint32
	Schema   string
	Name     string
	Table    string   // the name by which configuration and mappings know the table; "" is a table not configured
	Identity byte     // pg_class.relreplident: 'd'efault, 'n'othing, 'f'ull or 'i'ndex
	Columns  []Column // the published ones, in the order of the tuples
	Key      []int    // indexes of the columns naming a row: primary key, or replica identity
	Fault    string   // why the names of the columns are no guide to the values of the rows; "" where the names are a guide
	skip     []bool   // the columns left out of those sent by the server; nil: no column
}

// Column is a published column.
type Column struct {
	Name     string
	TypeOID  uint32
	TypeMod  int32  // pg_attribute.atttypmod; -1 is none
	Type     string // as format_type prints it, without modifier, a domain as the base type; empty until resolved
	Identity bool   // part of the replica identity
}

// Column returns the index of the column with the name, or -1.
func (r *Relation) Column(name string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// SameShape reports whether tuples of r and o can be read alike: same columns, types and key in the same order.
func (r *Relation) SameShape(o *Relation) bool {
	if r == o {
		return true
	}
	if len(r.Columns) != len(o.Columns) || len(r.Key) != len(o.Key) {
		return false
	}
	for i := range r.Columns {
		if r.Columns[i] != o.Columns[i] {
			return false
		}
	}
	for i := range r.Key {
		if r.Key[i] != o.Key[i] {
			return false
		}
	}
	return true
}

// Partial reports whether the relation leaves out columns that the server sends: see [Relation.Only].
func (r *Relation) Partial() bool { return r.skip != nil }

// Only leaves out the columns neither wanted nor part of the replica identity, of the relation and of the rows decoded with the relation.
// Only changes r, which no other goroutine may know yet.
func (r *Relation) Only(wanted []string) {
	skip := make([]bool, len(r.Columns))
	var names []string
	for i, c := range r.Columns {
		if skip[i] = !c.Identity && !slices.Contains(wanted, c.Name); !skip[i] {
			names = append(names, c.Name)
		}
	}
	if len(names) < len(r.Columns) {
		*r = *r.Project(names)
		r.skip = skip
	}
}

// SentLike reports whether the server described both alike. Only the catalog tells the rest: type names and the key.
func (r *Relation) SentLike(o *Relation) bool {
	if r.Schema != o.Schema || r.Name != o.Name || r.Identity != o.Identity || len(r.Columns) != len(o.Columns) || !slices.Equal(r.skip, o.skip) {
		return false
	}
	for i := range r.Columns {
		a, b := r.Columns[i], o.Columns[i]
		a.Type, b.Type = "", ""
		if a != b {
			return false
		}
	}
	return true
}

// String is the schema-qualified name, for messages.
func (r *Relation) String() string { return r.Schema + "." + r.Name }

// Names are the names of the columns, in order.
func (r *Relation) Names() []string {
	names := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		names[i] = c.Name
	}
	return names
}

// KeyNames are the names of the columns naming a row.
func (r *Relation) KeyNames() []string {
	names := make([]string, len(r.Key))
	for i, k := range r.Key {
		names[i] = r.Columns[k].Name
	}
	return names
}

// Project returns the relation with only the named columns, in the table's order.
func (r *Relation) Project(columns []string) *Relation {
	p := *r
	p.Columns, p.Key = nil, nil
	for i, c := range r.Columns {
		if slices.Contains(columns, c.Name) {
			if slices.Contains(r.Key, i) {
				p.Key = append(p.Key, len(p.Columns))
			}
			p.Columns = append(p.Columns, c)
		}
	}
	return &p
}
