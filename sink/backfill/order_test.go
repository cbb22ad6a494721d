package backfill

import (
	"testing"

	"outflow/mapping"
	"outflow/sink/external"
)

const itemsYAML = `name: items
target: items
schema: CREATE TABLE IF NOT EXISTS items (id text PRIMARY KEY, v text)
steps:
  - {from: item, when: delete, sql: 'DELETE FROM items t USING item r WHERE t.id = r.id'}
  - {from: item, when: upsert, sql: 'INSERT INTO items (id, v) SELECT r.id, r.v FROM item r ON CONFLICT (id) DO UPDATE SET v = excluded.v'}
keys:
  item: SELECT id FROM items
`

const pairsYAML = `name: pairs
target: pairs
schema: CREATE TABLE IF NOT EXISTS pairs (id text PRIMARY KEY, v text)
steps:
  - {from: left, when: delete, sql: 'DELETE FROM pairs t USING "left" r WHERE t.id = r.id'}
  - {from: left, when: upsert, sql: 'INSERT INTO pairs (id, v) SELECT r.id, r.v FROM "left" r ON CONFLICT (id) DO UPDATE SET v = excluded.v'}
  - {from: other, when: delete, sql: 'DELETE FROM pairs t USING other r WHERE t.id = r.id'}
  - {from: other, when: upsert, sql: 'INSERT INTO pairs (id, v) SELECT r.id, r.v FROM other r ON CONFLICT (id) DO UPDATE SET v = excluded.v'}
keys:
  left: SELECT id FROM pairs WHERE v = 'l'
  other: SELECT id FROM pairs WHERE v = 'o'
`

// ordered is a backfill of two mappings that read three tables.
func ordered(t *testing.T, group ...bool) *Backfill {
	t.Helper()
	bf := &Backfill{group: group, s: &external.Session{Order: external.Order{Mappings: []int{1, 0}, Tables: []string{"other", "item", "unread", "left"}}}}
	for _, yaml := range []string{itemsYAML, pairsYAML} {
		m, err := mapping.Load("m.yaml", []byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		bf.mappings = append(bf.mappings, m)
	}
	return bf
}

// The tables are copied one after the other, in the order of the foreign keys, and only the tables of mappings that are filled.
func TestOrderOfTheCopy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		group []bool
		at    Cursor
		table string // "": the copy is at its end
		after int    // columns of the place
	}{
		{[]bool{true, true}, Cursor{}, "other", 0},
		{[]bool{true, true}, Cursor{Table: "other", After: []string{"1"}}, "other", 1},
		{[]bool{true, true}, Cursor{Table: "other", Done: true}, "item", 0},
		{[]bool{true, true}, Cursor{Table: "item", Done: true}, "left", 0},
		{[]bool{true, true}, Cursor{Table: "left", Done: true}, "", 0},
		{[]bool{true, false}, Cursor{}, "item", 0},
		{[]bool{true, false}, Cursor{Table: "item", Done: true}, "", 0},
		{[]bool{false, true}, Cursor{Table: "other", Done: true}, "left", 0},
		{[]bool{true, true}, Cursor{Table: "dropped", After: []string{"1"}}, "other", 0},
	} {
		table, place, ok := ordered(t, test.group...).nextTable(&test.at)
		if table != test.table || ok != (test.table != "") || len(place.After) != test.after {
			t.Errorf("of %v, behind %s: %q %+v %v; expected %q", test.group, test.at, table, place, ok, test.table)
		}
	}
}

// The keys are swept in the reverse order of the copy.
func TestOrderOfTheSweep(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		group              []bool
		at                 Cursor
		current, following string // "mapping table"; "" is none
	}{
		{[]bool{true, true}, Cursor{}, "items item", "pairs left"},
		{[]bool{true, true}, Cursor{Mapping: "items", Table: "item"}, "items item", "pairs left"},
		{[]bool{true, true}, Cursor{Mapping: "pairs", Table: "left"}, "pairs left", "pairs other"},
		{[]bool{true, true}, Cursor{Mapping: "pairs", Table: "other"}, "pairs other", ""},
		{[]bool{true, true}, Cursor{Mapping: "pairs", Table: "item"}, "", ""},
		{[]bool{false, true}, Cursor{}, "pairs left", "pairs other"},
		{[]bool{false, false}, Cursor{}, "", ""},
	} {
		bf := ordered(t, test.group...)
		bf.cursor = test.at
		current, following := bf.nextItem()
		name := func(s *sweepItem) string {
			if s == nil {
				return ""
			}
			return s.id()
		}
		if name(current) != test.current || name(following) != test.following {
			t.Errorf("of %v, at %s: %q, then %q; expected %q, then %q", test.group, test.at, name(current), name(following), test.current, test.following)
		}
	}
}
