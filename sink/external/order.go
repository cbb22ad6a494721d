package external

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"outflow/mapping"
)

// Order is the order of a session's steps and of the tables in a copy. A mapping's delete steps run before its other steps: a key may be
// the same to the external database and another text to the source, and is removed before the key is written.
//
// Foreign keys between the written tables tie the tables together: parents are written before children, and children are deleted before
// parents. The after: of a mapping goes before a foreign key.
type Order struct {
	steps       []stepPlace
	Mappings    []int    // indexes of the mappings, parents first
	Tables      []string // source tables in the order of the copy; a sweep goes in the reverse order
	Fingerprint string   // changes with the order of a copy

	references []reference
}

type stepPlace struct{ mapping, step int }

// reference is a foreign key of one table that refers to another, each named as [mapping.Write.Name] does.
type reference struct {
	child, parent string
	acts          bool // the delete of a parent deletes or changes its children
}

// foreignKeysSQL finds the foreign keys to tables, of which $1 is a JSON array. A name without a schema means public. A child outside the
// tables counts only where the delete of a parent changes the child.
const foreignKeysSQL = `WITH named AS (SELECT name, to_regclass(name) AS id FROM json_array_elements_text($1::json) AS t (name))
	SELECT coalesce(child.name, min(c.conrelid::regclass::text)), parent.name, bool_or(c.confdeltype IN ('c', 'n', 'd'))
	FROM pg_catalog.pg_constraint c JOIN named parent ON parent.id = c.confrelid LEFT JOIN named child ON child.id = c.conrelid
	WHERE c.contype = 'f' AND c.conparentid = 0 AND (child.id <> parent.id OR c.confdeltype IN ('c', 'n', 'd'))
	GROUP BY child.name, parent.name`

// loadOrder reads the foreign keys of the tables written by the mappings and sets the session's order. loadOrder runs in a transaction
// with the settings of the work.
func (s *Session) loadOrder(ctx context.Context) error {
	names := map[string]bool{}
	for _, m := range s.db.Mappings {
		for i := range m.Steps {
			for _, w := range m.StepWrites(i) {
				names[w.Name()] = true
			}
		}
	}
	list, err := json.Marshal(slices.AppendSeq([]string{}, maps.Keys(names)))
	if err != nil {
		panic(err) // strings only
	}
	rows, err := s.Ask(ctx, 3, foreignKeysSQL, string(list))
	if err != nil {
		return fmt.Errorf("reading the foreign keys: %w", err)
	}
	var references []reference
	for _, r := range rows {
		references = append(references, reference{string(r[0]), string(r[1]), string(r[2]) == "t"})
	}
	s.Order = newOrder(s.db.Mappings, s.db.Tables.Names(), references)
	return nil
}

func newOrder(mappings []*mapping.Mapping, tables []string, references []reference) Order {
	o := Order{references: references}
	after := func(i, j int) bool { return slices.Contains(mappings[i].After, mappings[j].Name) }
	never := func(int, int) bool { return false }
	ofMapping := make([][]string, len(mappings))
	ofTable := make([][]string, len(tables))
	for i := range mappings {
		ofMapping[i] = Fills(mappings[i:i+1], "")
	}
	for i, table := range tables {
		ofTable[i] = Fills(mappings, table)
	}
	o.Mappings = ordered(len(mappings), after, refers(ofMapping, references))
	for _, i := range ordered(len(tables), never, refers(ofTable, references)) {
		o.Tables = append(o.Tables, tables[i])
	}
	placed := map[stepPlace]bool{}
	if len(references) > 0 || shareTables(ofMapping) {
		for _, mi := range slices.Backward(o.Mappings) {
			o.add(mappings, mi, placed, func(m *mapping.Mapping, si int) bool { return m.Steps[si].When == mapping.Delete && m.Removes(si) })
		}
	}
	for _, mi := range o.Mappings {
		o.add(mappings, mi, placed, func(m *mapping.Mapping, si int) bool { return m.Steps[si].When == mapping.Delete })
		o.add(mappings, mi, placed, func(*mapping.Mapping, int) bool { return true })
	}
	var text strings.Builder
	for _, mi := range o.Mappings {
		text.WriteString(mappings[mi].Name + "\n")
	}
	sum := sha256.Sum256([]byte(text.String() + strings.Join(o.Tables, "\n")))
	o.Fingerprint = hex.EncodeToString(sum[:8])
	return o
}

