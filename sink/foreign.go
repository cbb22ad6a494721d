package sink

import (
	"fmt"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication/wal"
)

// refuseForeign is the second line of defence between tenants, behind the router and the queries of copies and look-ups: a row of
// another tenant, or of no tenant, never becomes a parameter of a statement. Every way to an external database passes here.
//
// The destination halts, because only a fault of Outflow's brings such a row. The error and the log do not hold the other tenant's name.
func (d *Destination) refuseForeign(all map[string]*mapping.Rows) error {
	for table, rows := range all {
		if rows.Relation == nil {
			continue
		}
		tenant := d.router.schemas.tenantColumn(rows.Relation)
		n := d.foreign(rows.Upserts, tenant) + d.foreign(rows.Deletes, tenant)
		if n == 0 {
			continue
		}
		d.router.foreignRows.Add(int64(n))
		d.log.Error("rows of another tenant were refused; this is a fault of Outflow's", zap.String("table", table), zap.Int("rows", n))
		return &Error{Table: table, verdict: needsHuman, Err: fmt.Errorf("%d rows of %s are not of tenant %q and were refused: a fault of Outflow's", n, table, d.Tenant),
			Remedy: "report it, with the log"}
	}
	return nil
}

// foreign counts the rows that are not of the destination's tenant. tenant is the index of the tenant column, -1 where no column is known.
func (d *Destination) foreign(rows []mapping.Row, tenant int) int {
	if tenant < 0 {
		return len(rows)
	}
	n := 0
	for i := range rows {
		if v := rows[i].Tuple.Value(tenant); v.Presence != wal.Text || string(v.Text) != d.Tenant {
			n++
		}
	}
	return n
}

// ForeignRows counts the rows of other tenants that destinations have refused since the process started. Any other number than 0 is a
// fault of Outflow's. Safe for concurrent use.
func (r *Router) ForeignRows() int64 { return r.foreignRows.Load() }
