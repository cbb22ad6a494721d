package e2e

import (
	"fmt"
	"strings"
)

// mapping is the mapping of a table: a copy of its mapped columns, with types of the target's own.
func (t *shapeTable) mapping(s *shape) string {
	var defs, names, values, updates, joins, keys []string
	for i, c := range t.columns {
		name := identifier(c.name)
		defs, names, values = append(defs, name+" "+c.target), append(names, name), append(values, "r."+name)
		if i >= t.keys {
			updates = append(updates, name+" = excluded."+name)
			continue
		}
		keys = append(keys, name)
		if t.casts {
			joins = append(joins, fmt.Sprintf("t.%s = r.%s::%s", name, name, c.target))
		} else {
			joins = append(joins, fmt.Sprintf("t.%s = r.%s", name, name))
		}
	}
	key := strings.Join(keys, ", ")
	defs = append(defs, "PRIMARY KEY ("+key+")", "CHECK (num > -100000)")
	if t.unique != "" && t.kind == "plain" {
		defs = append(defs, "UNIQUE ("+identifier(t.unique)+")")
	}
	if t.parent != nil {
		reference := fmt.Sprintf("FOREIGN KEY (parent) REFERENCES %s (%s)", t.parent.target, identifier(t.parent.columns[0].name))
		if t.deferred {
			reference += " DEFERRABLE INITIALLY DEFERRED"
		}
		defs = append(defs, reference)
	}
	source := identifier(t.name)
	steps := []string{
		step("delete", t.from(s), fmt.Sprintf("DELETE FROM %s t USING %s r WHERE %s", t.target, source, strings.Join(joins, " AND "))),
		step("upsert", t.from(s), fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s r ON CONFLICT (%s) DO UPDATE SET %s", t.target, strings.Join(names, ", "),
			strings.Join(values, ", "), source, key, strings.Join(updates, ", "))),
	}
	if t.upsertFirst {
		steps[0], steps[1] = steps[1], steps[0]
	}
	after := ""
	if t.parent != nil {
		after = fmt.Sprintf("after: [m_%s]\n", t.parent.target)
	}
	return fmt.Sprintf("name: m_%[1]s\ntarget: %[1]s\nschema: |\n  CREATE TABLE IF NOT EXISTS %[1]s (%[2]s)\nsteps:\n%[3]skeys:\n  %[4]q: |\n    SELECT %[5]s FROM %[1]s\n%[6]s",
		t.target, strings.Join(defs, ", "), strings.Join(steps, ""), t.from(s), key, after)
}

func step(when, table, sql string) string {
	return fmt.Sprintf("  - from: %q\n    when: %s\n    sql: |\n      %s\n", table, when, sql)
}

// expected is SQL on the primary for what the target must hold of one tenant, as text. It shares nothing with the mapping.
func (t *shapeTable) expected() string {
	var columns []string
	for _, c := range t.columns {
		columns = append(columns, fmt.Sprintf("(%s)::%s::text", identifier(c.name), c.target))
	}
	return fmt.Sprintf(`SELECT %s FROM %s WHERE format('%%s', tenant) = $1 COLLATE "C"`, strings.Join(columns, ", "), t.sql())
}

// actual is SQL on the external database for what is there.
func (t *shapeTable) actual() string {
	var columns []string
	for _, c := range t.columns {
		columns = append(columns, identifier(c.name)+"::text")
	}
	return fmt.Sprintf("SELECT %s FROM %s", strings.Join(columns, ", "), t.target)
}
