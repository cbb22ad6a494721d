package wal

// Table is a table of the primary as described by the catalog now.
type Table struct {
	Relation  *Relation // with all publishable columns
	Generated []string  // columns not sent by pgoutput
	Partition bool      // a partitioned table
	Persist   byte      // pg_class.relpersistence: 'p'ermanent, 'u'nlogged, 't'emporary
	Ownerless bool      // the tenant column may be NULL; set by a check of the table, and false before
}
