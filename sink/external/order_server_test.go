package external

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outflow/mapping"
)

const parentsYAML = `name: parents
target: parents
schema: CREATE TABLE IF NOT EXISTS parents (id integer PRIMARY KEY)
steps:
  - {from: parent, when: delete, sql: 'DELETE FROM parents t USING parent r WHERE t.id = r.id'}
  - {from: parent, when: upsert, sql: 'INSERT INTO parents (id) SELECT r.id FROM parent r ON CONFLICT (id) DO NOTHING'}
keys:
  parent: SELECT id FROM parents
`

// family is a world whose items refer to parents.
func family(t *testing.T, action string) (*world, *Session) {
	w := newWorld(t, itemsYAML, parentsYAML)
	w.db.Tables = SourceTables{{Relation: item, Tenant: "tenant"}, {Relation: relation(2, "parent", "tenant text", "id integer"), Tenant: "tenant"}}
	s := w.ready()
	w.exec(`ALTER TABLE items ADD parent integer REFERENCES parents ` + action)
	w.must(s.PrepareSteps(t.Context()))
	return w, s
}

// The foreign keys of the database decide on the order: parents are written first and deleted last, in a copy too.
func TestOrderOfForeignKeys(t *testing.T) {
	t.Parallel()
	w, s := family(t, "ON DELETE CASCADE")
	if diff := cmp.Diff([]string{"parent", "item"}, s.Order.Tables); diff != "" {
		t.Errorf("tables (-expected +found):\n%s", diff)
	}
	if !slices.Equal(s.Order.Mappings, []int{1, 0}) {
		t.Errorf("mappings: %v", s.Order.Mappings)
	}
	if !s.Order.Acts(w.db.Mappings, "parent") {
		t.Error("a delete of parents does not take items along")
	}
	if s.Order.Acts(w.db.Mappings, "parent", `"items"`) {
		t.Error("what is excepted counts")
	}
	if s.Order.Acts(w.db.Mappings, "item") {
		t.Error("a delete of items takes something along")
	}
	before := s.Order.Fingerprint
	w.exec(`ALTER TABLE items DROP parent`)
	w.must(s.PrepareSteps(t.Context()))
	if s.Order.Fingerprint == before || !slices.Equal(s.Order.Tables, []string{"item", "parent"}) {
		t.Errorf("without the foreign key the order is %v, its fingerprint %s", s.Order.Tables, s.Order.Fingerprint)
	}
}

// A foreign key that refuses a delete takes nothing along.
func TestOrderOfARestrictingKey(t *testing.T) {
	t.Parallel()
	w, s := family(t, "")
	if s.Order.Acts(w.db.Mappings, "parent") {
		t.Error("a delete of parents takes items along")
	}
	if !slices.Equal(s.Order.Tables, []string{"parent", "item"}) {
		t.Errorf("tables: %v", s.Order.Tables)
	}
}

func TestFills(t *testing.T) {
	t.Parallel()
	both := load(t, `name: both
target: a
steps:
  - {from: item, when: upsert, sql: 'INSERT INTO a (id) SELECT id FROM item'}
  - {from: parent, when: upsert, sql: 'INSERT INTO other.b (id) SELECT id FROM parent'}
  - {from: item, when: delete, sql: 'DELETE FROM a USING item r WHERE a.id = r.id'}
  - {from: parent, when: delete, sql: 'DELETE FROM other.b USING parent r WHERE b.id = r.id'}
`)
	for from, want := range map[string][]string{"": {`"a"`, `"other"."b"`}, "item": {`"a"`}, "parent": {`"other"."b"`}, "absent": nil} {
		if got := Fills([]*mapping.Mapping{both}, from); !slices.Equal(got, want) {
			t.Errorf("from %q: %v, expected %v", from, got, want)
		}
	}
	if !shareTables([][]string{{"a"}, {"b", "a"}}) || shareTables([][]string{{"a", "b"}, {"c"}}) {
		t.Error("shared tables are not told")
	}
}

// Rows of tables that no keys tell cannot be swept: a mapping with such rows is not filled again.
func TestSweepable(t *testing.T) {
	t.Parallel()
	without := itemsYAML[:len(itemsYAML)-len("keys:\n  item: SELECT id FROM items\n")]
	w := newWorld(t, without)
	s := w.ready()
	m := w.db.Mappings[0]
	w.must(s.Sweepable(t.Context(), m))
	w.exec(`INSERT INTO items VALUES (1)`)
	e := w.failed(s.Sweepable(t.Context(), m), NeedsHuman, "no mapping says in keys: which of the rows the external database holds", "add keys:")
	if e.Table != "item" {
		t.Errorf("the table is %q", e.Table)
	}
	holding, err := s.HoldsRows(t.Context(), m, "item")
	if err != nil || !slices.Equal(holding, []string{`"items"`}) {
		t.Errorf("rows are in %v: %v", holding, err)
	}
	keyed := load(t, itemsYAML)
	if tables := unkeyed([]*mapping.Mapping{keyed}, keyed, "item"); len(tables) > 0 {
		t.Errorf("without keys are %v", tables)
	}
	// The keys of one mapping tell the rows that another mapping deletes from the same table.
	if tables := unkeyed([]*mapping.Mapping{m, keyed}, m, "item"); len(tables) > 0 {
		t.Errorf("without keys are %v", tables)
	}
	w.exec(`DROP TABLE items`)
	w.failed(s.Sweepable(t.Context(), m), NeedsHuman, "looking for rows in")
}
