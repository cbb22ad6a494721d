// Package wal describes the contents of the primary's write-ahead log: positions, tables, rows, changes, transactions, and the snapshots that
// compare a read of a table with a transaction. The package is a leaf: no I/O, no goroutine, no lock, no import of a driver. Code that only has
// to know a change (the mappings above all) imports wal and no other package of replication.
//
// # What it guarantees
//
// A [Change], a [Transaction] and a [Tuple] are immutable once handed over, and may be shared between goroutines. A [Relation] is immutable
// too as soon as its owner has handed over a change of it: an altered table gets a new Relation, so the pointer names one shape of a table.
//
// Values stay text, in the form of the type's output function. The package interprets no type, so no type is interpreted wrongly.
//
// # Memory
//
// A tuple keeps pgoutput's own encoding in one allocation, checked when [Relation.DecodeTuple] reads it; values are found by walking the row.
//
// # Rejected
//
//   - A slice of values by row: one allocation a column, which costs more than the walk for rows of usual width.
//   - pglogrepl's LSN and messages: a leaf would import a driver, and a tuple of pglogrepl's makes three allocations a column.
//   - LSNs in the place of transaction ids for [Snapshot.Sees]: a commit can be in the log, and decoded, before a snapshot shows the commit.
package wal
