package tableread

import "outflow/replication/primary"

// Tables are the tables of the primary, as reads have found the tables: an unaltered table keeps its relation from one read to the next. The
// copiers and the look-ups of a process share one Tables. Safe for concurrent use.
type Tables struct {
	*primary.Server
	shapes shapes
}

// NewTables returns the tables of the primary. No connection is made.
func NewTables(p *primary.Server) *Tables { return &Tables{Server: p} }
