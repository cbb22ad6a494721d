// Package preflight finds out beforehand whether everything can work, for outflow check.
//
// [Run] looks at the files of the mappings, at the primary (server, tables, schema outflow, rights, publication, slot), and at each chosen external
// database, with the mappings prepared where they are to run. Run changes nothing anywhere, and may run beside the process that reads the slot.
// Every fault is a finding with a remedy, and hides no other fault: Run leaves out a table or a mapping with a fault, and examines the rest. A
// subject that cannot be examined because of another fault is a finding of its own kind.
//
// Questions to the primary end after [outflow/replication/primary.Patience], questions to an external database after 30 s. Eight databases are
// examined at once; the report is written after all of them.
package preflight
