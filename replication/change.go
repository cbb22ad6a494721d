package replication

import (
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
)

// LSN is a position in the primary's write-ahead log, in bytes. The text form is the server's: "16/B374D848".
type LSN = pglogrepl.LSN

// ParseLSN reads the text form of an LSN.
func ParseLSN(s string) (LSN, error) { return pglogrepl.ParseLSN(s) }

// Kind says what a change did to the row.
type Kind byte

// The kinds of change sent by pgoutput.
const (
	Insert   Kind = 'I'
	Update   Kind = 'U'
	Delete   Kind = 'D'
	Truncate Kind = 'T'
)

func (k Kind) String() string {
	switch k {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	}
	return fmt.Sprintf("Kind(%q)", byte(k))
}

// Change is a row's change (or a table's truncation). A Change is immutable once handed over, and may be shared.
type Change struct {
	Kind Kind
	// Tombstone marks a delete known only from a row of the tombstone table. A trigger may have written the tombstone after the transaction
	// wrote the deleted key again.
	Tombstone bool
	Ordinal   uint32 // place in the source transaction, from 0
	Relation  *Relation
	// Old is the row before the change: for a delete always, for an update only if the replica identity's columns
	// changed or the identity is FULL. Unless the identity is FULL only the identity's columns are filled, the rest is NULL.
	Old Tuple
	// New is the row after an insert or update. Columns left in TOAST by an update are [Unchanged], unless Old has them.
	New Tuple
}

// Bytes is about how much memory the change holds.
func (c *Change) Bytes() int64 { return changeOverhead + int64(len(c.Old.raw)+len(c.New.raw)) }

// changeOverhead is the size of a Change and of its allocation, in bytes.
const changeOverhead = 112

// Transaction is a committed transaction of the primary, or a part of a large one.
type Transaction struct {
	SequenceID int64     // sequence base + commit LSN
	XID        uint32    // the low 32 bits of the transaction id
	CommitLSN  LSN       // of the commit record
	CommitTime time.Time // on the primary's clock
	Changes    []Change  // of the part; may be empty in the last part
	Last       bool      // no more parts follow
	Session    int       // counts the readings of the stream; a lost connection starts a new reading
	Ticket     Ticket    // released by a holder once the transaction is durable
}

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

// only leaves out the columns neither wanted nor part of the replica identity, of the relation and of the rows decoded with the relation.
func (r *Relation) only(wanted []string) {
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

// sentLike reports whether the server described both alike. Only the catalog tells the rest: type names and the key.
func (r *Relation) sentLike(o *Relation) bool {
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
