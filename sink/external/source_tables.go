package external

import "outflow/replication/wal"

// SourceTable is a source table as configured: the table's tenant column, and the name of the table in mappings.
type SourceTable struct {
	Relation *wal.Relation // from the catalog; the stream may bring newer ones
	Tenant   string        // column
	Nullable bool          // rows may be without a tenant
}

// SourceTables are the source tables in the configuration's order. SourceTables implements [Tables] for a look that follows no stream.
type SourceTables []SourceTable

// Find is the source table of a relation; nil where the relation's table is no source table.
func (all SourceTables) Find(rel *wal.Relation) *SourceTable {
	for i := range all {
		if all[i].Relation.OID == rel.OID {
			return &all[i]
		}
	}
	return nil
}

// Relation implements [Tables].
func (all SourceTables) Relation(table string) *wal.Relation {
	for i := range all {
		if all[i].Relation.Table == table {
			return all[i].Relation
		}
	}
	return nil
}

// TenantColumn implements [Tables].
func (all SourceTables) TenantColumn(rel *wal.Relation) int {
	if t := all.Find(rel); t != nil {
		return rel.Column(t.Tenant)
	}
	return -1
}

// Names implements [Tables].
func (all SourceTables) Names() []string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Relation.Table
	}
	return names
}
