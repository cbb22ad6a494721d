package primary

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/replication/wal"
)

// The conditions that Outflow relies on are in a single list, in this file. The list serves `outflow check`, the start of `outflow run`, the
// watch, and through [Conditions] each read of a table. The list has two parts. judgeTable and judgePublication find present violations: a
// violation stops the reading, or altering the publication heals the violation. between finds differences from the earlier notes: the
// stream does not show how a difference came about, so every destination is copied again.

// violation is a broken condition.
type violation struct {
	Problem
	heals bool // altering the publication makes the condition hold
}

// violations is a growing list.
type violations []violation

func (v *violations) add(remedy, format string, args ...any) {
	*v = append(*v, violation{Problem: Problem{What: fmt.Sprintf(format, args...), Remedy: remedy, Relied: true}})
}

func (v *violations) heal(remedy, format string, args ...any) {
	*v = append(*v, violation{Problem{What: fmt.Sprintf(format, args...), Remedy: remedy, Relied: true}, true})
}

// errors are the violations as errors, each a [*Problem].
func (v violations) errors() []error {
	all := make([]error, len(v))
	for i := range v {
		all[i] = &v[i].Problem
	}
	return all
}

// judgeTable finds the conditions which keep the stream and the copies of a table from being the whole truth. columns are the columns read
// by copies, nil where not known yet.
func judgeTable(rule TableRule, t *tableFacts, role string, version int, columns []string) (found violations) {
	name := rule.Schema + "." + rule.Name
	quoted := pgx.Identifier{t.Schema, t.Name}.Sanitize()
	switch {
	case t.OID == 0 || t.Kind == "":
		found.add("create it, or correct source.tables (names are case-sensitive)", "table %s does not exist on the primary", name)
		return found
	case t.Kind != "r" && t.Kind != "p":
		kind := map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "I": "an index", "c": "a type"}[t.Kind]
		found.add("name in source.tables the table that holds the rows", "%s is %s: only a table has changes in the WAL", name, cmp.Or(kind, "no table"))
		return found
	case t.Schema != rule.Schema:
		found.add(fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s (where the schema was renamed: ALTER SCHEMA %s RENAME TO %[2]s), or correct source.tables and the mappings",
			quoted, quoteIdentifier(rule.Schema), quoteIdentifier(t.Schema)), "table %s is %s.%s now", name, t.Schema, t.Name)
	case t.Name != rule.Name:
		found.add(fmt.Sprintf("ALTER TABLE %s RENAME TO %s, or correct source.tables and the mappings", quoted, quoteIdentifier(rule.Name)),
			"table %s was renamed to %s.%s", name, t.Schema, t.Name)
	}
	if len(t.Children) > 0 {
		found.add(fmt.Sprintf("ALTER TABLE %s NO INHERIT %s, or make partitions of them", t.Children[0], quoted),
			"table %s has children that inherit from it (%s): a SELECT returns their rows, and the stream does not", name, strings.Join(t.Children, ", "))
	}
	if !rule.InsertsOnly {
		judgeReading(name, t, role, columns, &found)
	}
	for i := range t.Storage {
		judgeStorage(name, t, &t.Storage[i], version, &found)
	}
	judgeTenant(rule, t, quoted, &found)
	return found
}

