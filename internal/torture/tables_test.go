package torture

import (
	"fmt"
	"strings"
)

// table is a table of the primary together with the copy in the external databases.
type table struct {
	mapping string // name of the mapping
	source  string
	target  string
	key     []string // the primary key less the tenant's column
	rest    []string // other columns read by the mapping
	watched bool     // the external database watches the versions
}

// tables are the tables with mappings of the harness. The default mappings are judged by SQL of their own.
var tables = []table{
	{mapping: "ledger", source: "Ledger", target: "ledger", key: []string{"writer int", "number bigint"}},
	{mapping: "clock", source: "Clock", target: "clock", key: []string{"writer int"}, rest: []string{"number bigint"}},
	{mapping: "accounts", source: "Account", target: "accounts", key: []string{"id bigint"}, rest: []string{"balance bigint", "version bigint"}, watched: true},
	{mapping: "items", source: "Item", target: "items", key: []string{"id bigint"}, rest: []string{"note text", "payload text", "version bigint"}, watched: true},
	{mapping: "parts", source: "Part", target: "parts", key: []string{"id bigint", "kind int"}, rest: []string{"version bigint"}},
	{mapping: "wide", source: "Wide", target: "wide", key: []string{"id bigint"}, watched: true,
		rest: []string{"amount bigint", "ratio float8", "moment timestamptz", "period interval", "raw bytea", "tags text[]", "version bigint"}},
}

// mappingNames are the mappings of every destination.
func mappingNames() []string {
	names := []string{"contact_channels", "users"}
	for _, t := range tables {
		names = append(names, t.mapping)
	}
	return names
}

// ownDefinition is a mapping written by a tenant. Each edition gives other values.
func ownDefinition(edition int64) string {
	return fmt.Sprintf(`name: own
target: own
schema: CREATE TABLE IF NOT EXISTS own (id bigint PRIMARY KEY, edited bigint)
steps:
  - from: Account
    when: delete
    sql: DELETE FROM own t USING "Account" a WHERE t.id = a.id
  - from: Account
    when: upsert
    sql: |
      INSERT INTO own (id, edited) SELECT a.id, a.balance + %d FROM "Account" a ON CONFLICT (id) DO UPDATE SET edited = excluded.edited
keys:
  Account: SELECT id FROM own
`, edition)
}

// witness is the record of an external database, kept by triggers.
//
// journal has each appearance of a transaction, live or by a copy. A row-level BEFORE INSERT trigger also
// runs for a row that ON CONFLICT then leaves out (the Postgres manual, "Overview of Trigger Behavior"). A live appearance must be
// the first of the transaction: the stream has passed everything in a copy when the copy is applied.
//
// high has the highest version of each key, also of deleted rows. A copy may repeat a version, and never shows an older version: a key
// changed since the read is left out.
//
// broken has the faults found.
const witness = `
CREATE TABLE IF NOT EXISTS journal (n bigserial PRIMARY KEY, writer int, number bigint, copied boolean);
CREATE INDEX IF NOT EXISTS journal_transaction ON journal (writer, number);
CREATE TABLE IF NOT EXISTS high (relation text, key bigint, version bigint, PRIMARY KEY (relation, key));
CREATE TABLE IF NOT EXISTS broken (at timestamptz DEFAULT clock_timestamp(), what text);
CREATE OR REPLACE FUNCTION write_journal() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  copying boolean := EXISTS (SELECT FROM public._stack_sync_metadata WHERE mapping_name = 'ledger' AND backfill IS NOT NULL);
BEGIN
  IF NOT copying AND EXISTS (SELECT FROM journal j WHERE j.writer = NEW.writer AND j.number = NEW.number) THEN
    INSERT INTO broken (what) VALUES (format('transaction %s of writer %s is applied twice', NEW.number, NEW.writer));
  END IF;
  INSERT INTO journal (writer, number, copied) VALUES (NEW.writer, NEW.number, copying);
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION watch_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  had bigint;
BEGIN
  SELECT h.version INTO had FROM high h WHERE h.relation = TG_TABLE_NAME AND h.key = NEW.id;
  IF had > NEW.version THEN
    INSERT INTO broken (what) VALUES (format('%s %s goes back from version %s to %s', TG_TABLE_NAME, NEW.id, had, NEW.version));
  END IF;
  INSERT INTO high VALUES (TG_TABLE_NAME, NEW.id, NEW.version) ON CONFLICT (relation, key) DO UPDATE SET version = excluded.version;
  RETURN NULL;
END $$;
`

// yaml is the mapping of the table. An edition after the first changes the text of notes, and so the fingerprint.
func (t table) yaml(edition int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\ntarget: %s\nschema: |\n", t.mapping, t.target)
	for line := range strings.Lines(t.schema()) {
		b.WriteString("  " + line)
	}
	key, all := names(t.key), names(t.columns())
	values := strings.Join(prefixed("r.", all), ", ")
	if edition > 0 {
		values = strings.Replace(values, "r.note", fmt.Sprintf("r.note || ' (edition %d)'", edition), 1)
	}
	fmt.Fprintf(&b, "steps:\n  - from: %s\n    when: delete\n    sql: |\n      DELETE FROM %s t USING %q r WHERE %s\n", t.source, t.target, t.source, equal("t.", "r.", key))
	fmt.Fprintf(&b, "  - from: %s\n    when: upsert\n    sql: |\n      INSERT INTO %s (%s) SELECT %s FROM %q r\n      ON CONFLICT (%s) DO %s\n",
		t.source, t.target, strings.Join(all, ", "), values, t.source, strings.Join(key, ", "), t.conflict())
	fmt.Fprintf(&b, "keys:\n  %s: SELECT %s FROM %s\n", t.source, strings.Join(key, ", "), t.target)
	return b.String()
}

// schema is the DDL of the mapping.
func (t table) schema() string {
	key := names(t.key)
	s := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s, PRIMARY KEY (%s));\n%s", t.target, strings.Join(t.columns(), ", "), strings.Join(key, ", "), strings.TrimPrefix(witness, "\n"))
	switch {
	case t.isLedger():
		s += "DROP TRIGGER IF EXISTS journal ON ledger;\nCREATE TRIGGER journal BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION write_journal();\n"
	case t.watched:
		s += fmt.Sprintf("DROP TRIGGER IF EXISTS versions ON %[1]s;\nCREATE TRIGGER versions AFTER INSERT OR UPDATE ON %[1]s FOR EACH ROW EXECUTE FUNCTION watch_version();\n", t.target)
	}
	return s
}

func (t table) isLedger() bool    { return t.target == "ledger" }
func (t table) columns() []string { return append(append([]string{}, t.key...), t.rest...) }

// conflict is the action of an upsert on a present row.
func (t table) conflict() string {
	if len(t.rest) == 0 {
		return "NOTHING"
	}
	var set []string
	for _, c := range names(t.rest) {
		set = append(set, c+" = excluded."+c)
	}
	return "UPDATE SET " + strings.Join(set, ", ")
}

// names are columns without their types.
func names(columns []string) []string {
	all := make([]string, len(columns))
	for i, c := range columns {
		all[i], _, _ = strings.Cut(c, " ")
	}
	return all
}

func prefixed(prefix string, names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = prefix + name
	}
	return all
}

func equal(a, b string, names []string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = a + name + " = " + b + name
	}
	return strings.Join(all, " AND ")
}
