package config

import (
	"cmp"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"outflow/internal/fit"
	"outflow/internal/secret"
	"outflow/internal/strictyaml"
)

// validate notes every value of the right type which still cannot be meant.
func (l *loader) validate() {
	l.validateSource()
	l.validateTables()
	l.validateTombstones()
	l.validateStatic()
	l.validateQuery()
	for i, path := range l.config.Mappings {
		if path == "" {
			l.faultAt(listPath("mappings", i, l.config), "expected the path of a file or directory, found nothing")
		}
	}
	l.section("sink", &l.config.Sink, l.config.Sink.Validate())
	l.section("admin", &l.config.Admin, slices.DeleteFunc(l.config.Admin.Validate(), func(f strictyaml.Invalid) bool {
		return f.Key == "listen" && l.noFile && l.config.Admin.Token.IsZero() // the token's own file could not be read
	}))
	l.validateTracing()
	l.section("log", &l.config.Log, strictyaml.Check(&l.config.Log))
}

// listPath is the path of an item; of the list, where the list came as a single value.
func listPath(list string, i int, c *Config) string {
	if _, ok := c.origins[list]; ok {
		return list
	}
	return fmt.Sprintf("%s[%d]", list, i)
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (l *loader) validateSource() {
	s := &l.config.Source
	if s.DSN.IsZero() {
		l.requiredDSN("source.dsn", "required: the primary's connection string, here or as OUTFLOW_SOURCE_DSN, OUTFLOW_SOURCE_DSN_FILE, DATABASE_URL, DATABASE_URL_FILE or PG*")
	} else if fault := dsnFault(s.DSN.Reveal()); fault != "" {
		l.faultAt("source.dsn", "%s", fault)
	}
	if !slotName.MatchString(s.Slot) {
		l.faultAt("source.slot", "expected 1 to 63 of a-z, 0-9 and _, found %s", l.show("source.slot", s.Slot))
	}
	l.identifier("source.publication", s.Publication)
	if s.Heartbeat != 0 {
		within(l, "source.heartbeat", s.Heartbeat, 100*time.Millisecond, time.Hour)
	}
}

func (l *loader) requiredDSN(path, message string) {
	if !l.noFile {
		l.faultAt(path, "%s", message)
	}
}

func (l *loader) validateTables() {
	tables := l.config.Source.Tables
	if len(tables) == 0 {
		l.faultAt("source.tables", "expected at least one table")
	}
	seen := make(map[[2]string]string)
	for i, table := range tables {
		path := fmt.Sprintf("source.tables[%d]", i)
		l.tableName(path+".name", table.Name)
		l.identifier(path+".tenant", table.Tenant)
		columns := make(map[string]bool)
		for j, column := range table.Columns {
			at := fmt.Sprintf("%s.columns[%d]", path, j)
			l.identifier(at, column)
			if columns[column] {
				l.faultAt(at, "column %s is listed twice", l.show(at, column))
			}
			columns[column] = true
		}
		schema, name := table.Qualified()
		key := [2]string{schema, name}
		if first, ok := seen[key]; ok {
			l.faultAt(path+".name", "table %s is listed twice; it is %s already", l.show(path+".name", table.Name), first)
			continue
		}
		seen[key] = path
	}
}

func (l *loader) validateTombstones() {
	t := l.config.Source.Tombstones
	if t == nil {
		return
	}
	l.tableName("source.tombstones.table", t.Table)
	l.identifier("source.tombstones.tenant", t.Tenant)
	l.identifier("source.tombstones.table_name", t.TableName)
	l.identifier("source.tombstones.key", t.Key)
	l.identifier("source.tombstones.row", t.Row)
	schema, name := t.Qualified()
	for i, table := range l.config.Source.Tables {
		if s, n := table.Qualified(); s == schema && n == name {
			l.faultAt("source.tombstones.table", "%s is listed in source.tables[%d]; a table holds rows or tombstones, not both", l.show("source.tombstones.table", t.Table), i)
		}
	}
}

func (l *loader) validateStatic() {
	seen := make(map[[2]string]int)
	for i, s := range l.config.Destinations.Static {
		path := fmt.Sprintf("destinations.static[%d]", i)
		if s.Tenant == "" {
			l.faultAt(path+".tenant", "required: the text of the tenant column")
		} else if err := fit.Check(s.Tenant, fit.Tenant); err != nil {
			l.faultAt(path+".tenant", "%v", err)
		}
		if s.Name == "" {
			l.faultAt(path+".name", "expected a name; without this key, the name is main")
		} else if err := fit.Check(s.Name, fit.Name); err != nil {
			l.faultAt(path+".name", "%v", err)
		}
		if s.DSN.IsZero() {
			l.requiredDSN(path+".dsn", "required: the connection string of the tenant's database")
		} else if fault := dsnFault(s.DSN.Reveal()); fault != "" {
			l.faultAt(path+".dsn", "%s", fault)
		}
		names := make(map[string]bool)
		for j, name := range s.Mappings {
			if name == "" || names[name] {
				at := fmt.Sprintf("%s.mappings[%d]", path, j)
				l.faultAt(at, "expected the name of a mapping, each once, found %s", l.show(at, name))
			}
			names[name] = true
		}
		key := [2]string{s.Tenant, s.Name}
		if first, ok := seen[key]; ok {
			l.faultAt(path, "tenant %s has two destinations named %s; the first is destinations.static[%d]", l.show(path+".tenant", s.Tenant), l.show(path+".name", s.Name), first)
			continue
		}
		seen[key] = i
	}
}

func (l *loader) validateQuery() {
	d := &l.config.Destinations
	within(l, "destinations.refresh", d.Refresh, 100*time.Millisecond, time.Hour)
	l.section("destinations.policy", &d.Policy, d.Policy.Validate())
}

func (l *loader) validateTracing() {
	t := &l.config.Tracing
	l.section("tracing", t, strictyaml.Check(t))
	if u, err := url.Parse(t.Endpoint); t.Endpoint != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		l.faultAt("tracing.endpoint", "expected a URL such as http://collector:4318/v1/traces, or \"\" for none, found %s", l.show("tracing.endpoint", t.Endpoint))
	}
}