// judgeReading looks at the role's right to read.
func judgeReading(name string, t *tableFacts, role string, columns []string, found *violations) {
	if t.Secured {
		found.add("ALTER ROLE "+quoteIdentifier(role)+" BYPASSRLS", "row security hides rows of %s from role %q: copies would lack them", name, role)
	}
	if columns != nil && t.Restricted {
		found.add(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", quoteIdentifier(t.Schema), quoteIdentifier(role)), "role %q may not read from the schema of %s", role, name)
	}
	var hidden []string
	for _, c := range columns {
		if column := t.column(c); column != nil && !column.Readable {
			hidden = append(hidden, quoteIdentifier(c))
		}
	}
	if len(hidden) > 0 {
		list := strings.Join(hidden, ", ")
		found.add(fmt.Sprintf("GRANT SELECT (%s) ON %s TO %s", list, pgx.Identifier{t.Schema, t.Name}.Sanitize(), quoteIdentifier(role)),
			"role %q may not read %s of %s", role, list, name)
	}
}

// judgeStorage looks at the table itself or at a partition with rows.
func judgeStorage(name string, t *tableFacts, s *storageFacts, version int, found *violations) {
	what := "table " + name
	if s.OID != t.OID {
		what = fmt.Sprintf("partition %s of %s", s.Name, name)
	}
	switch {
	case s.Kind == "f":
		found.add(fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", pgx.Identifier{t.Schema, t.Name}.Sanitize(), s.Name), "%s is a foreign table, so its changes are not in the WAL", what)
		return
	case s.Persist != "p":
		found.add("ALTER TABLE "+s.Name+" SET LOGGED", "%s is not logged, so its changes are not in the WAL", what)
	}
	identity := "ALTER TABLE " + s.Name + " REPLICA IDENTITY "
	unique := fmt.Sprintf("CREATE UNIQUE INDEX <index> ON %s (<key>), of NOT NULL columns", s.Name)
	switch {
	case s.Deferred:
		found.add(fmt.Sprintf("make the key of %s NOT DEFERRABLE, or %s and %sUSING INDEX <index>", s.Name, unique, identity),
			"the key of %s is DEFERRABLE: such a key cannot be the replica identity, and does not identify a row", what)
	case s.Key == nil && s.Identity == "f":
		found.add(fmt.Sprintf("add a primary key, or %s", unique),
			"%s has REPLICA IDENTITY FULL but no key: it has neither a primary key nor another unique index without NULLs", what)
	case s.Key == nil:
		found.add(fmt.Sprintf("add a primary key and %sDEFAULT, or %sUSING INDEX <unique index>, or ... FULL", identity, identity),
			"%s has no replica identity: publishing it would make the application's UPDATE and DELETE fail", what)
	case len(s.Generated) > 0 && (s.Identity != "f" || version >= 18):
		found.add(fmt.Sprintf("%s without generated columns, and %sUSING INDEX <index>", unique, identity),
			"the replica identity of %s has the generated column %s: publishing it would make the application's UPDATE and DELETE fail", what, s.Generated[0])
	}
	if root := t.root(); s.OID != t.OID && s.Key != nil && root.Key != nil && ((s.Identity == "f") != (root.Identity == "f") || !sameNames(s.Key, root.Key)) {
		found.add(leafRemedy(root, identity), "the replica identity of %s is not that of %s: old rows would not show what changed", what, name)
	}
}

func leafRemedy(root *storageFacts, identity string) string {
	if root.Identity == "f" {
		return identity + "FULL"
	}
	return fmt.Sprintf("%sUSING INDEX <unique index on %s>, or ... DEFAULT if that is the primary key", identity, strings.Join(root.Key, ", "))
}

// judgeTenant looks for the tenant's column, which must be of the identity of the root. The identity of each leaf is
// the same.
func judgeTenant(rule TableRule, t *tableFacts, quoted string, found *violations) {
	root := t.root()
	if t.column(rule.Tenant) == nil {
		names := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			names[i] = c.Name
		}
		found.add("correct source.tables; the columns are "+strings.Join(names, ", "),
			"table %s.%s has no column %q, which source.tables names as its tenant", rule.Schema, rule.Name, rule.Tenant)
		return
	}
	if root.Key != nil && root.Identity != "f" && !rule.InsertsOnly && !slices.Contains(root.Key, rule.Tenant) {
		found.add(fmt.Sprintf("CREATE UNIQUE INDEX <index> ON %s (%s, <key>) and ALTER TABLE %s REPLICA IDENTITY USING INDEX <index>, or REPLICA IDENTITY FULL",
			quoted, quoteIdentifier(rule.Tenant), quoted),
			"tenant column %q is not in the replica identity of %s.%s: a delete would not name the row's tenant", rule.Tenant, rule.Schema, rule.Name)
	}
}

func sameNames(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// judgePublication finds the gaps of the publication, and what the publication has beyond the wanted tables and columns. The excess is no
// violation: changes of other tables are skipped and counted, and other columns are dropped as soon as they are read. FOR ALL TABLES is a
// violation, because such a publication also concerns tables that are made later, and UPDATE and DELETE fail on every table without a key.
func judgePublication(name string, p *publicationFacts, tables []PublishedTable, lists bool) (found violations, excess []string) {
	quoted := quoteIdentifier(name)
	switch {
	case p == nil:
		found.heal("", "publication %q does not exist", name)
		return found, nil
	case p.AllTables:
		found.add("name another publication in source.publication, or DROP PUBLICATION "+quoted+" (outflow run creates another one)",
			"publication %q is FOR ALL TABLES: it would send every column of every table", name)
		return found, nil
	case !p.Kinds:
		found.heal("ALTER PUBLICATION "+quoted+" SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
			"publication %q does not publish all kinds of changes", name)
	}
	for _, s := range p.Schemas {
		excess = append(excess, "all tables of schema "+s.Schema)
	}
	for _, m := range p.Members {
		if !slices.ContainsFunc(tables, func(t PublishedTable) bool { return t.Relation.OID == m.Table }) {
			excess = append(excess, "table "+m.Name)
		}
	}
	for _, t := range tables {
		i := slices.IndexFunc(p.Members, func(m membershipFacts) bool { return m.Table == t.Relation.OID })
		whole := slices.ContainsFunc(p.Schemas, func(s publishedSchemas) bool { return s.Schema == t.Relation.Schema })
		if t.Partition && !p.ViaRoot {
			found.heal("ALTER PUBLICATION "+quoted+" SET (publish_via_partition_root = true)",
				"publication %q publishes changes of the partitions of %s as those of other tables", name, t.Relation)
		}
		if i < 0 {
			if !whole {
				found.heal("", "publication %q does not publish %s", name, t.Relation)
			}
			continue
		}
		m := p.Members[i]
		if m.Filtered {
			found.heal(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %[1]s ADD TABLE %s", quoted, pgx.Identifier{t.Relation.Schema, t.Relation.Name}.Sanitize(), t.published(lists)),
				"publication %q filters rows of %s: changes would silently be missing", name, t.Relation)
		}
		judgeColumns(name, m, t, lists, &found, &excess)
	}
	return found, excess
}

// judgeColumns compares the column list of a table. With REPLICA IDENTITY FULL there is none: see [PublishedTable.published].
func judgeColumns(publication string, m membershipFacts, t PublishedTable, lists bool, found *violations, excess *[]string) {
	whole := !lists || t.Relation.Identity == 'f'
	if m.Columns == nil {
		if !whole {
			*excess = append(*excess, fmt.Sprintf("all columns of %s", t.Relation))
		}
		return
	}
	if whole {
		found.heal("", "publication %q has a column list for %s, whose replica identity is FULL: the application's UPDATE and DELETE fail", publication, t.Relation)
		return
	}
	missing := missingOf(m.Columns, t.Columns)
	if len(missing) > 0 {
		found.heal("", "publication %q does not publish %s of %s", publication, strings.Join(missing, ", "), t.Relation)
	}
	if more := missingOf(t.Columns, m.Columns); len(more) > 0 {
		*excess = append(*excess, fmt.Sprintf("column %s of %s", strings.Join(more, ", "), t.Relation))
	}
}

// missingOf are the wanted names that are not among the given names.
func missingOf(given, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(wanted), func(name string) bool { return slices.Contains(given, name) })
}

// namedExcess is how many parts of an excess are named.
const namedExcess = 5

// describeExcess tells people what the publication has beyond the wanted tables and columns.
func describeExcess(excess []string) string {
	text := strings.Join(excess[:min(len(excess), namedExcess)], "; ")
	if more := len(excess) - namedExcess; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// gap tells why the stream does not show everything between two looks; the zero value means a complete stream.
type gap struct {
	reasons []string
	whole   bool             // every destination is concerned
	tables  []PublishedTable // else destinations whose mappings read any of the tables
	plan    bool             // the plan for the tables is out of date as well
}

// add adds a reason concerning every destination.
func (g *gap) add(format string, args ...any) {
	g.reasons = append(g.reasons, fmt.Sprintf(format, args...))
	g.whole = true
}

// addOf adds a reason concerning only the destinations whose mappings read the table, since every change of the table in the stream can be
// understood.
func (g *gap) addOf(t PublishedTable, format string, args ...any) {
	g.reasons = append(g.reasons, fmt.Sprintf(format, args...))
	g.tables = append(g.tables, t)
}

// apart are the mappings which read no table of the gap.
func (g *gap) apart() []string {
	var all []string
	for i, t := range g.tables {
		if i == 0 {
			all = slices.Clone(t.Apart)
		}
		all = slices.DeleteFunc(all, func(m string) bool { return !slices.Contains(t.Apart, m) })
	}
	return all
}

// outdate adds a reason and marks the plan as out of date.
func (g *gap) outdate(format string, args ...any) {
	g.add(format, args...)
	g.plan = true
}

func (g *gap) String() string { return strings.Join(g.reasons, "; ") }

// between finds the gap between two looks. The facts of before are the facts of the tables configured then.
func between(publication string, before, now facts, tables []PublishedTable) (g gap) {
	if before.Publication == nil || now.Publication == nil || before.Publication.rowVersion != now.Publication.rowVersion {
		g.add("publication %q was altered", publication)
	}
	for i, t := range tables {
		at := slices.IndexFunc(before.Tables, func(b tableFacts) bool { return b.Schema == t.Relation.Schema && b.Name == t.Relation.Name })
		if at < 0 {
			g.addOf(t, "table %s was not in source.tables", t.Relation)
			continue
		}
		b, n := &before.Tables[at], &now.Tables[i]
		switch {
		case n.Kind == "":
			g.outdate("table %s was dropped", t.Relation)
			continue
		case b.OID != n.OID:
			g.outdate("table %s was replaced by another table", t.Relation)
			continue
		case member(before.Publication, b) != member(now.Publication, n):
			g.addOf(t, "publication %q had lost %s, or published it differently", publication, t.Relation)
		}
		if !t.Rule.InsertsOnly { // else no destination copies the table
			g.altered(t, b, n)
			g.rewritten(t, b, n, now.Publication == nil || len(now.Publication.Schemas) > 0)
		}
	}
	return g
}

// member is the row of the catalog publishing a table.
func member(p *publicationFacts, t *tableFacts) rowVersion {
	if p == nil {
		return rowVersion{}
	}
	for _, m := range p.Members {
		if m.Table == t.OID {
			return m.rowVersion
		}
	}
	for _, s := range p.Schemas {
		if s.Schema == t.Schema {
			return s.rowVersion
		}
	}
	return rowVersion{}
}

// altered tells of changes to the columns read by mappings.
func (g *gap) altered(t PublishedTable, before, now *tableFacts) {
	for _, c := range t.Relied {
		b, n := before.column(c), now.column(c)
		switch {
		case b == nil && n == nil:
		case b == nil || n == nil || b.Number != n.Number:
			g.outdate("column %q of %s was recreated", c, t.Relation)
		case b.Type != n.Type:
			g.addOf(t, "the type of column %q of %s was changed", c, t.Relation)
		case b.Labels != nil && n.Labels != nil && relabelled(*b.Labels, *n.Labels):
			g.addOf(t, "labels or attributes of the type of column %q of %s were changed", c, t.Relation)
		}
	}
}

// rewritten tells of changes to a table's rows without the stream: the partitions and their files.
//
// TRUNCATE, which the stream shows, VACUUM FULL and CLUSTER, which change no row, give a table another file, and keep its TOAST table.
// ALTER TABLE, where the command writes rows again, makes another TOAST table too (ATRewriteTables in tablecmds.c). Where there is no TOAST
// table, another version of a column's row in pg_attribute tells the two apart: ALTER COLUMN writes both. unlogged: the publication does
// not keep a table from being unlogged for a time, which writes no row of pg_attribute. A partition's file counts by itself: TRUNCATE of
// one partition is not in the stream of its root.
func (g *gap) rewritten(t PublishedTable, before, now *tableFacts, unlogged bool) {
	altered := unlogged || slices.ContainsFunc(t.Relied, func(c string) bool {
		b, n := before.column(c), now.column(c)
		return b != nil && n != nil && b.Version != n.Version
	})
	for i := range before.Storage {
		b := &before.Storage[i]
		at := slices.IndexFunc(now.Storage, func(n storageFacts) bool { return n.OID == b.OID })
		if at < 0 {
			g.addOf(t, "partition %s of %s was detached or dropped", b.Name, t.Relation)
			continue
		}
		n := &now.Storage[at]
		if b.Attached != n.Attached {
			g.addOf(t, "partition %s of %s was detached and attached again", b.Name, t.Relation)
		}
		if b.File != n.File && (b.Toast != n.Toast || b.Toast == 0 && altered || b.OID != now.OID) {
			g.addOf(t, "%s was rewritten", n.Name)
		}
		if b.Identity != n.Identity || !sameNames(b.Key, n.Key) {
			g.outdate("the replica identity of %s was changed", n.Name)
		}
	}
	for i := range now.Storage {
		n := &now.Storage[i]
		if !slices.ContainsFunc(before.Storage, func(b storageFacts) bool { return n.OID == b.OID }) && !streamed(n, before) {
			g.addOf(t, "partition %s of %s was attached", n.Name, t.Relation)
		}
	}
}

// streamed reports whether every row of a new partition came through the stream of the root. The partition was made by CREATE TABLE ...
// PARTITION OF, and so were the tables between the partition and the root, or those tables were attached before the last look: no row is
// older than the partition's place in the tree. The file is the partition's first one, whose number is the table's own (heap_create in
// heap.c): no TRUNCATE of the partition alone removed rows brought by the stream.
func streamed(n *storageFacts, before *tableFacts) bool {
	return n.File == n.OID && (n.Filled == "" || n.Filled != n.Attached && slices.ContainsFunc(before.Storage, func(b storageFacts) bool {
		return strings.HasPrefix(b.Attached+" ", n.Filled+" ")
	}))
}

// relabelled reports whether an existing label has got another name since, or a composite type other attributes. New labels are no matter.
func relabelled(before, now string) bool {
	lines := strings.Split(now, "\n")
	for line := range strings.SplitSeq(before, "\n") {
		if !slices.Contains(lines, line) {
			return true
		}
	}
	return false
}

// Conditions reports whether a read of the table in the open transaction gives all rows of the table: the table is the table of the
// configuration, no policy hides rows, no children add rows, and the role may read the columns. An error is a [*Problem], or the failure to
// read the catalog.
func Conditions(ctx context.Context, conn *pgx.Conn, rel *wal.Relation) error {
	f, err := loadFacts(ctx, conn, ServerVersion(conn.PgConn()), "", []wanted{{rel.OID, rel.Schema, rel.Name}})
	if err != nil {
		return err
	}
	t, name, role := &f.Tables[0], rel.String(), conn.Config().User
	var found violations
	switch {
	case t.Kind == "":
		found.add("create it, or correct source.tables", "table %s is gone from the primary", name)
	case t.Schema != rel.Schema || t.Name != rel.Name:
		found.add("rename the table back, or correct source.tables and the mappings", "table %s was renamed to %s.%s", name, t.Schema, t.Name)
	default:
		if len(t.Children) > 0 {
			found.add("ALTER TABLE "+t.Children[0]+" NO INHERIT "+name, "table %s has children that inherit from it (%s)", name, strings.Join(t.Children, ", "))
		}
		judgeReading(name, t, role, rel.Names(), &found)
	}
	return errors.Join(found.errors()...)
}
