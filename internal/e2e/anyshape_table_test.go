package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/replication/wal"
)

// A shape is what a seed makes of the primary's tables, the targets and the rights: all that stays the same in a history.
type shape struct {
	tables   []*shapeTable
	tenant   tenantKind
	role     bool   // outflow runs as the role that outflow init makes; else as a superuser
	encoding string // of the second tenant's database
	batch    int    // sink.batch_rows
	version  int    // the server's major version
}

// tenantKind is a type of tenant columns. The last of its tenants has no database.
type tenantKind struct {
	typ     string
	tenants []string // as the type's output function writes them
}

var tenantKinds = []tenantKind{
	{"uuid", []string{tenant1, tenant2, tenant3}},
	{"text", []string{"acme", "Ünïted", "other"}},
	{"int", []string{"7", "-12", "13"}},
	{"char(8)", []string{"acme    ", "longname", "other   "}},
	{"citext", []string{"Acme", "bolt", "Other"}},
	{"numeric", []string{"7", "8.50", "9"}},
}

// shapeColumn is a column of a shape's table.
type shapeColumn struct {
	name, typ string
	target    string // its type in the external database
	value     string // SQL of the value that belongs to a number, which stands for each #
	toast     bool   // stored out of line
	rewrite   string // a type change that writes other values: what follows ALTER COLUMN name
	wider     string // a type that takes all values of typ
}

// shapeTable is a table of the primary and its mapping. Every row has a number, and all its values follow from numbers.
type shapeTable struct {
	schema, name string
	target       string
	columns      []shapeColumn // the mapped ones: the key's first, then num, then the others
	keys         int           // how many are the key, beside the tenant
	tenantFirst  bool          // in the key
	identity     string
	kind         string      // plain, list, hash, inherited
	unmapped     []string    // definitions of columns that no mapping names
	upsertFirst  bool        // the mapping's steps are upsert, delete
	casts        bool        // the mapping's delete compares with casts
	unique       string      // a column that is unique in a tenant, "" for none
	parent       *shapeTable // a foreign key refers to it
	deferred     bool        // the target's foreign key is
	leafDefault  bool        // the leaves keep the default identity, whatever the root has
}

// identifier quotes a name.
func identifier(names ...string) string { return pgx.Identifier(names).Sanitize() }

func (t *shapeTable) sql() string { return identifier(t.schema, t.name) }

// configured is the table's name in source.tables.
func (t *shapeTable) configured() string { return wal.JoinTable(t.schema, t.name) }

// from is the table's name in a mapping: with its schema where another one has the same.
func (t *shapeTable) from(s *shape) string {
	for _, other := range s.tables {
		if other != t && other.name == t.name {
			return t.configured()
		}
	}
	return wal.JoinTable("", t.name)
}

// of puts a number into the SQL of a column's value.
func (c shapeColumn) of(number string) string {
	return strings.ReplaceAll(c.value, "#", "("+number+")")
}

