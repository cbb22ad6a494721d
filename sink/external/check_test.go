package external

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outflow/replication/primary"
)

// checked are the findings of a check of the world's database with mappings, each as "verdict check: text; remedy".
func (w *world) checked(c *Checker, role string, mappings ...string) (all []string, server string) {
	w.t.Helper()
	spec := DestinationSpec{Tenant: tenant, Name: "main", DSN: w.dsn}
	for _, yaml := range mappings {
		spec.Mappings = append(spec.Mappings, load(w.t, yaml))
	}
	if role != "" {
		config, err := spec.Config(c.Options)
		w.must(err)
		config.User = role
		spec.Connect = config
	}
	before := w.content()
	found, server := c.Check(w.t.Context(), spec)
	for _, f := range found {
		all = append(all, fmt.Sprintf("%s %s: %s; %s", f.Verdict, f.Check, f.Found, f.Remedy))
	}
	if after := w.content(); !slices.Equal(before, after) {
		w.t.Errorf("the check has changed the database from %v to %v", before, after)
	}
	return all, server
}

// content is what a check must not change.
func (w *world) content() []string {
	w.t.Helper()
	return w.query(`SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1`)
}

func newChecker() *Checker {
	return &Checker{Options: options, SourceID: "source", Tables: SourceTables{{Relation: item, Tenant: "tenant"}}, Highest: 1000}
}

// says fails unless a finding has all the parts.
func says(t *testing.T, all []string, parts ...string) {
	t.Helper()
	if !slices.ContainsFunc(all, func(line string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
	}) {
		t.Errorf("no finding has %q:\n%s", parts, strings.Join(all, "\n"))
	}
}

func countOf(all []string, verdict primary.Verdict) (n int) {
	for _, line := range all {
		if strings.HasPrefix(line, fmt.Sprint(verdict)+" ") {
			n++
		}
	}
	return n
}

// An empty database is in order, and so is a database that is filled; two checks of one database find one server.
func TestCheckInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	all, first := w.checked(newChecker(), "", itemsYAML)
	if countOf(all, primary.Failed) > 0 || first == "" {
		t.Errorf("of an empty database, on server %q:\n%s", first, strings.Join(all, "\n"))
	}
	says(t, all, "mapping items", "2 steps prepared")
	s := w.ready()
	w.must(w.batch(s, upserts(row(tenant, 1, "a")), 20))
	all, second := w.checked(newChecker(), "", itemsYAML)
	if countOf(all, primary.Failed) > 0 || second != first {
		t.Errorf("of a filled database, on server %q and then %q:\n%s", first, second, strings.Join(all, "\n"))
	}
	says(t, all, "_stack_sync_metadata", "up to sequence id 20")
	w.has(`SELECT * FROM items`, "1|a")
	all, _ = w.checked(newChecker(), "") // the primary could not be asked for mappings
	if countOf(all, primary.Failed) > 0 {
		t.Errorf("without mappings:\n%s", strings.Join(all, "\n"))
	}
}

// Faults of a mapping are found one by one, each with its place.
func TestCheckOfMappings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broken := strings.NewReplacer("name: items", "name: broken", "r.v FROM", "r.w FROM", "SELECT id FROM items", "SELECT v FROM items").Replace(itemsYAML)
	noSchema := strings.NewReplacer("name: items", "name: schemaless", "CREATE TABLE IF NOT EXISTS items", "CREATE TABL items").Replace(itemsYAML)
	unswept := strings.NewReplacer("name: items", "name: keyless", "keys:\n  item: SELECT id FROM items\n", "", "items", "others").Replace(itemsYAML)
	all, _ := w.checked(newChecker(), "", itemsYAML, broken, noSchema, unswept)
	says(t, all, "mapping items", "2 steps prepared")
	says(t, all, "mapping broken", "r.w", "item has the columns")
	says(t, all, "mapping broken", "make the query return")
	says(t, all, "mapping schemaless", "syntax error", "m.yaml:4")
	says(t, all, "keys of item", "add keys:")
	if n := countOf(all, primary.Failed); n != 3 {
		t.Errorf("%d faults:\n%s", n, strings.Join(all, "\n"))
	}
}

