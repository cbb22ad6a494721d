// Package mapping loads, checks and compiles mappings: the SQL that tenants and operators write to shape their rows.
//
// A mapping runs only in the external database, over the net changes of one batch of the tenant. In a step's SQL the source table's name
// is a relation: [Compile] puts a CTE in front of the statement, which unnests one text array a column and casts the array. Values pass as
// pgoutput's text to the external server's own input functions; no type is interpreted here.
//
// The package has no connection and no logger. The SQL is lexed, not parsed (the external server prepares the SQL): enough to see that a
// step is one statement of an allowed kind, which columns the step names, and where a WITH of the step begins.
package mapping