// add appends the chosen steps of a mapping that are not placed yet, in the order of the mapping's file.
func (o *Order) add(mappings []*mapping.Mapping, mi int, placed map[stepPlace]bool, chosen func(m *mapping.Mapping, step int) bool) {
	for si := range mappings[mi].Steps {
		if place := (stepPlace{mi, si}); chosen(mappings[mi], si) && !placed[place] {
			placed[place] = true
			o.steps = append(o.steps, place)
		}
	}
}

// Fills are the tables to which the mappings' steps write rows, each once: all steps, or the steps of one source table.
func Fills(mappings []*mapping.Mapping, from string) []string {
	var tables []string
	seen := map[string]bool{}
	for _, m := range mappings {
		for i, step := range m.Steps {
			if from != "" && step.From != from {
				continue
			}
			for _, w := range m.StepWrites(i) {
				if name := w.Name(); !w.Deletes && !seen[name] {
					seen[name] = true
					tables = append(tables, name)
				}
			}
		}
	}
	return tables
}

// shareTables reports whether two mappings write rows to one table: a row that moves from one source table to the other is deleted by one
// mapping and written by the other.
func shareTables(ofMapping [][]string) bool {
	seen := map[string]bool{}
	for _, tables := range ofMapping {
		for _, table := range tables {
			if seen[table] {
				return true
			}
			seen[table] = true
		}
	}
	return false
}

// Acts reports whether a delete of the mappings' rows for one source table ("" is all) deletes or changes rows of tables outside except.
func (o *Order) Acts(mappings []*mapping.Mapping, from string, except ...string) bool {
	own := Fills(mappings, from)
	return slices.ContainsFunc(o.references, func(r reference) bool {
		return r.acts && slices.Contains(own, r.parent) && !slices.Contains(except, r.child)
	})
}

// refers reports for i and j whether one of the tables of i refers to one of the tables of j.
func refers(tables [][]string, references []reference) func(i, j int) bool {
	of := map[string][]int{}
	for i, names := range tables {
		for _, name := range names {
			of[name] = append(of[name], i)
		}
	}
	pairs := map[[2]int]bool{}
	for _, r := range references {
		for _, i := range of[r.child] {
			for _, j := range of[r.parent] {
				pairs[[2]int{i, j}] = true
			}
		}
	}
	return func(i, j int) bool { return pairs[[2]int{i, j}] }
}

// ordered are the numbers below n. Each number comes after its predecessors by must, and as far as must and a circle allow after its
// predecessors by should; else lower numbers come first. The time is n², since a tenant's mappings decide on n.
func ordered(n int, must, should func(i, j int) bool) []int {
	type waiting struct{ must, should int } // predecessors that are not placed yet
	left := make(map[int]*waiting, n)
	count := func(i, j, by int) {
		if i != j && must(i, j) {
			left[i].must += by
		}
		if i != j && should(i, j) {
			left[i].should += by
		}
	}
	for i := range n {
		left[i] = &waiting{}
		for j := range n {
			count(i, j, 1)
		}
	}
	var order []int
	for len(order) < n {
		next, rank := 0, 3
		for i := range n {
			w, own := left[i], 0
			switch {
			case w == nil: // placed
				continue
			case w.must > 0:
				own = 2
			case w.should > 0:
				own = 1
			}
			if own < rank {
				next, rank = i, own
			}
		}
		order = append(order, next)
		delete(left, next)
		for i := range left {
			count(i, next, -1)
		}
	}
	return order
}
