// Package config holds the configuration of Outflow: what it is, where each
// value came from, and whether it can be meant so.
//
// A value is taken from the command line's flag, else from the environment
// (OUTFLOW_ and the path in upper case: OUTFLOW_SINK_BATCH_ROWS), else from the
// file, else it is the default. Every fault is reported, all at once, each with
// the place that has to be changed.
//
// A new setting is one field with a yaml tag: its flag, its environment
// variable and its line in Print follow from it.
package config

import (
	"net/netip"
	"time"

	"outflow/internal/secret"
	"outflow/internal/strictyaml"
	"outflow/replication"
)

// Config is the whole configuration. It is not changed after Load and safe for
// concurrent use.
type Config struct {
	Source       Source       `yaml:"source"`
	Destinations Destinations `yaml:"destinations"`
	// Mappings are files or directories of mappings, beside the embedded ones.
	Mappings []string `yaml:"mappings"`
	Sink     Sink     `yaml:"sink"`
	Admin    Admin    `yaml:"admin"`
	Tracing  Tracing  `yaml:"tracing"`
	Log      Log      `yaml:"log"`

	doc     *strictyaml.Document
	file    string
	origins map[string]origin // of what came neither from the file nor is a default
}

// Source is the primary and what is read from it.
type Source struct {
	// DSN is complete: whatever PG* variables and the home directory add to a
	// connection string is in it, so it means the same after Scrub.
	DSN         secret.Text `yaml:"dsn"`
	Slot        string      `yaml:"slot"`
	Publication string      `yaml:"publication"`
	// Heartbeat is the time between the logical messages that measure the way of a commit through the stream; 0: none.
	Heartbeat  time.Duration `yaml:"heartbeat"`
	Tables     []Table       `yaml:"tables"`     // at least one
	Tombstones *Tombstones   `yaml:"tombstones"` // nil: deletes are seen as deletes only
}

// Table is a table of the primary that has tenants' rows.
type Table struct {
	Name   string `yaml:"name"`   // with or without its schema, quoted where it has a dot; see Qualified
	Tenant string `yaml:"tenant"` // the column that names the row's tenant
	// Columns are those that a tenant's own mapping may name; empty: those
	// that the operator's mappings name.
	Columns []string `yaml:"columns"`
}

// Qualified gives schema and name, each in double quotes where it has a dot, as [replication.SplitTable]
// reads them; the schema is public where there is none. Both are "" for a name with wrong quotes.
func (t Table) Qualified() (schema, name string) { return qualified(t.Name) }

// Tombstones is a table of the primary with one row for each deleted row of the
// others. All fields but Table name its columns.
type Tombstones struct {
	Table     string `yaml:"table"`
	Tenant    string `yaml:"tenant"`
	TableName string `yaml:"table_name"` // the name of the table that had the row
	Key       string `yaml:"key"`        // jsonb: the primary key of the row
	Row       string `yaml:"row"`        // jsonb: the row as it was
}

// Qualified gives schema and name, as Table's does.
func (t Tombstones) Qualified() (schema, name string) { return qualified(t.Table) }

func qualified(text string) (schema, name string) {
	schema, name, ok := replication.SplitTable(text)
	if ok && schema == "" {
		schema = "public"
	}
	return schema, name
}

// Destinations are the tenants' databases.
type Destinations struct {
	Static []Static `yaml:"static"`
	// Query is run on the primary and gives one row a database, with the columns that [DestinationQuery] has, or the first three
	// of them. These are tenants' own words: Policy applies. "" is none.
	Query   string        `yaml:"query"`
	Refresh time.Duration `yaml:"refresh"` // between two runs of Query; a change of outflow.destination is noticed at once
	Policy  Policy        `yaml:"policy"`
}

// DestinationQuery is the default of destinations.query.
const DestinationQuery = "SELECT tenant_id, name, dsn, mappings, definitions, ca FROM outflow.destination WHERE enabled"

// Policy says where the connection strings that Query gives may lead.
type Policy struct {
	MinSSLMode    string         `yaml:"min_sslmode"`    // disable, require, verify-ca or verify-full
	AllowNetworks []netip.Prefix `yaml:"allow_networks"` // exceptions from the addresses that are not public
	Ports         []int          `yaml:"ports"`          // empty: any
	Mappings      []string       `yaml:"mappings"`       // the operator's that may be asked for; empty: all
}

// Static is one database that the operator named in the configuration.
type Static struct {
	Tenant   string      `yaml:"tenant"` // the text form of the tenant column
	Name     string      `yaml:"name"`   // unique in the tenant; the default is main
	DSN      secret.Text `yaml:"dsn"`
	Mappings []string    `yaml:"mappings"` // names; empty: the default mappings
}

