package external

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"outflow/replication/wal"
)

// keysOf opens a transaction and the keys query of the world's first mapping.
func (w *world) keysOf(s *Session, rel *wal.Relation) *KeysQuery {
	w.t.Helper()
	if !s.InTransaction() {
		w.must(s.Begin(w.t.Context()))
	}
	q, err := s.KeysOf(w.t.Context(), w.db.Mappings[0], rel)
	w.must(err)
	return q
}

func texts2(keys []Key) (all []string) {
	for _, k := range keys {
		all = append(all, strings.Join(k.External, ","))
	}
	return all
}

// Pages of keys are in the order of the database's own type, and each begins behind the page before.
func TestKeysInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	w.exec(`INSERT INTO items SELECT n FROM generate_series(1, 25) AS n`)
	q := w.keysOf(s, item)
	if again := w.keysOf(s, item); again != q {
		t.Error("the query is described twice")
	}
	var all []string
	pages := 0
	for more, after := true, []string(nil); more; pages++ {
		var keys []Key
		var err error
		keys, more, err = s.ReadKeys(t.Context(), q, after, 10)
		w.must(err)
		if more && len(keys) != 10 {
			t.Fatalf("a page of %d keys with more behind", len(keys))
		}
		for _, k := range keys {
			if got := []string{string(k.Tuple.Value(0).Text), string(k.Tuple.Value(1).Text)}; got[0] != tenant || got[1] != k.External[0] || k.Tuple.Value(2).Presence != wal.Null {
				t.Errorf("the key %v is the row %v", k.External, got)
			}
			if of := q.KeyOf(k.Tuple); !slices.Equal(of, k.External) {
				t.Errorf("the key of the row is %v, expected %v", of, k.External)
			}
		}
		all = append(all, texts2(keys)...)
		if len(keys) > 0 {
			after = keys[len(keys)-1].External
		}
	}
	if len(all) != 25 || all[0] != "1" || all[9] != "10" || all[24] != "25" || pages < 3 {
		t.Errorf("%d pages: %v", pages, all)
	}
	if n, err := s.Count(t.Context(), q); err != nil || n != "25" {
		t.Errorf("%s keys are counted: %v", n, err)
	}

	w.must(s.DeclareKeys(t.Context(), q))
	w.exec(`DELETE FROM items WHERE id = 20`) // the cursor sees the rows as of its declaration
	var fetched []string
	for {
		keys, err := s.FetchKeys(t.Context(), q, 7)
		w.must(err)
		if len(keys) == 0 {
			break
		}
		fetched = append(fetched, texts2(keys)...)
	}
	w.must(s.CloseKeys(t.Context()))
	if len(fetched) != 25 {
		t.Errorf("%d keys are fetched", len(fetched))
	}
	still, err := s.StillHeld(t.Context(), q, []Key{{External: []string{"19"}}, {External: []string{"20"}}, {External: []string{"99"}}})
	w.must(err)
	if want := map[string]bool{`["19"]`: true}; fmt.Sprint(still) != fmt.Sprint(want) {
		t.Errorf("still held are %v, expected %v", still, want)
	}
}

// A database may keep keys in other types than the primary: a key is given in both, and the order is the database's.
func TestKeysOfOtherTypes(t *testing.T) {
	t.Parallel()
	as := func(typ string) string {
		return strings.Replace(strings.Replace(itemsYAML, "id integer PRIMARY KEY", "id "+typ+" PRIMARY KEY", 1), "SELECT r.id, r.v FROM", "SELECT r.id::"+typ+", r.v FROM", 1)
	}
	deleting := func(yaml string) string { return strings.Replace(yaml, "t.id = r.id", "t.id::text = r.id::text", 1) }
	for name, test := range map[string]struct {
		yaml, insert string
		want         []string
	}{
		"text":    {deleting(as("text")), `('9'), ('10'), ('2')`, []string{"10", "2", "9"}},
		"numeric": {deleting(as("numeric")), `(9), (10.0), (2)`, []string{"2", "9", "10.0"}},
		"bigint":  {as("bigint"), `(9), (10), (-2)`, []string{"-2", "9", "10"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, test.yaml)
			s := w.ready()
			w.exec(`INSERT INTO items (id) VALUES ` + test.insert)
			q := w.keysOf(s, item)
			keys, more, err := s.ReadKeys(t.Context(), q, nil, 10)
			w.must(err)
			if got := texts2(keys); !slices.Equal(got, test.want) || more {
				t.Errorf("%v, expected %v", got, test.want)
			}
			for _, k := range keys {
				if got := string(k.Tuple.Value(1).Text); got != strings.TrimSuffix(k.External[0], ".0") {
					t.Errorf("%q is %q in the primary's type", k.External[0], got)
				}
			}
		})
	}
}

