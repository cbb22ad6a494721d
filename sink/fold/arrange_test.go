package fold

import (
	"fmt"
	"testing"

	"outflow/replication/wal"
)

// shaped is a relation with the columns "name oid".
func shaped(columns ...string) *wal.Relation {
	rel := &wal.Relation{OID: 1, Schema: "public", Name: "note", Table: "note"}
	for _, text := range columns {
		var c wal.Column
		if _, err := fmt.Sscanf(text, "%s %d", &c.Name, &c.TypeOID); err != nil {
			panic(err)
		}
		rel.Columns = append(rel.Columns, c)
	}
	return rel
}

// A row of an altered table is arranged as the stream has described the table: by the names of the columns, with the types that the columns
// have by now.
func TestArrange(t *testing.T) {
	t.Parallel()
	known := shaped("tenant 25", "id 23", "n 23", "body 25")
	for name, test := range map[string]struct {
		now   *wal.Relation
		row   []string
		want  string
		types []uint32
	}{
		"the same":          {shaped("tenant 25", "id 23", "n 23", "body 25"), []string{"t", "1", "2", "x"}, "t 1 2 x", []uint32{25, 23, 23, 25}},
		"another order":     {shaped("body 25", "n 23", "id 23", "tenant 25"), []string{"x", "2", "1", "t"}, "t 1 2 x", []uint32{25, 23, 23, 25}},
		"a column more":     {shaped("tenant 25", "more 25", "id 23", "n 23", "body 25"), []string{"t", "m", "1", "2", "x"}, "t 1 2 x", []uint32{25, 23, 23, 25}},
		"a column less":     {shaped("tenant 25", "id 23", "body 25"), []string{"t", "1", "x"}, "t 1 - x", []uint32{25, 23, 23, 25}},
		"another type":      {shaped("tenant 25", "id 20", "n 23", "body 25"), []string{"t", "1", "2", "x"}, "t 1 2 x", []uint32{25, 20, 23, 25}},
		"NULL stays NULL":   {shaped("tenant 25", "id 23", "n 23", "body 25"), []string{"t", "1", "-", "x"}, "t 1 - x", []uint32{25, 23, 23, 25}},
		"not known stays":   {shaped("tenant 25", "id 23", "n 23", "body 25"), []string{"t", "1", "2", "~"}, "t 1 2 ~", []uint32{25, 23, 23, 25}},
		"nothing in common": {shaped("other 25"), []string{"o"}, "- - - -", []uint32{25, 23, 23, 25}},
	} {
		places, typed := Places(known, test.now)
		if got := show(Arrange(row(test.row...), places)); got != test.want {
			t.Errorf("%s: %q, expected %q", name, got, test.want)
		}
		for i, oid := range test.types {
			if typed.Columns[i].TypeOID != oid || typed.Columns[i].Name != known.Columns[i].Name {
				t.Errorf("%s: column %d is %+v", name, i, typed.Columns[i])
			}
		}
		if known.Columns[1].TypeOID != 23 {
			t.Fatalf("%s: the known relation was changed", name)
		}
	}
}
