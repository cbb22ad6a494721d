package external

import (
	"context"
	"fmt"
	"strings"

	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/replication/wal"
)

// PrepareSteps prepares every step for the tables as known now, and finds the order of the steps. A mapping that cannot work is found before its
// first use, with its line.
func (s *Session) PrepareSteps(ctx context.Context) error {
	if err := s.Begin(ctx); err != nil {
		return err
	}
	defer s.Rollback()
	for mi, m := range s.db.Mappings {
		for si := range m.Steps {
			if err := s.prepareStep(ctx, mi, si); err != nil {
				return err
			}
		}
		for _, table := range m.Tables() {
			if err := s.prepareKeys(ctx, m, table); err != nil {
				return err
			}
		}
	}
	return s.loadOrder(ctx)
}

// prepareKeys prepares the query for the rows that the external database has of a source table, where the mapping has such a query and rows have a key.
func (s *Session) prepareKeys(ctx context.Context, m *mapping.Mapping, table string) error {
	_, ok := m.Keys[table]
	rel := s.db.Tables.Relation(table)
	if !ok || rel == nil || rel.Identity == 'f' && len(rel.Key) == len(rel.Columns) {
		return nil // where there is no such table the step says so
	}
	_, err := s.KeysOf(ctx, m, rel)
	return err
}

// prepareStep prepares one step on the external server. The server finds the faults of the step.
func (s *Session) prepareStep(ctx context.Context, mi, si int) error {
	m := s.db.Mappings[mi]
	from := m.Steps[si].From
	rel := s.db.Tables.Relation(from)
	if rel == nil {
		return &Error{Mapping: m.Name, Table: from, Verdict: NeedsHuman,
			Err:    fmt.Errorf("step %d reads from %q, which is not in source.tables", si+1, from),
			Remedy: "add the table to source.tables, or correct the mapping"}
	}
	st, err := s.statement(ctx, mi, si, rel)
	if err != nil || s.prepared[st.Name] {
		return err
	}
	name := st.Name
	if s.db.Unnamed {
		name = ""
	}
	_, err = s.prepare(ctx, name, st.SQL, st.ParameterOIDs())
	if SQLState(err) == pgerror.DuplicatePrepared { // of another client of a pooler
		s.db.Unnamed = true
		return AsError(fmt.Errorf("a pooler does not keep prepared statements; going on without them: %w", err))
	}
	if err != nil {
		return s.explainStatement(st, err)
	}
	if fault := m.Disguised(si, rel); fault != nil {
		return &Error{Mapping: m.Name, Table: from, Verdict: NeedsHuman, Err: fault}
	}
	s.prepared[st.Name] = true
	return nil
}

// statement compiles a step for a relation, once a session.
func (s *Session) statement(ctx context.Context, mi, si int, rel *wal.Relation) (*mapping.Statement, error) {
	key := statementKey{mi, si, rel}
	if st, ok := s.statements[key]; ok {
		return st, nil
	}
	if err := s.loadTypes(ctx, rel); err != nil {
		return nil, err
	}
	st := s.db.Mappings[mi].Compile(si, rel, func(name string) string { return s.types[name] })
	s.statements[key] = st
	return st, nil
}

// loadTypes asks for the external database's names of the relation's types.
func (s *Session) loadTypes(ctx context.Context, rel *wal.Relation) error {
	for _, c := range rel.Columns {
		if _, known := s.types[c.Type]; known {
			continue
		}
		rows, err := s.Ask(ctx, 1, findTypes, c.Type)
		if err != nil {
			return fmt.Errorf("looking for type %s: %w", c.Type, err)
		}
		var found []string
		for _, row := range rows {
			found = append(found, string(row[0]))
		}
		if len(found) > 1 {
			return &Error{Table: rel.Table, Verdict: NeedsHuman, Err: fmt.Errorf("column %q of %s is of type %s, which several schemas of the external database have: %s",
				c.Name, rel, c.Type, strings.Join(found, ", ")), Remedy: "keep one of them, or move one to the schema public: ALTER EXTENSION ... SET SCHEMA public, or ALTER TYPE ... SET SCHEMA public"}
		}
		s.types[c.Type] = strings.Join(found, "")
	}
	return nil
}

// findTypes gives the names of a type of the primary: the type's own name where the external database has the type, else the types of the
// same name in other schemas, where an extension may be; of these a type in the search path alone, if there is one.
const findTypes = `WITH wanted AS (SELECT regexp_replace($1, '(\(.*\))?(\[\])*$', '') AS plain, coalesce(substring($1 from '(?:\(.*\))?(?:\[\])*$'), '') AS rest),
	others AS (
		SELECT format('%I.%I', n.nspname, t.typname) || w.rest AS name, pg_type_is_visible(t.oid) AS visible
		FROM wanted w, pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
		WHERE w.plain ~ '^("[^"]+"|[[:alnum:]_$]+)\.("[^"]+"|[[:alnum:]_$]+)$' AND t.typname = (parse_ident(w.plain))[2] AND t.typtype IN ('b', 'r', 'm'))
	SELECT $1 WHERE to_regtype($1) IS NOT NULL
	UNION ALL SELECT name FROM others o WHERE to_regtype($1) IS NULL AND (o.visible OR NOT EXISTS (SELECT FROM others WHERE visible))`

// hiddenByPolicy is the routine of the server that refuses a query which row security would filter (src/backend/utils/misc/rls.c): the
// SQLSTATE is the SQLSTATE of every missing right, and the message may be in any language.
const hiddenByPolicy = "check_enable_rls"

// explainStatement gives an error of a step the place in the mapping's file, and where a column is missing, the existing columns.
func (s *Session) explainStatement(st *mapping.Statement, err error) *Error {
	e := AsError(faultOf(st.Mapping.Name, st.Fault, err))
	e.Table = st.Table
	if pgErr := serverError(err); pgErr != nil && pgErr.Routine == hiddenByPolicy {
		e.Remedy = fmt.Sprintf(`a row security policy would hide rows from Outflow; as the table's owner: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY `+
			`where %q owns it, else as a superuser: ALTER ROLE %[1]q BYPASSRLS`, s.db.Config.User)
	}
	if e.SQLState == pgerror.UndefinedColumn {
		if rel := s.db.Tables.Relation(st.Table); rel != nil {
			e.Remedy = fmt.Sprintf("%s has the columns %s; to publish another column, add it to columns: of the table in source.tables; "+
				"a generated column is not in the stream: write its expression instead", st.Table, strings.Join(st.Mapping.Visible(st.Table, rel.Names()), ", "))
		}
	}
	if e.SQLState == pgerror.GeneratedAlways {
		e.Remedy = "remove the column from the step: the external database computes it (an identity column takes values with OVERRIDING SYSTEM VALUE)"
	}
	return e
}

// faultOf turns an error with a position into an error with file, line and column.
func faultOf(name string, fault func(position int32, format string, args ...any) *mapping.Fault, err error) *Error {
	e := &Error{Mapping: name, Verdict: classify(err), SQLState: SQLState(err), Err: err}
	if pgErr := serverError(err); pgErr != nil {
		where := fault(pgErr.Position, "%s", serverText(pgErr))
		e.Err = fmt.Errorf("%w (SQLSTATE %s)", where, pgErr.Code)
	}
	return e
}
