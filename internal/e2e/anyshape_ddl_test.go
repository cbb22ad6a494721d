package e2e

import (
	"fmt"
	"slices"
	"strings"
)

// ddl makes a step of statements that are run together, as one transaction.
func ddl(kind string, sql ...string) shapeStep { return shapeStep{kind: kind, sql: sql, ddl: true} }

// alter is a change of the tables themselves.
func (g *stepper) alter() shapeStep {
	t := g.table()
	if chance(g.Rand, 3) {
		return g.alterColumn(t)
	}
	return g.alterTable(t)
}

func (g *stepper) alterColumn(t *shapeTable) shapeStep {
	name, payload := t.sql(), pick(g.Rand, t.columns[t.keys+1:])
	column := identifier(payload.name)
	switch g.IntN(4) {
	case 0:
		g.added++
		extra := fmt.Sprintf("extra%d", g.added)
		if !chance(g.Rand, 3) {
			g.later(ddl("drop column", fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", name, extra)))
		}
		return ddl("add column", fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s text DEFAULT 'x'", name, extra))
	case 1:
		back := fmt.Sprintf("ALTER TABLE %s RENAME COLUMN moved TO %s", name, column)
		there := fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO moved", name, column)
		touch := fmt.Sprintf("UPDATE %s SET num = num WHERE num %% 3 = 0", name)
		if chance(g.Rand, 2) {
			return ddl("rename column and back", there, touch, back)
		}
		g.later(shapeStep{kind: "rename column back", sql: []string{back}, back: true})
		return shapeStep{kind: "rename column", sql: []string{there, touch}, ddl: true}
	}
	if payload.wider != "" && chance(g.Rand, 2) {
		return ddl("wider type", fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s", name, column, payload.wider),
			fmt.Sprintf("UPDATE %s SET %s = %s WHERE num %% 5 = 0", name, column, payload.of("num * 11")))
	}
	if payload.rewrite == "" {
		return ddl("same type again", fmt.Sprintf("ALTER TABLE %s ALTER COLUMN num TYPE int USING num", name))
	}
	return ddl("type with USING", fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s %s", name, column, strings.ReplaceAll(payload.rewrite, "%", column)))
}

func (g *stepper) alterTable(t *shapeTable) shapeStep {
	name := t.sql()
	what := g.IntN(7)
	if g.isParent(t) && what < 2 {
		what = 6 // the foreign keys that refer to the table would go with it, and the targets have them still
	}
	switch what {
	case 0:
		return ddl("drop and create", "DROP TABLE "+name+" CASCADE", t.create(g.shape, t.name), g.insert(t, 0, 1, 20), g.insert(t, 1, 5, 9))
	case 1:
		next := t.name + " next"
		copied := strings.Replace(g.insert(t, g.IntN(2), 3, 17), name, identifier(t.schema, next), 1)
		return ddl("swap tables", t.create(g.shape, next), copied, "DROP TABLE "+name+" CASCADE",
			fmt.Sprintf("ALTER TABLE %s RENAME TO %s", identifier(t.schema, next), identifier(t.name)))
	case 2:
		moved := identifier(t.schema, t.name+" moved")
		there := fmt.Sprintf("ALTER TABLE %s RENAME TO %s", name, identifier(t.name+" moved"))
		back := fmt.Sprintf("ALTER TABLE %s RENAME TO %s", moved, identifier(t.name))
		insert := strings.Replace(g.insert(t, g.IntN(2), 200, 204), name, moved, 1)
		if chance(g.Rand, 2) {
			return ddl("rename table and back", there, insert, back)
		}
		g.later(shapeStep{kind: "rename table back", sql: []string{back}, back: true})
		return shapeStep{kind: "rename table", sql: []string{there, insert}, ddl: true}
	case 3:
		if t.kind != "list" && t.kind != "hash" {
			return ddl("cluster", "CLUSTER "+name+" USING "+identifier(t.name+t.keySuffix()))
		}
		return g.detach(t)
	case 4:
		g.later(ddl("identity back", t.replicaIdentityBack()...))
		return ddl("identity", fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", name), strings.Join(g.rows(), ";\n        "))
	case 5:
		return ddl("rows of other schema", fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS decoy; CREATE TABLE IF NOT EXISTS decoy.%s (tenant text, num int); INSERT INTO decoy.%[1]s VALUES (%s, 1)",
			identifier(t.name), g.tenantIs(0)))
	}
	return ddl("comment and analyze", fmt.Sprintf("COMMENT ON TABLE %s IS 'x'; ANALYZE %[1]s", name))
}

func (g *stepper) isParent(t *shapeTable) bool {
	return slices.ContainsFunc(g.shape.tables, func(child *shapeTable) bool { return child.parent == t })
}

// replicaIdentityBack is the table's own replica identity again.
func (t *shapeTable) replicaIdentityBack() []string {
	if own := t.replicaIdentity(t.sql(), t.name); own != nil {
		return own
	}
	return []string{"ALTER TABLE " + t.sql() + " REPLICA IDENTITY DEFAULT"}
}

// detach takes a partition out; its rows are no rows of the table until it is back.
func (g *stepper) detach(t *shapeTable) shapeStep {
	leaf, bounds := identifier(t.schema, t.name+"_1"), "DEFAULT"
	if t.kind == "hash" {
		bounds = "FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
	}
	there := fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", t.sql(), leaf)
	back := fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s %s", t.sql(), leaf, bounds)
	change := fmt.Sprintf("DELETE FROM %s WHERE num %% 2 = 0", leaf)
	if chance(g.Rand, 2) {
		return ddl("detach and attach", there, change, back)
	}
	g.later(ddl("attach", back))
	return ddl("detach", there, change)
}

// policy is a change of the publication, of row security, or of rights.
func (g *stepper) policy() shapeStep {
	t := g.table()
	name := t.sql()
	publication := func(format string, args ...any) string {
		return "ALTER PUBLICATION outflow " + fmt.Sprintf(format, args...)
	}
	write := func() string { return strings.Join(g.rows(), ";\n        ") }
	switch g.IntN(7) {
	case 0:
		g.later(ddl("publish all again", publication("SET (publish = 'insert, update, delete, truncate')")))
		return ddl("publish less", publication("SET (publish = 'insert')"), write())
	case 1:
		if g.shape.version < 15 {
			break
		}
		g.later(ddl("no row filter", publication("DROP TABLE %s", name), publication("ADD TABLE %s", name)))
		return ddl("row filter", publication("DROP TABLE %s", name), publication("ADD TABLE %s WHERE (num > 10)", name))
	case 2:
		return ddl("unpublish and publish", publication("DROP TABLE %s", name), write(), publication("ADD TABLE %s", name))
	case 3:
		g.later(ddl("publish", publication("ADD TABLE %s", name)))
		return ddl("unpublish", publication("DROP TABLE %s", name), write())
	case 4:
		g.later(ddl("via root", publication("SET (publish_via_partition_root = true)")))
		return ddl("not via root", publication("SET (publish_via_partition_root = false)"), write())
	case 5:
		g.later(ddl("no row security", "ALTER TABLE "+name+" DISABLE ROW LEVEL SECURITY", "DROP POLICY IF EXISTS shape ON "+name))
		return ddl("row security", "ALTER TABLE "+name+" ENABLE ROW LEVEL SECURITY", "DROP POLICY IF EXISTS shape ON "+name, "CREATE POLICY shape ON "+name+" FOR SELECT USING (num % 3 > 0)")
	}
	return ddl("new publication", "DROP PUBLICATION outflow", "CREATE PUBLICATION outflow FOR TABLE "+name)
}
