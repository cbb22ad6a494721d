package external

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
func (s *Session) refuseForeign(all map[string]*mapping.Rows) error {
	for table, rows := range all {
		if rows.Relation == nil {
			continue
		}
		tenant := s.db.Tables.TenantColumn(rows.Relation)
		n := s.foreign(rows.Upserts, tenant) + s.foreign(rows.Deletes, tenant)
		if n == 0 {
			continue
		}
		s.db.Log.Error("rows of another tenant were refused; this is a bug in Outflow", zap.String("table", table), zap.Int("rows", n))
		return &Error{Table: table, Verdict: NeedsHuman, Err: &ForeignRowsError{Table: table, Tenant: s.db.Tenant, Rows: n}, Remedy: "report the bug, with the log"}
	}
	return nil
}

// ForeignRowsError says that rows of another tenant were about to be sent to a tenant's external database, and were not sent.
type ForeignRowsError struct {
	Table  string // the source table
	Tenant string // the external database's
	Rows   int    // number of the refused rows
}

func (e *ForeignRowsError) Error() string {
	return fmt.Sprintf("%d rows of %s do not belong to tenant %q and were refused: a bug in Outflow", e.Rows, e.Table, e.Tenant)
}

// foreign counts the rows that are not of the database's tenant. tenant is the index of the tenant column, -1 where no column is known.
func (s *Session) foreign(rows []mapping.Row, tenant int) int {
	if tenant < 0 {
		return len(rows)
	}
	n := 0
	for i := range rows {
		if v := rows[i].Tuple.Value(tenant); v.Presence != wal.Text || string(v.Text) != s.db.Tenant {
			n++
		}
	}
	return n
}
