// Package mapping loads, checks and compiles mappings: the SQL that tenants and operators write to shape their rows.
//
// A mapping runs only in the external database, over the net changes of one batch of one tenant. In a step's SQL, the source table's name is a
// relation: [Mapping.Compile] puts a CTE in front of the statement, which unnests one text array per column and casts the arrays. Values pass
// as pgoutput's text to the external server's own input functions; no type is interpreted here.
//
// # The way of a mapping
//
//	Load       file -> Mapping       every fault of form, with file, line and column
//	Resolve    from, keys            the source tables by the names of the configuration
//	Restrict   columns               what a tenant's own mapping may name
//	CheckTable table of the primary  steps that would read NULL, or a column that the stream lacks
//	Compile    relation -> Statement the SQL that runs, prepared by the external server
//
// # What the package guarantees
//
//   - A step is one statement of an allowed kind, so a tenant's SQL cannot end Outflow's transaction. Statements that Postgres refuses in a
//     transaction block are refused when the mapping is loaded.
//   - The set of columns that a step reads is never too small: a name that the package cannot place counts as a column. The set may be too
//     large, and then publishes a column more than necessary.
//   - A step never sees a whole row: a whole row would depend on which columns happen to leave the primary.
//   - The work on a text is bounded (maxFaults, maxDepth), because the author of a mapping may be hostile.
//   - A [Mapping] does not change after Load, Resolve and Restrict, and is then safe for concurrent use. A [Set] is not safe for
//     concurrent change.
//
// The package has no connection, no logger and no clock.
//
// # Rejected
//
//   - A parser of SQL: the grammar differs between Postgres 13 and 18, and a parser would refuse what a server accepts. The package lexes
//     (which is the same in all versions), finds the columns by the structure of gram.y, and leaves errors to the server.
//   - Parsing with the server's own parser through cgo: the program would no longer be one static binary, and would know one version.
//   - Binary values: every type would need a codec, and an extension's type has none.
//   - One statement per row: a batch of 10,000 rows would need 10,000 executions; one statement over arrays is faster by an order of magnitude.
//   - Rows in a temporary table: CREATE TABLE writes the catalog of the tenant's database with every batch.
package mapping
