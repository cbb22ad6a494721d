// Package pgorder has the order of columns on a server: the operators that compare the values, and the SQL that orders and compares by the
// operators. Both ends use the package: reads of the primary's tables, and comparisons in the external databases. The package is pure: a caller
// runs [ColumnsSQL] and fills the columns.
package pgorder
