package mapping

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"outflow/internal/strictyaml"
	"outflow/replication/wal"
	"outflow/sql"
)

// FuzzLoad: whatever a tenant sends as a mapping, loading does not panic, and every fault has a place inside the file. What
// is accepted compiles to SQL in which our part and the mapping's cannot be confused.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(sound))
	defaults := sql.Mappings()
	names, err := fs.Glob(defaults, "*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		src, err := fs.ReadFile(defaults, name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	for _, step := range []string{`"SELECT $1"`, "'SELECT E''\\''", "|\n      WITH RECURSIVE x AS (SELECT 1)\n      SELECT 1;", "SELECT $a$ $a$; x", "/* /* */", "SELECT U&\"x\""} {
		f.Add([]byte("name: a\ntarget: a\nsteps:\n  - from: item\n    when: any\n    sql: " + step + "\n"))
	}
	for _, r := range readings {
		f.Add([]byte("name: a\ntarget: a\nsteps:\n  - from: item\n    when: delete\n    sql: |\n      " + strings.ReplaceAll(r.sql, "\n", "\n      ") + "\nkeys: {item: SELECT id FROM a}\n"))
	}
	for _, ddl := range []string{"CREATE INDEX CONCURRENTLY i ON t (id)", "ALTER SYSTEM SET a = b", "DO $$ x $$", "CREATE"} {
		f.Add([]byte("name: a\ntarget: a\nschema: " + ddl + "\nsteps:\n  - {from: '\"s\".\"i.tem\"', when: any, sql: SELECT 1}\n"))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := Load("m.yaml", src)
		if err != nil {
			checkFaults(t, src, err)
			return
		}
		m.Fingerprint()
		checkReading(t, src, m)
		for i, step := range m.Steps {
			st := m.Compile(i, item, known)
			for _, position := range []int32{-1, 0, 1, int32(len(st.SQL)), int32(len(st.SQL)) + 10} {
				checkFaults(t, src, st.Fault(position, "x"))
			}
			if !strings.HasPrefix(st.SQL, `WITH "`) && !strings.HasPrefix(st.SQL, `WITH RECURSIVE "`) {
				t.Errorf("step %d compiles to %s", i, st.SQL)
			}
			if tokens, err := lex(st.SQL); err != nil || len(statements(tokens)) != 1 {
				t.Errorf("%q compiles to more or less than one statement: %s, %v", step.SQL, st.SQL, err)
			}
		}
		for _, f := range m.DDL() {
			checkFaults(t, src, f.FaultAt(int32(len(f.SQL))+5, "x"))
		}
	})
}

// checkReading fails unless every column that a step reads stands in its text, and is refused with a place where the table's catalog
// does not allow it. Other names for the tables change nothing.
func checkReading(t *testing.T, src []byte, m *Mapping) {
	t.Helper()
	for _, s := range m.Steps {
		for _, r := range s.read {
			if i := slices.IndexFunc(s.tokens, func(t token) bool { return t.offset == r.offset }); i < 0 || s.tokens[i].text != r.name {
				t.Errorf("%q reads %q, which is not there", s.SQL, r.name)
			}
		}
	}
	resolved, err := m.Resolve(func(from string) (string, error) { return "of " + from, nil })
	if err != nil || resolved.Fingerprint() != m.Fingerprint() || len(resolved.Tables()) != len(m.Tables()) {
		t.Errorf("resolved: %v", err)
	}
	table := &wal.Table{Relation: item, Generated: []string{"g"}}
	if err := m.CheckTable(table, Deleted{Tenant: "tenant"}); err != nil {
		checkFaults(t, src, err)
	}
}

// checkFaults fails unless every fault lies in the file.
func checkFaults(t *testing.T, src []byte, err error) {
	t.Helper()
	var faults strictyaml.Errors
	var one *strictyaml.Error
	switch {
	case errors.As(err, &faults):
	case errors.As(err, &one):
		faults = strictyaml.Errors{one}
	}
	if len(faults) == 0 {
		t.Fatalf("not an error with a place: %v", err)
	}
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(string(src))
	lines := strings.Split(text, "\n")
	for _, fault := range faults {
		if fault.File != "m.yaml" || fault.Line < 1 || fault.Line > len(lines) || fault.Column < 1 ||
			fault.Column > utf8.RuneCountInString(lines[fault.Line-1])+1 || fault.Message == "" {
			t.Errorf("a fault outside the file: %v", fault)
		}
	}
}