// What the metadata says is checked: the owner, the id, and the right to write.
func TestCheckOfMetadata(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  string
		highest int64
		parts   []string
	}{
		"another tenant":  {`UPDATE _stack_sync_metadata SET tenant = 't2'`, 1000, []string{"fail", "the database holds the rows of tenant"}},
		"ids ahead":       {`UPDATE _stack_sync_metadata SET last_synced_sequence_id = 5000`, 1000, []string{"fail", "the primary was restored from a backup", "--slot-reset"}},
		"unknown highest": {`UPDATE _stack_sync_metadata SET last_synced_sequence_id = 5000`, -1, []string{"ok", "up to sequence id 5000"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			w.ready()
			w.exec(test.change)
			c := newChecker()
			c.Highest = test.highest
			all, _ := w.checked(c, "", itemsYAML)
			says(t, all, test.parts...)
		})
	}
}

// What a role may not do is found before the destination needs the right.
func TestCheckOfRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.ready()
	role := fmt.Sprintf("check_%d", time.Now().UnixNano())
	w.exec(fmt.Sprintf(`CREATE ROLE %s LOGIN CONNECTION LIMIT 2; GRANT SELECT ON ALL TABLES IN SCHEMA public TO %[1]s; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
		REVOKE TEMPORARY ON DATABASE %[2]s FROM PUBLIC`, role, QuoteIdentifier(w.db.Config.Database)))
	defer func() { w.exec(fmt.Sprintf(`DROP OWNED BY %s; DROP ROLE %[1]s`, role)) }()
	all, _ := w.checked(newChecker(), role, itemsYAML)
	says(t, all, "fail", "schema public", "GRANT USAGE, CREATE ON SCHEMA public TO", role)
	says(t, all, "warn", "temporary tables", "GRANT TEMPORARY ON DATABASE")
	says(t, all, "fail", "_stack_sync_metadata", "may not write")
	says(t, all, "fail", "mapping items", "permission denied for table items")

	w.exec(fmt.Sprintf(`ALTER ROLE %s SET default_transaction_read_only = on`, role))
	all, _ = w.checked(newChecker(), role, itemsYAML)
	says(t, all, "fail", "writable", "default_transaction_read_only")
	says(t, all, "skip", "mappings", "nothing can be written")
	if slices.ContainsFunc(all, func(line string) bool { return strings.Contains(line, "steps prepared") }) {
		t.Errorf("mappings were checked in a database that is read only:\n%s", strings.Join(all, "\n"))
	}
}

// A database that cannot be reached, or must not be reached, has one finding.
func TestCheckOfADestinationOutOfReach(t *testing.T) {
	t.Parallel()
	c := newChecker()
	for name, test := range map[string]struct {
		spec  DestinationSpec
		parts []string
	}{
		"a fault":   {DestinationSpec{Fault: NewFault(ClassConfiguration, errTest, "a remedy")}, []string{"configuration", "test", "a remedy"}},
		"no server": {DestinationSpec{DSN: "postgres://u@127.0.0.1:1/d"}, []string{"connection", "connecting:", "host, port and sslmode"}},
		"no string": {DestinationSpec{DSN: "postgres://h:port/d"}, []string{"connection", "the connection string cannot be read"}},
	} {
		found, server := c.Check(t.Context(), test.spec)
		if len(found) != 1 || found[0].Verdict != primary.Failed || server != "" {
			t.Errorf("%s: %+v on server %q", name, found, server)
			continue
		}
		says(t, []string{fmt.Sprintf("%s: %s; %s", found[0].Check, found[0].Found, found[0].Remedy)}, test.parts...)
	}
}

// A process that fills the database holds its locks for moments: a check waits no longer than that.
func TestCheckBesideALock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.ready()
	w.exec(`BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE`)
	c := newChecker()
	c.Options.LockTimeout = 100 * time.Millisecond
	spec := DestinationSpec{Tenant: tenant, Name: "main", DSN: w.dsn}
	spec.Mappings = append(spec.Mappings, load(t, itemsYAML))
	found, _ := c.Check(t.Context(), spec)
	w.exec(`ROLLBACK`)
	if !slices.ContainsFunc(found, func(f primary.Finding) bool {
		return f.Verdict == primary.Failed && strings.Contains(f.Found, "55P03") || strings.Contains(f.Found, "lock timeout")
	}) {
		t.Errorf("%+v", found)
	}
}
