// Package config holds the configuration of Outflow: the values, the origin of
// each value, and whether a value can be meant so.
//
// A value is taken from the command line's flag, else from the environment
// (OUTFLOW_ and the path in upper case: OUTFLOW_SINK_BATCH_ROWS), else from the
// file, else from the default. Every fault is reported, all at once, each with
// the place to change.
//
// A new setting is a single field with a yaml tag: the flag, the environment
// variable and the line in Print follow from the field.
package config

import (
	"net/netip"
	"time"

	"outflow/internal/secret"
	"outflow/internal/strictyaml"
	"outflow/replication/wal"
)

// Config is the whole configuration. A Config is not changed after Load and
// safe for concurrent use.
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
	origins map[string]origin // of values neither from the file nor default
}

// Source is the primary and the tables read there.
type Source struct {
	// DSN is complete: everything PG* variables and the home directory add to a
	// connection string is included, so DSN means the same after Scrub.
	DSN         secret.Text `yaml:"dsn"`
	Slot        string      `yaml:"slot"`
	Publication string      `yaml:"publication"`
	// Heartbeat is the time between the logical messages measuring the way of a commit through the
	// stream; 0: none.
	Heartbeat  time.Duration `yaml:"heartbeat"`
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
	Refresh time.Duration `yaml:"refresh"` // between two runs of Query; a change of outflow.destination is noticed at once
	Policy  Policy        `yaml:"policy"`
}

// DestinationQuery is the default of destinations.query.
const DestinationQuery = "SELECT tenant_id, name, dsn, mappings, definitions, ca FROM outflow.destination WHERE enabled"

// Policy limits the targets of the connection strings given by Query.
type Policy struct {
	MinSSLMode    string         `yaml:"min_sslmode"`    // disable, require, verify-ca or verify-full
	AllowNetworks []netip.Prefix `yaml:"allow_networks"` // exceptions from the addresses not public
	Ports         []int          `yaml:"ports"`          // empty: any
	Mappings      []string       `yaml:"mappings"`       // the operator's mappings allowed to tenants; empty: all
}

// Static is a database named by the operator in the configuration.
type Static struct {
	Tenant   string      `yaml:"tenant"` // the text form of the tenant column
	Name     string      `yaml:"name"`   // unique in the tenant; the default is main
	DSN      secret.Text `yaml:"dsn"`
	Mappings []string    `yaml:"mappings"` // names; empty: the default mappings
}

// Sink bounds the work at the destinations.
type Sink struct {
	QueueBytes       strictyaml.ByteSize `yaml:"queue_bytes"`     // waiting for a single destination
	MemoryBytes      strictyaml.ByteSize `yaml:"memory_bytes"`    // waiting for all destinations together
	BatchRows        int                 `yaml:"batch_rows"`      // net rows in a round of an external transaction
	MaxConnections   int                 `yaml:"max_connections"` // at the same time, over all destinations
	IdleClose        time.Duration       `yaml:"idle_close"`      // 0: a connection is closed with the batch
	StatementTimeout time.Duration       `yaml:"statement_timeout"`
	LockTimeout      time.Duration       `yaml:"lock_timeout"`
	ConnectTimeout   time.Duration       `yaml:"connect_timeout"`
	RetryMin         time.Duration       `yaml:"retry_min"`        // the wait after a first failure
	RetryMax         time.Duration       `yaml:"retry_max"`        // the longest wait
	VisitEvery       time.Duration       `yaml:"visit_every"`      // how often an external database without work is looked at
	ShutdownTimeout  time.Duration       `yaml:"shutdown_timeout"` // for batches already begun
	ParkAfter        time.Duration       `yaml:"park_after"`       // of failing, until the stream goes on without the destination
	SlowAfter        time.Duration       `yaml:"slow_after"`       // of keeping all others waiting, until the same; a copy lets others go first
	RetainedWAL      strictyaml.ByteSize `yaml:"retained_wal"`     // WAL kept on the primary for a slow destination
	Checkpoint       time.Duration       `yaml:"checkpoint"`       // between notes on the primary, before which nothing is acknowledged
	OnError          string              `yaml:"on_error"`         // of a row's data: halt, or quarantine the row
	Backfills        int                 `yaml:"backfills"`        // reading from the primary at the same time
}

// Admin is the status API, dashboard and metrics.
type Admin struct {
	Listen string `yaml:"listen"` // host:port; "" is off
	// Token is the token of the API and the dashboard; without a token Listen must be loopback.
	Token         secret.Text `yaml:"token"`
	Hosts         []string    `yaml:"hosts"`          // names under which the server is called, beside localhost and the host of Listen
	Pprof         bool        `yaml:"pprof"`          // serve /debug/pprof/
	TenantMetrics bool        `yaml:"tenant_metrics"` // a series for each destination
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
			VisitEvery:       time.Hour,
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
