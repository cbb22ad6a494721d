package sink

import (
	"context"
	"fmt"
	"strings"

	"outflow/mapping"
)

// Rows that were deleted on the primary while nobody watched are found by a sweep, which needs keys: in a mapping. Where none has them
// for a table, a copy cannot make the external database equal: the destination stays halted until a mapping has keys, or until the tables
// that hold such rows are empty. Nothing is noted of that: the tables themselves tell, at every start.

// hasKeys reports whether a mapping says in keys: which rows of a source table the external database holds.
func (d *Destination) hasKeys(table string) bool {
	for _, m := range d.mappings {
		if m.Keys[table] != "" {
			return true
		}
	}
	return false
}

// sweepable refuses to fill a mapping anew whose tables hold rows that no sweep can find. It runs in a transaction of the session.
func (s *session) sweepable(ctx context.Context, m *mapping.Mapping) error {
	for _, table := range m.Tables() {
		if s.d.hasKeys(table) {
			continue
		}
		holding, err := s.holdsRows(ctx, m, table)
		if err != nil {
			return err
		}
		if len(holding) > 0 {
			return unswept(table, holding, "changes of "+table+" are lost to the stream, and a copy finds no row that was deleted meanwhile")
		}
	}
	return nil
}

// unswept says that rows of a source table cannot be found again.
func unswept(table string, holding []string, what string) *Error {
	list := strings.Join(holding, ", ")
	return &Error{Table: table, verdict: needsHuman, Err: fmt.Errorf("%s: no mapping says in keys: which of its rows the external database holds", what),
		Remedy: fmt.Sprintf("add keys: to a mapping that reads %s, or empty %s there", table, list)}
}

// holdsRows are those of the tables from which a mapping's delete steps for a source table remove rows that hold any.
func (s *session) holdsRows(ctx context.Context, m *mapping.Mapping, table string) ([]string, error) {
	var holding []string
	for i, step := range m.Steps {
		if step.From != table || step.When != mapping.Delete {
			continue
		}
		for _, w := range m.StepWrites(i) {
			rows, err := s.exec(ctx, "SELECT EXISTS (SELECT FROM "+w.Name()+")")
			if err != nil {
				return nil, &Error{Mapping: m.Name, Table: table, verdict: classify(err), SQLState: sqlstate(err), Err: fmt.Errorf("looking for rows in %s: %w", w.Name(), err)}
			}
			if isTrue(rows) {
				holding = append(holding, w.Name())
			}
		}
	}
	return holding, nil
}
