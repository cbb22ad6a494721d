package replication

import "outflow/replication/wal"

// relation completes a relation from the catalog, or finds the relation unchanged: the server describes a table again
// after each connection and each VACUUM.
func (s *session) relation(rel *wal.Relation) error {
	if err := s.name(rel); err != nil {
		return err
	}
	if known := s.relations[rel.OID]; known != nil && known.Identity != 'f' && known.SentLike(rel) {
		s.decoder.relations[rel.OID] = known
		return nil
	}
	if rel.Table != "" { // no mapping reads rows of other tables: thousands of partitions are described beside their root
		if err := s.Slot.Server.Resolve(rel); err != nil {
			return err
		}
	}
	if known := s.relations[rel.OID]; known != nil && known.SentLike(rel) && known.SameShape(rel) { // others keep what they know of a pointer
		rel = known
		s.decoder.relations[rel.OID] = known
	}
	if s.relations == nil {
		s.relations = map[uint32]*wal.Relation{}
	}
	s.relations[rel.OID] = rel
	return nil
}

// name gives a configured table its configured names, whatever the stream calls the table: a table is its OID, and a transaction may have
// renamed it for a moment. Another table under a configured name is no configured table. Where the name is the other table's on the primary
// now, the tables were swapped, and the stream does not have all rows of the new table.
func (s *session) name(rel *wal.Relation) error {
	for _, t := range s.Publication.Tables {
		if t.Relation.OID == rel.OID {
			rel.Schema, rel.Name, rel.Table = t.Relation.Schema, t.Relation.Name, t.Relation.Table
			rel.Fault = t.FaultOf(rel)
			rel.Only(t.Columns) // a publication of 14 sends all columns, and a publication changed by a person may; the role may not read the others
			return nil
		}
	}
	for _, t := range s.Publication.Tables {
		if t.Relation.Schema == rel.Schema && t.Relation.Name == rel.Name {
			return s.Slot.Server.Swapped(t.Relation)
		}
	}
	return s.stray(rel)
}

// stray is a [*primary.Gap] where a table whose changes the stream has was a partition unseen by any look: partitions are described too, and the
// changes are the root's. Rows gone with the partition are not in the stream.
func (s *session) stray(rel *wal.Relation) error {
	if !s.wanted || s.part.CommitLSN < s.Source.Covered || s.relations[rel.OID] != nil || s.Source.Knows(rel.OID) {
		return nil
	}
	return s.Slot.Stray(s.Publication.Name, rel)
}