// Sink bounds what is done at the destinations.
type Sink struct {
	QueueBytes       strictyaml.ByteSize `yaml:"queue_bytes"`     // waiting for one destination
	MemoryBytes      strictyaml.ByteSize `yaml:"memory_bytes"`    // waiting for all of them together
	BatchRows        int                 `yaml:"batch_rows"`      // net rows in one external transaction's round
	MaxConnections   int                 `yaml:"max_connections"` // at the same time, over all destinations
	IdleClose        time.Duration       `yaml:"idle_close"`      // 0: a connection is closed with its batch
	StatementTimeout time.Duration       `yaml:"statement_timeout"`
	LockTimeout      time.Duration       `yaml:"lock_timeout"`
	ConnectTimeout   time.Duration       `yaml:"connect_timeout"`
	RetryMin         time.Duration       `yaml:"retry_min"`        // the wait after a first failure
	RetryMax         time.Duration       `yaml:"retry_max"`        // what the waits grow to
	ShutdownTimeout  time.Duration       `yaml:"shutdown_timeout"` // for batches that have begun
	ParkAfter        time.Duration       `yaml:"park_after"`       // of failing, until the stream goes on without the destination
	SlowAfter        time.Duration       `yaml:"slow_after"`       // of keeping all others waiting, until the same; a copy lets others go first
	RetainedWAL      strictyaml.ByteSize `yaml:"retained_wal"`     // what a slow destination may have the primary keep
	Checkpoint       time.Duration       `yaml:"checkpoint"`       // between notes on the primary, before which nothing is acknowledged
	OnError          string              `yaml:"on_error"`         // of a row's data: halt, or quarantine the row
	Backfills        int                 `yaml:"backfills"`        // that read from the primary at the same time
}

// Admin is the status API, dashboard and metrics.
type Admin struct {
	Listen string `yaml:"listen"` // host:port; "" is off
	// Token is what the API and the dashboard want; without it Listen must be loopback.
	Token         secret.Text `yaml:"token"`
	Hosts         []string    `yaml:"hosts"`          // names under which the server is called, beside localhost and that of Listen
	Pprof         bool        `yaml:"pprof"`          // serve /debug/pprof/
	TenantMetrics bool        `yaml:"tenant_metrics"` // one series a destination
}

// Tracing sends spans of batches, from receipt to commit, to an OpenTelemetry collector.
type Tracing struct {
	Endpoint string  `yaml:"endpoint"` // the URL of OTLP over HTTP; "" is off
	Sample   float64 `yaml:"sample"`   // the share of the batches, 0 to 1
}

// Log says how the process logs.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // json or console
}

// Default gives the configuration of an empty file: valid but for source.dsn.
func Default() *Config {
	return &Config{
		Source: Source{
			Slot:        "outflow",
			Publication: "outflow",
			Heartbeat:   10 * time.Second,
			Tables: []Table{
				{Name: "ProjectUser", Tenant: "tenancyId"},
				{Name: "ContactChannel", Tenant: "tenancyId"},
			},
			Tombstones: &Tombstones{
				Table: "DeletedRow", Tenant: "tenancyId", TableName: "tableName", Key: "primaryKey", Row: "data",
			},
		},
		Destinations: Destinations{
			Query:   DestinationQuery,
			Refresh: 5 * time.Second,
			Policy:  Policy{MinSSLMode: "verify-full", Ports: []int{5432, 6432}},
		},
		Sink: Sink{
			QueueBytes:       8 * strictyaml.MiB,
			MemoryBytes:      512 * strictyaml.MiB,
			BatchRows:        10000,
			MaxConnections:   200,
			IdleClose:        30 * time.Second,
			StatementTimeout: time.Minute,
			LockTimeout:      10 * time.Second,
			ConnectTimeout:   5 * time.Second,
			RetryMin:         100 * time.Millisecond,
			RetryMax:         5 * time.Minute,
			ShutdownTimeout:  10 * time.Second,
			ParkAfter:        5 * time.Minute,
			SlowAfter:        10 * time.Second,
			RetainedWAL:      strictyaml.GiB,
			Checkpoint:       2 * time.Second,
			OnError:          "halt",
			Backfills:        2,
		},
		Admin:   Admin{Listen: "127.0.0.1:8090"},
		Tracing: Tracing{Sample: 0.01},
		Log:     Log{Level: "info", Format: "json"},
	}
}
