package external

import (
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/mapping"
)

// DestinationSpec is the configuration of a destination: the place, and the mappings kept there.
type DestinationSpec struct {
	Tenant, Name string
	// DSN is an operator's connection string: any host and sslmode. DSN does not count where Connect is set.
	DSN string
	// Connect is a ready configuration: of a tenant's connection string, which is hostile input to every reader.
	Connect  *pgconn.Config
	Mappings []*mapping.Mapping
	// Fault says why the specification cannot be used; nil mostly. The destination is halted with Fault, without a connection, until the
	// destination is given another specification.
	Fault *Error
}

// Config is the way to the external database.
func (d DestinationSpec) Config(o Options) (*pgconn.Config, error) {
	switch {
	case d.Fault != nil:
		return &pgconn.Config{}, nil //nolint:nilerr // nothing connects
	case d.Connect != nil:
		return d.Connect, nil
	}
	return dialConfig(d.DSN, o)
}
