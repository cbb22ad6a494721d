// Package preflight finds out beforehand whether everything can work: what outflow check examines.
//
// [Run] looks at the mappings' files, at the primary (server, tables, schema outflow, rights, publication, slot), and at each chosen external database with the
// mappings prepared where they are to run. It changes nothing anywhere, and may run beside the process that reads the slot. Every fault is a finding with
// a remedy, and hides no other fault: a table or a mapping with a fault is left out, and the rest is examined without it. What cannot be examined
// because something else failed is a finding of its own kind.
//
// Questions to the primary end after [outflow/replication/primary.Patience], those to an external database after 30 s; eight databases are examined at once.
package preflight