// A value without a form in the primary's type is given as the database has the value: the primary names the key then.
func TestKeysThatCannotBeCast(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(strings.Replace(itemsYAML, "id integer PRIMARY KEY", "id text PRIMARY KEY", 1), "t.id = r.id", "t.id = r.id::text", 1)
	w := newWorld(t, yaml)
	s := w.ready()
	w.exec(`INSERT INTO items (id) VALUES ('1'), ('x')`)
	q := w.keysOf(s, item)
	keys, _, err := s.ReadKeys(t.Context(), q, nil, 10)
	w.must(err)
	if got := texts2(keys); !slices.Equal(got, []string{"1", "x"}) || string(keys[1].Tuple.Value(1).Text) != "x" {
		t.Errorf("%v", got)
	}
	if !s.InTransaction() {
		t.Error("the transaction has failed")
	}
}

// Two keys of the database may be one key of the primary.
func TestDoubles(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(strings.Replace(itemsYAML, "id integer PRIMARY KEY", "id text PRIMARY KEY", 1), "t.id = r.id", "t.id = r.id::text", 1)
	w := newWorld(t, yaml)
	s := w.ready()
	w.exec(`INSERT INTO items (id) VALUES ('1'), ('01'), ('02'), ('3')`)
	q := w.keysOf(s, item)
	keys := []Key{{External: []string{"01"}, Primary: []string{"1"}}, {External: []string{"02"}, Primary: []string{"2"}}, {External: []string{"3"}, Primary: []string{"3"}}, {External: []string{"9"}}}
	found, err := s.Doubles(t.Context(), q, keys)
	w.must(err)
	if want := map[string]bool{`["01"]`: true}; fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("doubles are %v, expected %v", found, want)
	}
	none, err := s.Doubles(t.Context(), q, keys[2:])
	if len(none) > 0 || err != nil {
		t.Errorf("without a key written in two ways: %v, %v", none, err)
	}
}

// What a mapping's keys query does wrong is told with its place in the file.
func TestFaultsOfKeys(t *testing.T) {
	t.Parallel()
	with := func(query string) string { return strings.Replace(itemsYAML, "SELECT id FROM items", query, 1) }
	for name, test := range map[string]struct {
		query   string
		parts   []string
		reading bool // the fault shows when keys are read
	}{
		"no such column":       {"SELECT id AS other FROM items", []string{"make the query return the columns of the key of item, with their names there: id"}, false},
		"no such table":        {"SELECT id FROM absent", []string{"absent"}, false},
		"a column of no order": {"SELECT '{}'::json AS id FROM items", []string{"json", "no order"}, false},
		"NULL":                 {"SELECT CASE WHEN id = 2 THEN NULL ELSE id END AS id FROM items", []string{"the query returns NULL for id"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			s := w.ready()
			w.exec(`INSERT INTO items VALUES (1), (2)`)
			w.db.Mappings[0], s.keys = load(t, with(test.query)), map[keysID]*KeysQuery{}
			w.must(s.Begin(t.Context()))
			q, err := s.KeysOf(t.Context(), w.db.Mappings[0], item)
			if err == nil && test.reading {
				_, _, err = s.ReadKeys(t.Context(), q, nil, 10)
			}
			e := w.failed(err, NeedsHuman, test.parts...)
			if file, _, _, ok := e.Place(); !ok || file != "m.yaml" || e.Table != "item" || e.Mapping != "items" {
				t.Errorf("the place is in %q, the table %q, the mapping %q", file, e.Table, e.Mapping)
			}
		})
	}
}

// A table whose key is the tenant alone has one key: there is nothing to ask for.
func TestKeysOfOneRow(t *testing.T) {
	t.Parallel()
	single := relation(1, "item", "tenant text", "id integer", "v text")
	single.Key = []int{0}
	w := newWorld(t, itemsYAML)
	s := w.ready()
	q := w.keysOf(s, single)
	for _, rows := range []int{0, 1} {
		keys, more, err := s.ReadKeys(t.Context(), q, nil, 10)
		w.must(err)
		if len(keys) != rows || more {
			t.Errorf("%d keys, and more: %v", len(keys), more)
		}
		still, err := s.StillHeld(t.Context(), q, keys)
		w.must(err)
		if len(still) != rows {
			t.Errorf("still held are %v", still)
		}
		w.exec(`INSERT INTO items VALUES (1) ON CONFLICT DO NOTHING`)
	}
}

// Whatever a value is, the server reads from the literals what was written into the literals.
func TestLiterals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.dial()
	values := []string{"", "a", `"`, `\`, `\"`, "{}", ",", "NULL", " x ", "'", "é\u2028", "a\nb\tc", strings.Repeat("x", 10000)}
	rows, err := s.Ask(t.Context(), 1, `SELECT unnest($1::text[])`, TextArray(values))
	w.must(err)
	for i, r := range rows {
		if string(r[0]) != values[i] {
			t.Errorf("%q comes back as %q", values[i], r[0])
		}
	}
	if len(rows) != len(values) {
		t.Errorf("%d of %d values come back", len(rows), len(values))
	}
	for _, name := range []string{"a", "A b", `"`, `"";--`, "select", "é"} {
		row, err := s.AskRow(t.Context(), 1, `SELECT n.x FROM (SELECT 'found' AS `+QuoteIdentifier(name)+`) AS n (x)`)
		if err != nil || string(row[0]) != "found" {
			t.Errorf("%q: %v", name, err)
		}
	}
}
