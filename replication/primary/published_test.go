package primary

import (
	"strings"
	"testing"

	"outflow/replication/wal"
)

// relationOf describes a table whose columns are named so; those with a star are of its key.
func relationOf(identity byte, columns string) *wal.Relation {
	r := &wal.Relation{Schema: "public", Name: "items", Identity: identity}
	for i, name := range strings.Fields(columns) {
		name, key := strings.CutPrefix(name, "*")
		r.Columns = append(r.Columns, wal.Column{Name: name, Identity: key})
		if key {
			r.Key = append(r.Key, i)
		}
	}
	return r
}

// The order of the columns and the key tell whether the names of a Relation message are those that the catalog has.
func TestFaultOfRelation(t *testing.T) {
	t.Parallel()
	for sent, says := range map[string]string{
		"*tenant *id v w x":     "",
		"*tenant *id v w":       "", // x was added later, or a column list leaves it out
		"*tenant *id v":         "",
		"*tenant *id v w x y":   "",
		"*tenant *id old v w x": "", // old was dropped later
		"*tenant *id v2 w x":    "", // who reads v finds that it is gone
		"*tenant *id v w y":     "", // x was renamed, or dropped, and y added
		"*tenant *id w x y":     "", // v was dropped
		"*tenant *id w v x":     `column "v"`,
		"*tenant *id w v":       `column "v"`,
		"*tenant *id tmp v x":   `column "v"`,
		"v *id tenant w x":      `column "id"`,
		"*tenant id *v w x":     "(tenant, v)",
		"*tenant *id *v w x":    "(tenant, id, v)",
		"tenant id v w x":       "()",
	} {
		table := PublishedTable{Table: &wal.Table{Relation: relationOf('d', "*tenant *id v w x")}, Columns: []string{"tenant", "id", "v", "w"}}
		got := table.FaultOf(relationOf('d', sent))
		if says == "" && got != "" || !strings.Contains(got, says) {
			t.Errorf("%s: %q; expected %q", sent, got, says)
		}
		if table.Rule.InsertsOnly = true; strings.HasPrefix(says, "(") && table.FaultOf(relationOf('d', sent)) != "" {
			t.Errorf("%s: a table whose inserts alone count needs no key", sent)
		}
	}
	if got := (PublishedTable{Table: &wal.Table{Relation: relationOf('d', "*tenant *id v")}}).FaultOf(relationOf('f', "*tenant *id *v")); got != "" {
		t.Errorf("REPLICA IDENTITY FULL tells every column: %q", got)
	}
}
