package primary

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Publication is the publication that Outflow reads, with the tables that it is to publish.
type Publication struct {
	Name   string
	Tables []PublishedTable
}

// facts reads the facts of the publication and of the configured tables, which are named by their OIDs: see [wal.Table].
func (p Publication) facts(ctx context.Context, db rowQuerier, version int) (facts, error) {
	tables := make([]wanted, len(p.Tables))
	for i, t := range p.Tables {
		tables[i] = wanted{t.Relation.OID, t.Relation.Schema, t.Relation.Name}
	}
	return loadFacts(ctx, db, version, p.Name, tables)
}

// judge finds the broken conditions, and what the publication has beyond the wanted tables and columns.
func (p Publication) judge(f facts, role string, version int) (found violations, excess []string) {
	for i, t := range p.Tables {
		columns := t.Columns
		if t.Rule.InsertsOnly {
			columns = nil
		}
		if f.Tables[i].OID != 0 && f.Tables[i].Kind != "" {
			found = append(found, judgeTable(t.Rule, &f.Tables[i], role, version, columns)...)
		} else {
			found.add("create it, or correct source.tables (names are case-sensitive)", "table %s is gone from the primary", t.Relation)
		}
		for j := range f.Tables {
			root := f.Tables[j].OID
			if j != i && root != 0 && slices.ContainsFunc(f.Tables[j].Storage, func(st storageFacts) bool { return st.OID == f.Tables[i].OID }) {
				found.add("name one of them in source.tables", "table %s is a partition of %s, and its changes arrive as changes of that table", t.Relation, p.Tables[j].Relation)
			}
		}
	}
	about, excess := judgePublication(p.Name, f.Publication, p.Tables, version >= 15)
	return append(found, about...), excess
}

// since finds the gap between the noted facts and the present facts.
func (p Publication) since(before *facts, now facts) (g gap) {
	if before == nil {
		g.add("the facts that the stream relies on were not noted") // by an earlier version
		return g
	}
	return between(p.Name, *before, now, p.Tables)
}

// alter brings the publication to the wanted state. Where the role may not alter the publication the error has the statement to
// run; a publication with only an excess stays.
func (p Publication) alter(ctx context.Context, tx pgx.Tx, now facts, version int) (facts, error) {
	role := tx.Conn().Config().User
	found, excess := p.judge(now, role, version)
	if fatal := slices.DeleteFunc(slices.Clone(found), func(v violation) bool { return v.heals }); len(fatal) > 0 {
		return now, errors.Join(fatal.errors()...)
	}
	if len(found) == 0 && len(excess) == 0 {
		return now, nil
	}
	statement := p.sql(now.Publication, version)
	may, err := p.mayPublish(ctx, tx, now.Publication != nil)
	switch {
	case err != nil:
		return now, err
	case !may && len(found) == 0:
		return now, nil
	case !may:
		return now, p.unpublishable(now.Publication, found, statement)
	}
	if _, err := tx.Exec(ctx, statement); err != nil {
		return now, fmt.Errorf("%s: %w", statement, err)
	}
	if now, err = p.facts(ctx, tx, version); err != nil {
		return now, err
	}
	found, _ = p.judge(now, role, version)
	return now, errors.Join(found.errors()...)
}

// unpublishable gives the statement a person must run.
func (p Publication) unpublishable(now *publicationFacts, found violations, statement string) *Problem {
	who := "the tables' owner"
	if now != nil {
		who = now.Owner + ", the owner of the publication, and as owner of the tables"
	}
	var what []string
	for _, v := range found {
		what = append(what, v.What)
	}
	return &Problem{What: strings.Join(what, "; ") + ", and this role may not change the publication",
		Remedy: "as " + who + " run: " + statement, Relied: true}
}

// mayPublish reports whether the role could make or change the publication.
func (p Publication) mayPublish(ctx context.Context, conn rowQuerier, exists bool) (may bool, err error) {
	oids := make([]uint32, len(p.Tables))
	for i, t := range p.Tables {
		oids[i] = t.Relation.OID
	}
	err = conn.QueryRow(ctx, `SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR
			(CASE WHEN $1 THEN (SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $2)
				ELSE has_database_privilege(current_database(), 'CREATE') END)
			AND NOT EXISTS (SELECT FROM pg_class WHERE oid = ANY ($3::oid[]) AND NOT pg_has_role(relowner, 'USAGE'))`,
		exists, p.Name, oids).Scan(&may)
	if err != nil {
		return false, fmt.Errorf("reading the rights on publication %q: %w", p.Name, err)
	}
	return may, nil
}

// statement is the statement that makes the publication publish the wanted tables.
func (p Publication) statement(ctx context.Context, conn *pgx.Conn) (Statement, error) {
	version := ServerVersion(conn.PgConn())
	now, err := p.facts(ctx, conn, version)
	if err != nil {
		return Statement{}, err
	}
	found, excess := p.judge(now, conn.Config().User, version)
	healed := slices.ContainsFunc(found, func(v violation) bool { return v.heals })
	return Statement{What: fmt.Sprintf("publication %q", p.Name), SQL: p.sql(now.Publication, version), Done: !healed && len(excess) == 0}, nil
}

// sql makes or alters the publication. From 15 on the publication has column lists, so columns without a mapping never leave the
// primary; before 15 it has whole tables.
func (p Publication) sql(now *publicationFacts, version int) string {
	want := make([]string, len(p.Tables))
	for i, t := range p.Tables {
		want[i] = t.published(version >= 15)
	}
	name, tables := quoteIdentifier(p.Name), strings.Join(want, ", ")
	if now == nil {
		return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish_via_partition_root = true)", name, tables)
	}
	alter := fmt.Sprintf("ALTER PUBLICATION %s SET TABLE %s", name, tables)
	if !now.Kinds || !now.ViaRoot {
		// First: a partitioned table takes a column list only where changes are published as the root's.
		alter = fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);\n%s", name, alter)
	}
	return alter
}
