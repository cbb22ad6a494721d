package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Statement is one requirement of the primary.
type Statement struct {
	What string // the object made, for people
	SQL  string // without a semicolon at the end
	Done bool   // the primary has the object already
}

// Statements returns the statements of [Setup.Ensure], for a person to read or to run. Ensure runs those not done yet.
// Nothing is changed. The schema outflow need not exist yet.
func (s Setup) Statements(ctx context.Context, conn *pgx.Conn) ([]Statement, error) {
	publication, err := s.publication(ctx, conn)
	if err != nil {
		return nil, err
	}
	_, found, err := s.findSlot(ctx, conn)
	if err != nil {
		return nil, err
	}
	_, known, err := s.loadSource(ctx, conn)
	if state := sqlstate(err); err != nil && state != undefinedTable && state != insufficientRights {
		return nil, err
	}
	if known && !found {
		return nil, slotGone(s.Slot) // a new slot would begin after a gap
	}
	slot := Statement{What: fmt.Sprintf("replication slot %q", s.Slot), SQL: s.slotSQL(), Done: found}
	return []Statement{publication, slot}, nil
}

func (s Setup) slotSQL() string {
	return fmt.Sprintf("SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')", quoteLiteral(s.Slot))
}

func slotGone(slot string) *Problem {
	return &Problem{
		What:   fmt.Sprintf("replication slot %q is gone; what was committed since is lost to the stream", slot),
		Remedy: "run: " + resetCommand + " (a new slot, and every destination is copied anew while changes flow)",
	}
}

// publication is the statement that makes the publication publish the wanted tables.
func (s Setup) publication(ctx context.Context, conn *pgx.Conn) (Statement, error) {
	version := serverVersion(conn.PgConn())
	now, err := s.facts(ctx, conn, version)
	if err != nil {
		return Statement{}, err
	}
	found, excess := s.judge(now, conn.Config().User, version)
	healed := slices.ContainsFunc(found, func(v violation) bool { return v.heals })
	return Statement{What: fmt.Sprintf("publication %q", s.Publication), SQL: s.publicationSQL(now.Publication, version), Done: !healed && !excess}, nil
}

// publicationSQL makes or alters the publication. From 15 on the publication has column lists, so columns without a mapping never leave the
// primary; before 15 it has whole tables.
func (s Setup) publicationSQL(p *publicationFacts, version int) string {
	want := make([]string, len(s.Tables))
	for i, t := range s.Tables {
		want[i] = t.published(version >= 15)
	}
	name, tables := quoteIdentifier(s.Publication), strings.Join(want, ", ")
	if p == nil {
		return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish_via_partition_root = true)", name, tables)
	}
	alter := fmt.Sprintf("ALTER PUBLICATION %s SET TABLE %s", name, tables)
	if !p.Kinds || !p.ViaRoot {
		// First: a partitioned table takes a column list only where changes are published as the root's.
		alter = fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);\n%s", name, alter)
	}
	return alter
}