// The values of keys. Those with two spellings of one value are there on purpose.
var keyKinds = []shapeColumn{
	{typ: "int", target: "int", value: "#"},
	{typ: "int", target: "text", value: "#"},
	{typ: "bigint", target: "bigint", value: "#::bigint * 3000000000"},
	{typ: "uuid", target: "uuid", value: "md5(#::text)::uuid"},
	{typ: "text", target: "text", value: "'k' || #"},
	{typ: `text COLLATE "und-x-icu"`, target: "text", value: "CASE WHEN # % 2 = 0 THEN 'É' ELSE 'e' END || #"},
	{typ: "text COLLATE shape_caseless", target: "text", value: "CASE WHEN # % 2 = 0 THEN 'Foo' ELSE 'foo' END || # / 2"},
	{typ: "varchar(20)", target: "text", value: "'v ' || #"},
	{typ: "numeric(10,2)", target: "numeric(10,2)", value: "#::numeric"},
	{typ: "numeric(10,2)", target: "bigint", value: "#::numeric"},
	{typ: "numeric", target: "numeric", value: "CASE WHEN # % 3 = 0 THEN #::numeric(10,1) ELSE #::numeric END"},
	{typ: "char(8)", target: "char(8)", value: "'c' || #"},
	{typ: "char(8)", target: "text", value: "'c' || #"},
	{typ: "citext", target: "citext", value: "CASE WHEN # % 2 = 0 THEN 'Foo' ELSE 'foo' END || # / 2"},
	{typ: "citext", target: "text", value: "CASE WHEN # % 3 = 0 THEN 'Foo' ELSE 'foo' END || #"},
	{typ: "timestamptz", target: "timestamptz", value: "timestamptz '2020-01-01 00:00Z' + # * interval '1 hour'"},
	{typ: "timestamptz", target: "timestamp", value: "timestamptz '2020-01-01 00:00Z' + # * interval '1 hour'"},
	{typ: "date", target: "date", value: "date '2020-01-01' + #"},
	{typ: "date", target: "timestamp", value: "date '2020-01-01' + #"},
	{typ: "shape_domain", target: "int", value: "#"},
	{typ: "shape_enum", target: "text", value: "('{sad,ok,happy}'::shape_enum[])[1 + # % 3]"},
	{typ: "bytea", target: "bytea", value: "decode(md5(#::text), 'hex')"},
	{typ: "inet", target: "inet", value: "inet '10.0.0.0' + #"},
	{typ: "int[]", target: "int[]", value: "ARRAY[#, 1]"},
	{typ: "float8", target: "float8", value: "# / 3.0::float8"},
	{typ: "interval", target: "interval", value: "# * interval '1 minute'"},
	{typ: "boolean", target: "boolean", value: "# % 2 = 0"},
	{typ: "ltree", target: "ltree", value: "('top.n' || #)::ltree"},
}

