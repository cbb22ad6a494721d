// Package tableread reads rows of the primary's tables beside the stream: pieces of a table in the order of the key ([Copier.Read]), rows by key
// ([Lookup.Rows], [Copier.Find], [Copier.Present]), and the transactions for which a reader of rows waits.
//
// # What it guarantees
//
// A read describes and reads the table in one moment: the table cannot be altered between the two, and is found by its OID, whatever its name.
// Each read gives a snapshot from before the rows were read, and a horizon (an LSN) from after: a transaction outside the snapshot counts as
// not seen, and everything that the rows show was committed before the horizon. The conditions of package primary hold for each read: no policy
// hides rows, no child adds rows.
//
// Memory is bounded by the caller. The primary measures each row, and a row beyond the bound is not sent: see pieces.go.
//
// Keys are compared by the primary, with the operators of the key's own index, since texts of equal keys may differ.
//
// # Goroutines and locks
//
// A [Copier] has one connection and belongs to one goroutine at a time. A [Lookup] and [Tables] are safe for concurrent use. Lookup.mu and the
// lock of the shapes are never held together, nor while the primary is asked.
//
// # Rejected
//
//   - A long transaction for a whole copy: its snapshot would keep the primary from cleaning up dead rows for hours.
//   - LOCK TABLE to keep a table from being altered: the role has no right to the whole table where it may read some columns only.
//   - OFFSET in the place of a key behind which to go on: the cost grows with the square of the table.
//   - Reading a row to find out that the row is large: the driver takes in a row whole.
//   - This package inside package primary: the two have little in common but a connection, and would be 4,000 lines.
package tableread
