package sink

import (
	"fmt"

	"go.uber.org/zap"

	"outflow/replication/primary"
	"outflow/replication/wal"
)

// skip reports whether a change goes to no destination on purpose: the table of the change is not configured, the row has no tenant, or
// the change is not understood and every destination is copied from a later state of the tables. Such changes are counted. Any other
// change not understood is a [*primary.Gap]: such a change is never skipped.
func (r *Router) skip(part *wal.Transaction, c *wal.Change, rt *route) (bool, error) {
	switch reason := rt.unclear(c); {
	case rt.table == "", reason == "" && rt.withoutTenant(c):
	case reason == "":
		return false, nil
	case part.CommitLSN >= r.config.Covered:
		return false, &primary.Gap{Reason: reason, Unseen: true}
	case rt.count.skipped.Load() == 0:
		r.config.Log.Warn("changes that cannot be decoded are skipped: every destination is copied from a later state of the tables",
			zap.Stringer("table", c.Relation), zap.String("reason", reason), zap.Stringer("lsn", part.CommitLSN))
	}
	rt.count.skipped.Add(1)
	return true, nil
}

// unclear tells why the tenant of a change's row cannot be known; "" where the tenant is known.
func (rt *route) unclear(c *wal.Change) string {
	if rt.table == "" || c.Kind == wal.Truncate || rt.tombstone && c.Kind != wal.Insert {
		return "" // the clean-up of a tombstone brings no row back
	}
	switch {
	case rt.fault != "":
		return rt.fault
	case c.Kind == wal.Update && c.Relation.Identity == 'f' && c.Old.IsZero():
		return fmt.Sprintf("an update of %s came without the old row, although the replica identity is FULL", c.Relation)
	case c.Kind != wal.Insert && c.Kind != wal.Update && c.Kind != wal.Delete:
		return fmt.Sprintf("a change of %s has the unknown kind %s", c.Relation, c.Kind)
	case rt.lacks(c.New), rt.lacks(c.Old):
		return fmt.Sprintf("a change (%s) of %s came without the tenant", c.Kind, c.Relation)
	}
	return ""
}

// lacks reports whether an existing row does not tell its tenant.
func (rt *route) lacks(t wal.Tuple) bool {
	if t.IsZero() {
		return false
	}
	v := t.Value(rt.tenant)
	return v.Presence != wal.Text && (!rt.nullable || v.Presence != wal.Null)
}

// withoutTenant reports whether a row has no tenant, before the change and after the change.
func (rt *route) withoutTenant(c *wal.Change) bool {
	if !rt.nullable || c.Kind == wal.Truncate || rt.tombstone {
		return false
	}
	none := func(t wal.Tuple) bool { return t.IsZero() || t.Value(rt.tenant).Presence == wal.Null }
	return none(c.Old) && none(c.New)
}

// faultOf tells why the stream does not say whose rows a relation has; "" where the stream does.
func (rt *route) faultOf(rel *wal.Relation, tenant string) string {
	switch {
	case rt.tenant < 0:
		return fmt.Sprintf("the stream has no column %q of %s, which source.tables names as its tenant", tenant, rel)
	case rel.Fault != "":
		return rel.Fault
	case rt.tombstone:
		return ""
	case len(rel.Key) == 0:
		return fmt.Sprintf("%s had no replica identity", rel)
	case !rel.Columns[rt.tenant].Identity:
		return fmt.Sprintf("the tenant column %q was not in the replica identity of %s", tenant, rel)
	}
	return ""
}

// unconfigured notes a published table that is not configured.
func (r *Router) unconfigured(rel *wal.Relation) *tableCount {
	r.config.Log.Warn("a published table is not in source.tables; its changes are skipped. Remove the table from the publication, or add it to source.tables",
		zap.Stringer("table", rel))
	return r.counts.add(rel)
}
