package replication

import (
	"context"
	"fmt"
	"strings"

	"outflow/replication/wal"
)

// name gives a configured table its configured names, whatever the stream calls the table: a table is its OID, and a transaction may have
// renamed it for a moment. Another table under a configured name is no configured table. Where the name is the other table's on the primary
// now, the tables were swapped, and the stream does not have all rows of the new table.
func (s *session) name(rel *wal.Relation) error {
	for _, t := range s.Tables {
		if t.Relation.OID == rel.OID {
			rel.Schema, rel.Name, rel.Table = t.Relation.Schema, t.Relation.Name, t.Relation.Table
			rel.Fault = t.faultOf(rel)
			rel.Only(t.Columns) // a publication of 14 sends all columns, and a publication changed by a person may; the role may not read the others
			return nil
		}
	}
	for _, t := range s.Tables {
		if t.Relation.Schema == rel.Schema && t.Relation.Name == rel.Name {
			return s.swapped(t.Relation)
		}
	}
	return s.stray(rel)
}

// faultOf tells why the names of the columns are no guide to rows described by the stream as in rel; "" where the names are a guide. A
// Relation message has no column numbers, so the order counts: the order of the numbers, of all columns or of the columns of a column list.
// A column in another column's place had the other column's name for a time. Another replica identity names rows by columns other than the
// columns used by the copies.
func (t PublishedTable) faultOf(rel *wal.Relation) string {
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
			return fmt.Sprintf("column %q of %s had another column's place when a transaction changed rows: columns were renamed", c.Name, t.Relation)
		default:
			last = at
		}
	}
	if key := rel.KeyNames(); rel.Identity != 'f' && !t.Rule.InsertsOnly && !sameNames(key, t.Relation.KeyNames()) {
		return fmt.Sprintf("the replica identity of %s had the columns (%s) when a transaction changed rows", t.Relation, strings.Join(key, ", "))
	}
	return ""
}

// stray is a [*Gap] where a table whose changes the stream has was a partition unseen by any look: partitions are described too, and the
// changes are the root's. Rows gone with the partition are not in the stream.
func (s *session) stray(rel *wal.Relation) error {
	if !s.wanted || s.part.CommitLSN < s.Source.Covered || s.relations[rel.OID] != nil || s.Source.relied.has(rel.OID) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), questionPatience)
	defer cancel()
	conn, err := s.Primary.Connect(ctx)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", rel, err)
	}
	defer conn.Close(ctx)
	var known bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_ancestors($1::oid::regclass)) a JOIN pg_class c ON c.oid = a.oid
			JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_publication_tables p ON p.pubname = $2 AND p.schemaname = n.nspname AND p.tablename = c.relname)
		OR EXISTS (SELECT FROM outflow.source s, jsonb_path_query(s.relied, '$.tables[*].storage[*].oid') o WHERE s.slot = $3 AND o = to_jsonb($1::oid::bigint))`,
		rel.OID, s.Publication, s.Slot).Scan(&known)
	switch {
	case err != nil:
		return fmt.Errorf("looking for %s: %w", rel, err)
	case !known:
		return &Gap{Reason: fmt.Sprintf("%s, whose changes the stream has, is neither published nor a partition any more", rel), Unseen: true}
	}
	return nil
}

// swapped is a [*Gap] where the name of a configured table is another table's on the primary now.
func (s *session) swapped(rel *wal.Relation) error {
	ctx, cancel := context.WithTimeout(context.Background(), questionPatience)
	defer cancel()
	conn, err := s.Primary.Connect(ctx)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", rel, err)
	}
	defer conn.Close(ctx)
	now, err := LoadTable(ctx, conn, rel.Schema, rel.Name)
	if err != nil || now != nil && now.Relation.OID == rel.OID {
		return err
	}
	return &Gap{Reason: fmt.Sprintf("table %s was replaced by another table of the same name", rel)}
}
