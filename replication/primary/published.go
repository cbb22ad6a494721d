package primary

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/replication/wal"
)

// PublishedTable is a table with the columns to publish.
type PublishedTable struct {
	*wal.Table
	Rule    TableRule
	Columns []string // with the replica identity's columns
	Relied  []string // columns read by mappings, and the key; may have names missing in the table
	Apart   []string // mappings which do not read the table, as "name:fingerprint"; every other mapping may
}

// Publish chooses the published part of the rule's table t: the wanted columns and the replica identity. Names missing in the table are
// left out: the statement with such a name fails on the external server, where the line is known.
func (r TableRule) Publish(t *wal.Table, wanted []string) PublishedTable {
	p := PublishedTable{Table: t, Rule: r, Relied: slices.Clone(wanted)}
	for _, i := range t.Relation.Key {
		p.Relied = append(p.Relied, t.Relation.Columns[i].Name)
	}
	for _, c := range t.Relation.Columns {
		if c.Identity || slices.Contains(wanted, c.Name) {
			p.Columns = append(p.Columns, c.Name)
		}
	}
	return p
}

// published is the table as written in the publication. REPLICA IDENTITY FULL forbids a column list: the list would
// have to name every column, now and later, or the application's UPDATEs fail.
func (t PublishedTable) published(lists bool) string {
	name := pgx.Identifier{t.Relation.Schema, t.Relation.Name}.Sanitize()
	if !lists || t.Relation.Identity == 'f' {
		return name
	}
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = quoteIdentifier(c)
	}
	return name + " (" + strings.Join(columns, ", ") + ")"
}

// FaultOf tells why the names of the columns are no guide to rows described by the stream as in rel; "" where the names are a guide. A
// Relation message has no column numbers, so the order counts: the order of the numbers, of all columns or of the columns of a column list.
// A column in another column's place had the other column's name for a time. Another replica identity names rows by columns other than the
// columns used by the copies.
func (t PublishedTable) FaultOf(rel *wal.Relation) string {
	known := t.Relation
	if listed := known.Project(t.Columns); len(listed.Columns) == len(rel.Columns) {
		known = listed
	}
	last, unknown := -1, false
	for i, c := range rel.Columns {
		switch at := known.Column(c.Name); {
		case at < 0:
			unknown = true // a renamed or added column: then no known column comes after
		case at < last, unknown && at != i && len(known.Columns) == len(rel.Columns):
			return fmt.Sprintf("column %q of %s had another position when a transaction changed rows: columns were renamed", c.Name, t.Relation)
		default:
			last = at
		}
	}
	if key := rel.KeyNames(); rel.Identity != 'f' && !t.Rule.InsertsOnly && !sameNames(key, t.Relation.KeyNames()) {
		return fmt.Sprintf("the replica identity of %s had the columns (%s) when a transaction changed rows", t.Relation, strings.Join(key, ", "))
	}
	return ""
}
