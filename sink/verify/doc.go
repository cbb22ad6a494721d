// Package verify proves that external databases equal the primary, beside a process that keeps the databases equal, and repairs rows that differ.
//
// # Method
//
// A look recomputes each mapping from the primary's rows: the mapping's own steps write into empty temporary tables that stand in front of the
// mapping's tables in the search path, in one transaction that is rolled back. Then each table is compared with the recomputed table, as
// multisets of rows, in one statement.
//
// The live system moves during a look, so one look proves nothing. Between the read of the primary and the comparison the stream must have
// passed the place of the read; a row that differs in the same way at two such looks in a row is different. A row that differs each time in
// another way is being changed.
//
// # Guarantees
//
//   - A comparison writes nothing: the transaction is read only but for temporary tables, and is rolled back.
//   - A difference is reported only where the difference is certain; else the error says why nothing is certain, and what helps.
//   - A repair writes rows of the primary through the mappings, under the lock of the metadata, and moves no id: the stream ends at the same.
//   - Each read of the primary has a short snapshot of its own, and each question to either server is bounded in time.
//   - At most 100,000 differences of a table are kept.
//
// # Rejected designs
//
//   - One snapshot of both servers: there is none, and a long snapshot keeps the primary from cleaning up.
//   - Checksums by ranges of keys: a mapping may join, filter and rename, so that ranges of one side are no ranges of the other.
//   - A stopped stream during the comparison: a comparison of a large tenant takes minutes.
package verify
