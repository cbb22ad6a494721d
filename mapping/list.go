package mapping

// Names are the names of mappings, in the order of the mappings.
func Names(mappings []*Mapping) []string {
	names := make([]string, len(mappings))
	for i, m := range mappings {
		names[i] = m.Name
	}
	return names
}

// Reads are the source tables that any of the mappings reads.
func Reads(mappings []*Mapping) map[string]bool {
	reads := map[string]bool{}
	for _, m := range mappings {
		for _, table := range m.Tables() {
			reads[table] = true
		}
	}
	return reads
}