// The values of the other columns.
var payloadKinds = []shapeColumn{
	{typ: "text", target: "text", value: "NULLIF('v' || # % 50, 'v3')"},
	{typ: "text", target: "text", value: "'日本 🎉' || #"},
	{typ: "text", target: "varchar(200)", value: "'it''s \"quoted\"' || E'\\n\\\\' || #"},
	{typ: "int", target: "int", value: "# % 1000", rewrite: "TYPE int USING % * 3", wider: "bigint"},
	{typ: "int", target: "bigint", value: "# % 1000", rewrite: "TYPE int USING 1 - %"},
	{typ: "int", target: "numeric", value: "# % 1000"},
	{typ: "varchar(40)", target: "text", value: "'short ' || #", wider: "varchar(400)", rewrite: "TYPE varchar(40) USING 'x' || %"},
	{typ: "numeric(12,1)", target: "numeric", value: "#::numeric / 7", wider: "numeric(16,4)", rewrite: "TYPE numeric(12,4) USING % / 3"},
	{typ: "jsonb", target: "jsonb", value: "jsonb_build_object('n', #, 'a', ARRAY[1, NULL])"},
	{typ: "json", target: "text", value: "json_build_object('n', #)"},
	{typ: "timestamptz", target: "timestamp", value: "timestamptz '2021-05-05 05:05:05.123456Z' + # * interval '1 minute'"},
	{typ: "timestamp(3)", target: "timestamp", value: "timestamp '2021-05-05' + # * interval '1.5 milliseconds'"},
	{typ: "bytea", target: "bytea", value: "decode(md5(#::text), 'hex')"},
	{typ: "text[]", target: "text[]", value: "ARRAY['a', NULL, 'b,' || #]"},
	{typ: "shape_enum", target: "text", value: "('{sad,ok,happy}'::shape_enum[])[1 + # % 3]"},
	{typ: "shape_enum[]", target: "text[]", value: "ARRAY[('{sad,ok,happy}'::shape_enum[])[1 + # % 3]]"},
	{typ: "shape_domain", target: "int", value: "#"},
	{typ: "char(5)", target: "text", value: "'c' || # % 100"},
	{typ: "citext", target: "text", value: "'Foo' || #"},
	{typ: "float8", target: "float8", value: "# / 7.0::float8"},
	{typ: "boolean", target: "boolean", value: "NULLIF(# % 3, 2) = 0"},
	{typ: "int4range", target: "int4range", value: "int4range(#, # + 5)"},
	{typ: "interval", target: "interval", value: "# * interval '1 hour 3 seconds'"},
	{typ: "text", target: "text", value: "(SELECT string_agg(md5((# * 1000 + i)::text), '') FROM generate_series(1, 90) i)", toast: true},
	{typ: "jsonb", target: "jsonb", value: "(SELECT jsonb_agg(md5((# * 1000 + i)::text)) FROM generate_series(1, 90) i)", toast: true},
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// chance is true once in n times.
func chance(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// newShape makes a shape. extensions are those that the server has.
func newShape(r *rand.Rand, version int, extensions []string) *shape {
	s := &shape{tenant: pick(r, tenantKinds), role: chance(r, 2), encoding: "UTF8", batch: pick(r, []int{7, 50, 500}), version: version}
	has := func(typ string) bool {
		return typ != "citext" && typ != "ltree" || slices.Contains(extensions, typ)
	}
	for !has(s.tenant.typ) {
		s.tenant = pick(r, tenantKinds)
	}
	if chance(r, 4) {
		s.encoding = pick(r, []string{"LATIN1", "SQL_ASCII"})
	}
	for i := range 1 + r.IntN(3) {
		t := newShapeTable(r, i, has)
		if i > 0 && t.schema != s.tables[0].schema && chance(r, 2) {
			t.name = s.tables[0].name
		}
		if i > 0 && chance(r, 2) {
			t.refer(r, s.tables[0])
		}
		s.tables = append(s.tables, t)
	}
	return s
}

func newShapeTable(r *rand.Rand, i int, has func(string) bool) *shapeTable {
	t := &shapeTable{schema: "public", name: pick(r, []string{"item", "Weird Name", "select", "ünï", "UPPER", "a.b"}) + fmt.Sprint(i), target: fmt.Sprintf("t_%d", i),
		tenantFirst: r.IntN(4) > 0, upsertFirst: chance(r, 3), casts: chance(r, 2),
		identity: pick(r, []string{"default", "default", "default", "default", "index", "index", "index include", "include", "full", "full",
			"full", "full without key", "full other key"}),
		kind: pick(r, []string{"plain", "plain", "plain", "plain", "plain", "list", "hash", "hash"})}
	if chance(r, 25) { // these are refused, and their histories show little else
		t.identity = pick(r, []string{"deferrable", "full deferrable"})
	}
	if chance(r, 60) {
		t.kind = "inherited"
	}
	if chance(r, 4) {
		t.schema = "Other Schema"
	}
	column := func(prefix string, kinds []shapeColumn) shapeColumn {
		c := pick(r, kinds)
		for !has(c.typ) {
			c = pick(r, kinds)
		}
		c.name = fmt.Sprintf("%s%d", prefix, len(t.columns))
		if chance(r, 6) {
			c.name = fmt.Sprintf("Odd %s", c.name)
		}
		return c
	}
	t.keys = 1
	for chance(r, 3) {
		t.keys++
	}
	for range t.keys {
		t.columns = append(t.columns, column("k", keyKinds))
	}
	if narrow := func(c shapeColumn) bool { return c.typ == "boolean" || c.typ == "shape_enum" }; !slices.ContainsFunc(t.columns, func(c shapeColumn) bool { return !narrow(c) }) {
		t.columns[0] = shapeColumn{name: "k0", typ: "int", target: "int", value: "#"}
	}
	t.columns = append(t.columns, shapeColumn{name: "num", typ: "int", target: "int", value: "#"})
	for range 1 + r.IntN(4) {
		t.columns = append(t.columns, column("c", payloadKinds))
	}
	for range r.IntN(3) {
		t.unmapped = append(t.unmapped, fmt.Sprintf("u%d %s", len(t.unmapped), pick(r, []string{"text DEFAULT 'secret'", "int GENERATED ALWAYS AS (num * 2) STORED",
			"jsonb DEFAULT '{}'", "timestamptz DEFAULT now()"})))
	}
	if chance(r, 4) && t.identity != "full without key" && t.identity != "full deferrable" { // there it could be taken for the key
		t.unique = "num"
	}
	t.leafDefault = chance(r, 12)
	t.casts = t.casts || slices.ContainsFunc(t.columns[:t.keys], func(c shapeColumn) bool { return c.typ == "int" && c.target == "text" })
	if t.kind == "hash" && slices.Contains([]string{"citext", "ltree"}, t.columns[0].typ) {
		t.kind = "list" // those have no hash operators in every version
	}
	if t.identity == "full other key" && t.kind != "plain" {
		t.identity = "full" // a partitioned table's key has the partition key in it
	}
	return t
}

// refer makes t a child of another table, where that one's key can be referred to.
func (t *shapeTable) refer(r *rand.Rand, parent *shapeTable) {
	usable := slices.Contains([]string{"default", "include", "full"}, parent.identity) && parent.keys == 1 && parent.kind == "plain"
	if !usable || t.kind == "inherited" {
		return
	}
	key := parent.columns[0]
	t.parent, t.deferred = parent, chance(r, 2)
	t.columns = append(t.columns, shapeColumn{name: "parent", typ: key.typ, target: key.target, value: "NULL::" + plainType(key.typ)})
}

// plainType is a type without its collation, as casts have it.
func plainType(typ string) string {
	plain, _, _ := strings.Cut(typ, " COLLATE")
	return plain
}

// create is the DDL of the table under a name.
func (t *shapeTable) create(s *shape, name string) string {
	full := identifier(t.schema, name)
	var columns []string
	for i, c := range t.columns {
		def := identifier(c.name) + " " + c.typ
		if i <= t.keys {
			def += " NOT NULL"
		}
		columns = append(columns, def)
	}
	columns = append(slices.Insert(columns, len(columns)/2, "tenant "+s.tenant.typ+" NOT NULL"), t.unmapped...)
	if strings.HasPrefix(t.identity, "index") {
		serial := "serial bigserial"
		if t.kind == "plain" {
			serial += " PRIMARY KEY"
		}
		columns = append(columns, serial)
	}
	body := "(gone text, " + strings.Join(columns, ", ") + ")"
	switch t.kind {
	case "list":
		body += " PARTITION BY LIST (tenant)"
	case "hash":
		body += fmt.Sprintf(" PARTITION BY HASH (%s)", identifier(t.columns[0].name))
	}
	ddl := []string{"CREATE TABLE " + full + " " + body}
	ddl = append(ddl, t.leaves(s, full, name)...)
	ddl = append(ddl, "ALTER TABLE "+full+" DROP COLUMN gone")
	for _, c := range t.columns {
		if c.toast {
			ddl = append(ddl, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET STORAGE EXTERNAL", full, identifier(c.name)))
		}
	}
	ddl = append(ddl, t.constraints(full, name)...)
	return strings.Join(append(ddl, t.replicaIdentity(full, name)...), ";\n")
}

// leaves are the partitions, or the child of an inherited table.
func (t *shapeTable) leaves(s *shape, full, name string) []string {
	leaf := func(i int) string { return identifier(t.schema, fmt.Sprintf("%s_%d", name, i)) }
	switch t.kind {
	case "list":
		return []string{fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES IN ('%s')", leaf(0), full, s.tenant.tenants[0]),
			fmt.Sprintf("CREATE TABLE %s PARTITION OF %s DEFAULT", leaf(1), full)}
	case "hash":
		return []string{fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES WITH (MODULUS 2, REMAINDER 0)", leaf(0), full),
			fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES WITH (MODULUS 2, REMAINDER 1)", leaf(1), full)}
	case "inherited":
		return []string{fmt.Sprintf("CREATE TABLE %s () INHERITS (%s)", leaf(0), full)}
	}
	return nil
}

// key is the list of the key's columns and the tenant's.
func (t *shapeTable) key() string {
	var names []string
	for _, c := range t.columns[:t.keys] {
		names = append(names, identifier(c.name))
	}
	if t.tenantFirst {
		names = slices.Insert(names, 0, "tenant")
	} else {
		names = append(names, "tenant")
	}
	return strings.Join(names, ", ")
}

func (t *shapeTable) keyWithout(column string) string {
	names := slices.DeleteFunc(strings.Split(t.key(), ", "), func(name string) bool { return name == column })
	return strings.Join(names, ", ")
}

func (t *shapeTable) constraints(full, name string) (ddl []string) {
	add := func(format string, args ...any) {
		ddl = append(ddl, fmt.Sprintf("ALTER TABLE %s ADD ", full)+fmt.Sprintf(format, args...))
	}
	unique := func(include string) {
		ddl = append(ddl, fmt.Sprintf("CREATE UNIQUE INDEX %s ON %s (%s)%s", identifier(name+"_key"), full, t.key(), include))
	}
	switch t.identity {
	case "include":
		add("PRIMARY KEY (%s) INCLUDE (num)", t.key())
	case "deferrable", "full deferrable":
		add("PRIMARY KEY (%s) DEFERRABLE", t.key())
	case "full without key", "index":
		unique("")
	case "index include":
		unique(" INCLUDE (num)")
	case "full other key":
		add("PRIMARY KEY (%s)", t.keyWithout("tenant"))
	default:
		add("PRIMARY KEY (%s)", t.key())
	}
	if t.unique != "" && t.kind == "plain" {
		add("UNIQUE (tenant, %s)", identifier(t.unique))
	}
	if t.parent != nil {
		add("FOREIGN KEY (tenant, parent) REFERENCES %s (tenant, %s) ON DELETE CASCADE ON UPDATE CASCADE", t.parent.sql(), identifier(t.parent.columns[0].name))
	}
	return ddl
}

// keySuffix is the end of the name of the key's index.
func (t *shapeTable) keySuffix() string {
	if strings.HasPrefix(t.identity, "index") || t.identity == "full without key" {
		return "_key"
	}
	return "_pkey"
}

// replicaIdentity sets it on the root and on the leaves, which do not follow the root by themselves.
func (t *shapeTable) replicaIdentity(full, name string) []string {
	parted := t.kind == "list" || t.kind == "hash"
	switch {
	case strings.HasPrefix(t.identity, "full"):
		ddl := []string{"ALTER TABLE " + full + " REPLICA IDENTITY FULL"}
		for i := 0; parted && !t.leafDefault && i < 2; i++ {
			ddl = append(ddl, fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", identifier(t.schema, fmt.Sprintf("%s_%d", name, i))))
		}
		return ddl
	case strings.HasPrefix(t.identity, "index"):
		ddl := []string{"ALTER TABLE " + full + " REPLICA IDENTITY USING INDEX " + identifier(name+"_key")}
		if parted {
			ddl = append(ddl, fmt.Sprintf(`DO $$ DECLARE l record; BEGIN
				FOR l IN SELECT x.indrelid::regclass AS leaf, i.relname AS index FROM pg_inherits h JOIN pg_class i ON i.oid = h.inhrelid
					JOIN pg_index x ON x.indexrelid = i.oid WHERE h.inhparent = '%s'::regclass
				LOOP EXECUTE format('ALTER TABLE %%s REPLICA IDENTITY USING INDEX %%I', l.leaf, l.index); END LOOP; END $$`, identifier(t.schema, name+"_key")))
		}
		return ddl
	}
	return nil
}
