// Package pgorder has the order of columns as a server has it: which operators of which operator class compare the values, and the SQL that
// orders and compares by them. Both ends use the package: reads of the primary's tables, and comparisons in the external databases. The package
// is pure: a caller runs [ColumnsSQL] and fills the columns.
package pgorder
