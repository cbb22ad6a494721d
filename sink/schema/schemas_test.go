package schema

import (
	"slices"
	"testing"

	"go.uber.org/zap"

	"outflow/replication/wal"
	"outflow/sink/external"
)

// relationOf is a relation of public.table; the first column is the tenant's, and the key.
func relationOf(oid uint32, table string, columns ...string) *wal.Relation {
	rel := &wal.Relation{OID: oid, Schema: "public", Name: table, Table: table, Key: []int{0}}
	for _, name := range columns {
		rel.Columns = append(rel.Columns, wal.Column{Name: name, TypeOID: 25, Type: "text"})
	}
	return rel
}

func TestSchemas(t *testing.T) {
	first := relationOf(1, "t", "tenant", "a")
	s := New(external.SourceTables{{Relation: first, Tenant: "tenant"}, {Relation: relationOf(2, "u", "id", "owner"), Tenant: "owner"}}, nil, zap.NewNop())
	names := func(rel *wal.Relation) []string { return rel.Names() }
	if s.widened(first) != first || s.Relation("t") != first || s.Relation("v") != nil {
		t.Error("the configured relations are not the latest")
	}

	// A change from before a column came is widened by the column, and a later change has the column of its own.
	s.Learn(relationOf(1, "t", "tenant", "a", "b"))
	wide := s.widened(first)
	if want := []string{"tenant", "a", "b"}; !slices.Equal(names(wide), want) || !slices.Equal(names(s.Relation("t")), want) {
		t.Errorf("widened to %v, the latest is %v; expected %v", names(wide), names(s.Relation("t")), want)
	}
	if s.widened(first) != wide {
		t.Error("the same relation is widened to two relations")
	}
	// A stream that is read again describes the table as it was; the column stays known.
	s.Learn(first)
	if again := s.widened(first); again == wide || len(again.Columns) != 3 {
		t.Errorf("after the table was learnt: %v", names(again))
	}
	// Only the catalog says that a column is gone.
	s.replace(relationOf(1, "t", "tenant", "c"))
	if want := []string{"tenant", "a", "c"}; !slices.Equal(names(s.widened(first)), want) || len(s.Relation("t").Columns) != 2 {
		t.Errorf("after the replacement: widened to %v, the latest is %v", names(s.widened(first)), names(s.Relation("t")))
	}

	if got := s.TenantColumn(relationOf(2, "u", "x", "owner")); got != 1 {
		t.Errorf("the tenant's column is %d", got)
	}
	if got := s.TenantColumn(relationOf(3, "t", "tenant")); got != -1 {
		t.Errorf("the tenant's column of another table is %d", got)
	}
	if got := s.Names(); !slices.Equal(got, []string{"t", "u"}) {
		t.Errorf("the tables are %v", got)
	}
}

func TestDoubtfulTables(t *testing.T) {
	s := New(nil, nil, zap.NewNop())
	rel := relationOf(1, "t", "tenant")
	s.Doubt("t", rel)
	s.Doubt("gone", nil)
	if got := s.InDoubt(); len(got) != 2 {
		t.Errorf("in doubt are %v", got)
	}
	if s.Resolve("t", relationOf(1, "t", "tenant")) || s.Resolve("gone", nil) || s.Resolve("other", rel) {
		t.Error("a table with the same columns is resolved")
	}
	if !s.Resolve("t", relationOf(1, "t", "tenant", "a")) || !s.Resolve("gone", rel) || len(s.InDoubt()) != 0 {
		t.Error("a table with other columns stays in doubt")
	}
	if s.Resolve("t", rel) {
		t.Error("a doubt ends twice")
	}
}
