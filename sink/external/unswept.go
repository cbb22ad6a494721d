package external

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"outflow/mapping"
)

// A sweep finds rows deleted on the primary while no process watched. A sweep needs keys in a mapping. Where no mapping has keys for a
// table's rows, a copy cannot make the external database equal: the destination stays halted until a mapping has keys, or until the tables
// with such rows are empty. Nothing is noted of the halt: the tables themselves tell, at every start.

// unkeyed are the tables from which a mapping removes rows of a source table, less the tables whose rows a mapping's keys tell: the tables
// from which the mapping with the keys removes rows. The rows removed by a step with when: any may be made of other tables, and then the
// delete of any row makes the rows right: such a step counts where no mapping has keys.
func unkeyed(all []*mapping.Mapping, m *mapping.Mapping, table string) []string {
	var told []string
	keyed := false
	for _, o := range all {
		if o.Keys[table] != "" {
			keyed = true
			told = append(told, removedFrom(o, table, true)...)
		}
	}
	return slices.DeleteFunc(removedFrom(m, table, !keyed), func(name string) bool { return slices.Contains(told, name) })
}

// removedFrom are the tables from which a mapping's delete steps for a source table remove rows, and with orAny the mapping's any steps.
func removedFrom(m *mapping.Mapping, table string, orAny bool) (names []string) {
	for i, step := range m.Steps {
		removes := step.When == mapping.Delete || orAny && step.When == mapping.Any && m.Deletes(i)
		if step.From != table || !removes {
			continue
		}
		for _, w := range m.StepWrites(i) {
			if !slices.Contains(names, w.Name()) {
				names = append(names, w.Name())
			}
		}
	}
	return names
}

// Sweepable refuses to fill a mapping again whose tables hold rows that no sweep can find. It runs in a transaction of the session.
func (s *Session) Sweepable(ctx context.Context, m *mapping.Mapping) error {
	for _, table := range m.Tables() {
		holding, err := s.HoldsRows(ctx, m, table)
		if err != nil {
			return err
		}
		if len(holding) > 0 {
			return Unswept(table, holding, "changes of "+table+" are lost to the stream, and a copy does not find rows that were deleted meanwhile")
		}
	}
	return nil
}

// Unswept says that rows of a source table cannot be found again.
func Unswept(table string, holding []string, what string) *Error {
	list := strings.Join(holding, ", ")
	return &Error{Table: table, Verdict: NeedsHuman, Err: fmt.Errorf("%s: no mapping says in keys: which of the rows the external database holds in %s", what, list),
		Remedy: fmt.Sprintf("add keys: to the mapping that deletes from %s, or empty %[1]s there", list)}
}

// HoldsRows are the unkeyed tables of a mapping that hold rows.
func (s *Session) HoldsRows(ctx context.Context, m *mapping.Mapping, table string) ([]string, error) {
	var holding []string
	for _, name := range unkeyed(s.db.Mappings, m, table) {
		row, err := s.AskRow(ctx, 1, "SELECT EXISTS (SELECT FROM "+name+")")
		if err != nil {
			return nil, &Error{Mapping: m.Name, Table: table, Verdict: classify(err), SQLState: SQLState(err), Err: fmt.Errorf("looking for rows in %s: %w", name, err)}
		}
		if string(row[0]) == "t" {
			holding = append(holding, name)
		}
	}
	return holding, nil
}
