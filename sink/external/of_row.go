package external

import (
	"slices"

	"outflow/internal/pgerror"
	"outflow/replication/wal"
)

// OfRow is the error with the name of a row: key columns only, no other value.
func OfRow(e *Error, rel *wal.Relation, row wal.Tuple) *Error {
	named := *e
	named.Table, named.Key = rel.Table, DescribeRow(rel, row)
	if named.Remedy == "" && slices.Contains(ofOtherRows, named.SQLState) {
		named.Remedy = "correct the constraint, or the rows that violate it; outflow resync copies all rows in an order that suits the constraints"
	}
	return &named
}

// ofOtherRows are refusals that may come from other rows, and not from the row alone: another order may help.
var ofOtherRows = []string{pgerror.ForeignKeyViolation, pgerror.UniqueViolation, pgerror.ExclusionViolation}
