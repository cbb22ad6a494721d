package config

import (
	"time"

	"outflow/admin"
	"outflow/internal/secret"
	"outflow/internal/strictyaml"
	"outflow/internal/tenantdsn"
	"outflow/replication/wal"
	"outflow/sink"
)

// Config is the whole configuration. A Config is not changed after Load and
// safe for concurrent use.
type Config struct {
	Source       Source       `yaml:"source"`
	Destinations Destinations `yaml:"destinations"`
	// Mappings are files or directories of mappings, beside the embedded ones.
	Mappings []string      `yaml:"mappings"`
	Sink     sink.Options  `yaml:"sink"`
	Admin    admin.Options `yaml:"admin"`
	Tracing  Tracing       `yaml:"tracing"`
	Log      Log           `yaml:"log"`

	doc     *strictyaml.Document
	file    string
	origins map[string]origin // of values neither from the file nor default
}

// Source is the primary and the tables read there.
type Source struct {
	// DSN is complete: everything PG* variables and the home directory add to a
	// connection string is included, so DSN means the same after Scrub.
	DSN         secret.Text `yaml:"dsn"`
	Slot        string      `yaml:"slot" default:"outflow"`
	Publication string      `yaml:"publication" default:"outflow"`
	// Heartbeat is the time between the logical messages measuring the way of a commit through the
	// stream; 0: none.
	Heartbeat  time.Duration `yaml:"heartbeat" default:"10s"`
	Tables     []Table       `yaml:"tables"`     // not empty
	Tombstones *Tombstones   `yaml:"tombstones"` // nil: deletes are seen as deletes only
}

// Table is a table of the primary with tenants' rows.
type Table struct {
	Name   string `yaml:"name"`   // with or without the schema, quoted where a part has a dot; see Qualified
	Tenant string `yaml:"tenant"` // the column naming the row's tenant
	// Columns are the columns allowed in a tenant's own mapping; empty: the
	// columns in the operator's mappings.
	Columns []string `yaml:"columns"`
}

// Qualified gives schema and name, each in double quotes where there is a dot, as read by [wal.SplitTable]; the
// schema is public where none is given. Both are "" for a name with wrong quotes.
func (t Table) Qualified() (schema, name string) { return qualified(t.Name) }

// Tombstones is a table of the primary with a row for each deleted row of the
// other tables. All fields but Table name its columns.
type Tombstones struct {
	Table     string `yaml:"table"`
	Tenant    string `yaml:"tenant"`
	TableName string `yaml:"table_name"` // the name of the table of the deleted row
	Key       string `yaml:"key"`        // jsonb: the primary key of the row
	Row       string `yaml:"row"`        // jsonb: the deleted row
}

// Qualified gives schema and name, as Table's does.
func (t Tombstones) Qualified() (schema, name string) { return qualified(t.Table) }

func qualified(text string) (schema, name string) {
	schema, name, ok := wal.SplitTable(text)
	if ok && schema == "" {
		schema = "public"
	}
	return schema, name
}

// Destinations are the tenants' databases.
type Destinations struct {
	Static []Static `yaml:"static"`
	// Query is run on the primary and gives a row for each database, with the columns of [DestinationQuery], or the first three columns.
	// The values are tenants' own words: Policy applies. "" is no query.
	Query   string        `yaml:"query"`
	Refresh time.Duration `yaml:"refresh" default:"5s"` // between two runs of Query; a change of outflow.destination is noticed at once
	Policy  Policy        `yaml:"policy"`
}

// DestinationQuery is the default of destinations.query.
const DestinationQuery = "SELECT tenant_id, name, dsn, mappings, definitions, ca FROM outflow.destination WHERE enabled"

// Policy limits what the rows given by Query may ask for.
type Policy struct {
	tenantdsn.Policy
	Mappings []string `yaml:"mappings"` // the operator's mappings allowed to tenants; empty: all
}

// Static is a database named by the operator in the configuration.
type Static struct {
	Tenant   string      `yaml:"tenant"` // the text form of the tenant column
	Name     string      `yaml:"name"`   // unique in the tenant; the default is main
	DSN      secret.Text `yaml:"dsn"`
	Mappings []string    `yaml:"mappings"` // names; empty: the default mappings
}

// Tracing sends spans of batches, from receipt to commit, to an OpenTelemetry collector.
type Tracing struct {
	Endpoint string  `yaml:"endpoint"`                           // the URL of OTLP over HTTP; "" is off
	Sample   float64 `yaml:"sample" default:"0.01" range:"0..1"` // the share of the batches, 0 to 1
}

// Log says how the process logs.
type Log struct {
	Level  string `yaml:"level" default:"info" oneof:"debug,info,warn,error"`
	Format string `yaml:"format" default:"json" oneof:"json,console"`
}

// Default gives the configuration of an empty file: valid but for source.dsn.
func Default() *Config {
	c := &Config{
		Source: Source{
			Tables: []Table{
				{Name: "ProjectUser", Tenant: "tenancyId"},
				{Name: "ContactChannel", Tenant: "tenancyId"},
			},
			Tombstones: &Tombstones{
				Table: "DeletedRow", Tenant: "tenancyId", TableName: "tableName", Key: "primaryKey", Row: "data",
			},
		},
		Destinations: Destinations{
			Query: DestinationQuery,
		},
	}
	strictyaml.Defaults(c)
	return c
}
