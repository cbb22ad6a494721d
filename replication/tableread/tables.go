package tableread

import "outflow/replication/primary"

// Tables are the primary's tables, as described by earlier reads: an unaltered table keeps the same relation from one read to the next, since
// statements are compiled for relations. The copiers and the look-ups of a process share one Tables. Safe for concurrent use.
type Tables struct {
	*primary.Server
	shapes shapes
}

// NewTables returns the tables of the primary. No connection is made.
func NewTables(p *primary.Server) *Tables { return &Tables{Server: p} }