// section notes the invalid values of the section's options. The value found is shown, unless the value is secret.
func (l *loader) section(section string, options any, invalid []strictyaml.Invalid) {
	fields := map[string]reflect.Value{}
	for f := range strictyaml.Fields(reflect.ValueOf(options).Elem()) {
		fields[f.Key] = f.Value
	}
	for _, fault := range invalid {
		key, index, isItem := strings.Cut(strings.TrimSuffix(fault.Key, "]"), "[")
		at, value := section+"."+key, fields[key]
		if _, secret := value.Interface().(secret.Text); secret {
			l.faultAt(at, "%s", fault.Message)
			continue
		}
		if isItem {
			i, _ := strconv.Atoi(index)
			at, value = listPath(at, i, l.config), value.Index(i)
		}
		found := strictyaml.Plain(value.Interface())
		if value.Kind() == reflect.String {
			found = l.show(at, value.String())
		}
		l.faultAt(at, "%s, found %s", fault.Message, found)
	}
}

// within notes a value outside low to high, both included.
func within[T cmp.Ordered](l *loader, path string, value, low, high T) {
	if value < low || value > high {
		l.faultAt(path, "expected %s to %s, found %s", strictyaml.Plain(low), strictyaml.Plain(high), strictyaml.Plain(value))
	}
}

// maxIdentifier is Postgres' limit: Postgres would cut a longer name without a word.
const maxIdentifier = 63

func (l *loader) identifier(path, name string) {
	if fault := identifierFault(name); fault != "" {
		l.faultAt(path, "%s, found %s", fault, l.show(path, name))
	}
}

// tableName checks both halves of a name with an optional schema.
func (l *loader) tableName(path, name string) {
	schema, table := qualified(name)
	if table == "" && name != "" {
		l.faultAt(path, `expected name, schema.name, or "name" in double quotes if it has a dot, found %s`, l.show(path, name))
		return
	}
	for _, part := range []string{schema, table} {
		if fault := identifierFault(part); fault != "" {
			l.faultAt(path, "%s, found %s", fault, l.show(path, name))
			return
		}
	}
}

func identifierFault(name string) string {
	if name == "" || len(name) > maxIdentifier || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return fmt.Sprintf("expected a name of 1 to %d bytes", maxIdentifier)
	}
	return ""
}

// show quotes a value in a message, cut to a length which helps to find the
// value. A value taken from the environment may be a secret in the wrong place.
func (l *loader) show(path, value string) string {
	if _, overridden := l.config.origins[path]; !overridden {
		if name := l.config.doc.Variable(path); name != "" {
			return "the value of ${" + name + "}"
		}
	}
	if value == "" {
		return "nothing"
	}
	if path == "tracing.endpoint" {
		value = secret.RedactURL(value)
	}
	return fmt.Sprintf("%.80q", secret.Mask(value))
}
