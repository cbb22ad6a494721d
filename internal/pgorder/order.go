package pgorder

import (
	"fmt"
	"strings"
)

// Column is a column in the order of a server: by the operators of a btree operator class, each named with its schema. A bare "=" or ">"
// is looked for along search_path, and where an extension's schema is not on the path the server falls back to the operator of another type
// (the Postgres manual, 10.2, "Operators"): a citext would be ordered as citext and compared as text.
type Column struct {
	Name      string // as written in SQL
	Type      string // the type's name on the server, a domain as the base type, without modifier
	Domain    bool
	Collation string // of the key's index, as written behind COLLATE; "" is the column's own
	Less      string // OPERATOR(schema.name); "" where the type has no order
	Equal     string
	AtLeast   string
	Greater   string
	Exact     bool // values are equal only where their texts are
	Indexed   bool // a column of the index naming rows
}

// ColumnsSQL is a query for the operators of columns. wanted is a query for their n, type, opclass (0 is the type's default) and coll (0 is
// none). The query gives the fields of [Column] from Type to Exact, and then more: expressions over b.n and b.opclass. Exact types print each value in a single way, and compare the whole
// value; text only where the collation tells all strings apart.
func ColumnsSQL(wanted string, more ...string) string {
	return fmt.Sprintf(columnsSQL, wanted, strings.Join(append([]string{""}, more...), ", "))
}

const columnsSQL = `WITH wanted (n, type, opclass, coll) AS (%s),
	base AS (
		SELECT w.*, b.oid, b.typtype, b.typcategory, b.oid <> w.type AS domain FROM wanted w CROSS JOIN LATERAL (
			WITH RECURSIVE down AS (SELECT w.type AS oid UNION ALL
				SELECT t.typbasetype FROM down JOIN pg_catalog.pg_type t ON t.oid = down.oid WHERE t.typtype = 'd')
			SELECT t.oid, t.typtype, t.typcategory FROM down JOIN pg_catalog.pg_type t ON t.oid = down.oid WHERE t.typtype <> 'd') b)
	SELECT pg_catalog.format_type(b.oid, -1), b.domain,
		coalesce((SELECT format('%%I.%%I', n.nspname, c.collname) FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
			WHERE c.oid = b.coll), ''),
		coalesce(o.operators[1], ''), coalesce(o.operators[2], ''), coalesce(o.operators[3], ''), coalesce(o.operators[4], ''),
		b.typtype = 'e' OR b.oid IN (SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname = ANY
				('{bool,char,int2,int4,int8,oid,uuid,name,text,varchar,date,timestamp,timestamptz,time,bytea,macaddr,macaddr8,pg_lsn,xid8}'))
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_collation c WHERE c.oid = b.coll AND NOT c.collisdeterministic)%s
	FROM base b
	LEFT JOIN LATERAL (
		SELECT c.opcfamily, c.opcintype FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
		WHERE CASE WHEN b.opclass <> 0 THEN c.oid = b.opclass ELSE c.opcdefault AND (c.opcintype = b.oid
			OR c.opcintype = CASE b.typtype WHEN 'e' THEN 'anyenum' WHEN 'r' THEN 'anyrange' WHEN 'm' THEN 'anymultirange' WHEN 'c' THEN 'record'
				ELSE CASE b.typcategory WHEN 'A' THEN 'anyarray' END END::regtype
			OR EXISTS (SELECT FROM pg_catalog.pg_cast k WHERE k.castsource = b.oid AND k.casttarget = c.opcintype AND k.castmethod = 'b' AND k.castcontext = 'i')) END
		ORDER BY c.opcintype = b.oid DESC LIMIT 1) c ON true
	LEFT JOIN LATERAL (
		SELECT array_agg(format('OPERATOR(%%I.%%s)', n.nspname, p.oprname) ORDER BY a.amopstrategy) AS operators
		FROM pg_catalog.pg_amop a JOIN pg_catalog.pg_operator p ON p.oid = a.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
		WHERE a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype AND a.amopstrategy IN (1, 3, 4, 5)) o ON true
	ORDER BY b.n`

// Value is a parameter holding the text of a value of the column.
func (o Column) Value(parameter string) string {
	return parameter + "::text::" + o.Type + o.collate()
}

func (o Column) collate() string {
	if o.Collation == "" {
		return ""
	}
	return " COLLATE " + o.Collation
}

// expression is the column as compared. A domain counts as its base type: not all operators take domains.
func (o Column) expression() string {
	e := o.Name
	if o.Domain {
		e += "::" + o.Type
	}
	return e + o.collate()
}

// OrderBy is the list of an ORDER BY.
func OrderBy(columns []Column) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = c.expression() + " USING " + c.Less
	}
	return strings.Join(list, ", ")
}

// Same is the condition for columns equal to values.
func Same(columns []Column, values []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = c.expression() + " " + c.Equal + " " + values[i]
	}
	return strings.Join(list, " AND ")
}

// Behind is the condition for columns behind values in their order. Where all columns share an operator the condition is a comparison of
// rows; else the condition is spelled out, with a bound in front for an index to begin at.
func Behind(columns []Column, values []string) string {
	uniform := true
	expressions := make([]string, len(columns))
	for i, c := range columns {
		uniform = uniform && c.Greater == columns[0].Greater
		expressions[i] = c.expression()
	}
	if len(columns) == 1 || !uniform {
		return spelledOut(columns, values)
	}
	return fmt.Sprintf("ROW(%s) %s ROW(%s)", strings.Join(expressions, ", "), columns[0].Greater, strings.Join(values, ", "))
}

func spelledOut(columns []Column, values []string) string {
	c, value := columns[0], values[0]
	e := c.expression()
	if len(columns) == 1 {
		return fmt.Sprintf("%s %s %s", e, c.Greater, value)
	}
	return fmt.Sprintf("%[1]s %[2]s %[5]s AND (%[1]s %[3]s %[5]s OR %[1]s %[4]s %[5]s AND (%[6]s))",
		e, c.AtLeast, c.Greater, c.Equal, value, spelledOut(columns[1:], values[1:]))
}

// Signature tells orders apart: a place in an order is no place in another.
func Signature(columns []Column) string {
	var b strings.Builder
	for _, c := range columns {
		fmt.Fprintf(&b, "%s %s %s %s, ", c.Name, c.Type, c.Less, c.Collation)
	}
	return strings.TrimSuffix(b.String(), ", ")
}
