package external

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outflow/mapping"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	load := func(name, table string, more ...string) *mapping.Mapping {
		text := fmt.Sprintf("name: %s\ntarget: %s\nsteps:\n"+
			"  - {from: %s, when: upsert, sql: 'INSERT INTO %s (id) SELECT r.id FROM %s r'}\n"+
			"  - {from: %s, when: delete, sql: 'DELETE FROM %s t USING %s r WHERE t.id = r.id'}\n", name, table, name, table, name, name, table, name)
		for _, m := range more {
			text += m + "\n"
		}
		m, err := mapping.Load(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	child, parent := load("child", "c"), load("parent", "p")
	late := load("parent", "p", "after: [child]")
	tables := []string{"child", "parent"}
	tied := []reference{{child: `"c"`, parent: `"p"`}}
	for _, test := range []struct {
		name       string
		mappings   []*mapping.Mapping
		references []reference
		steps      string
		tables     []string
	}{
		{"no foreign key: a mapping's deletes come first", []*mapping.Mapping{child, parent}, nil, "[{0 1} {0 0} {1 1} {1 0}]", tables},
		{"a foreign key", []*mapping.Mapping{child, parent}, tied, "[{0 1} {1 1} {1 0} {0 0}]", []string{"parent", "child"}},
		{"in a circle", []*mapping.Mapping{child, parent}, []reference{{child: `"c"`, parent: `"p"`}, {child: `"p"`, parent: `"c"`}}, "[{1 1} {0 1} {0 0} {1 0}]", tables},
		{"after: against a foreign key", []*mapping.Mapping{child, late}, tied, "[{1 1} {0 1} {0 0} {1 0}]", []string{"parent", "child"}},
	} {
		o := newOrder(test.mappings, tables, test.references)
		if diff := cmp.Diff(test.steps, fmt.Sprint(o.steps)); diff != "" {
			t.Errorf("%s: steps (-want +got):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.tables, o.Tables); diff != "" {
			t.Errorf("%s: tables (-want +got):\n%s", test.name, diff)
		}
	}
}
