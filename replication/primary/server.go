package primary

import (
	"context"
	"fmt"
	"maps"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sessionSettings fix the text form of values. pgoutput prints with the settings of the walsender's session, and the
// settings may come from the database or the role (ALTER DATABASE ... SET datestyle): left alone, such settings corrupt
// dates, lose digits of floats, or print money in a local form.
var sessionSettings = map[string]string{
	"application_name":   "outflow",
	"client_encoding":    "UTF8",
	"datestyle":          "ISO, YMD",
	"intervalstyle":      "postgres",
	"extra_float_digits": "3",
	"bytea_output":       "hex",
	"timezone":           "UTC",
	"lc_monetary":        "C",
	"search_path":        "pg_catalog", // so reg* values print qualified
	"jit":                "off",        // compiling takes longer than any statement of Outflow's, whose cost the planner overestimates
	"row_security":       "off",        // the server refuses a query from which a policy would hide rows
	"statement_timeout":  "0",
	"lock_timeout":       "0",
	// A process that was frozen, or cut off without a word, in the middle of a transaction must not keep the locks of the transaction: DDL on the
	// application's tables would wait, and the next process for the slot's row of outflow.source.
	"idle_in_transaction_session_timeout": "30s",
	// A tenant's name stands as a literal in EXPLAIN, which takes no parameter: off, a backslash would end the literal early.
	"standard_conforming_strings": "on",
	// Outflow's own few writes (checkpoints, epochs) need not outlive the primary's disk: on a promoted standby the slot is reset and everything
	// is copied again. Waiting for an absent synchronous standby would only keep the slot from moving.
	"synchronous_commit": "local",
}

// Server is the primary, as the maker of connections to the source database: all connections have the same fixed settings. Safe for
// concurrent use.
type Server struct {
	config *pgx.ConnConfig
}

// New reads a connection string. Environment variables of libpq (PG*) fill the missing settings, so call New
// before the variables are removed from the process. No connection is made.
func New(dsn string) (*Server, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams = maps.Clone(sessionSettings)
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second // pgx waits forever by default
	}
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil {
			keepAlive(c)
		}
		return c, err
	}
	config.AfterConnect = asStored
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	return &Server{config: config}, nil
}

// sqlASCII is the encoding of a database without a check of bytes: the texts may be in any encoding, and mostly are
// UTF-8.
const sqlASCII = "SQL_ASCII"

// asStored has a database of SQL_ASCII send the bytes as stored. Asked for UTF-8 the server would end a statement, and the whole stream, at
// the first byte outside UTF-8 (pg_server_to_any in the server's mbutils.c). External databases check the bytes on storing: there a wrong
// byte is the fault of a single row.
func asStored(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.ParameterStatus("server_encoding") != sqlASCII {
		return nil
	}
	_, err := conn.Exec(ctx, "SET client_encoding = '"+sqlASCII+"'").ReadAll()
	return err
}

// Address is host, port and database for messages; Address holds no secret.
func (s *Server) Address() string {
	return fmt.Sprintf("%s:%d/%s", s.config.Host, s.config.Port, s.config.Database)
}

// User is the connecting role.
func (s *Server) User() string { return s.config.User }

// Config returns a copy of the connection's configuration, for libraries with connections of their own (migrations).
func (s *Server) Config() *pgx.ConnConfig { return s.config.Copy() }

// Connect opens an ordinary connection, which the caller closes. [ExplainConnect] adds the remedy to an error.
func (s *Server) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, s.config.Copy())
}

// connected runs f on a connection of its own, for at most watchEvery.
func (s *Server) connected(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	conn, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(ctx, conn)
}

// ReplicationConfig returns a copy of the configuration for a walsender's connection, for the stream, which has a socket of its own.
func (s *Server) ReplicationConfig() *pgconn.Config {
	config := s.config.Config.Copy()
	config.RuntimeParams["replication"] = "database"
	return config
}

// connectReplication opens a walsender's connection for a question.
func (s *Server) connectReplication(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.ConnectConfig(ctx, s.ReplicationConfig())
}

// ServerVersion is the server's major version, 0 where the server does not tell.
func ServerVersion(conn *pgconn.PgConn) int {
	var major int
	_, _ = fmt.Sscanf(conn.ParameterStatus("server_version"), "%d", &major) // 15.18, 18beta1
	return major
}

// LookupConnections is how many connections to the primary the look-ups of a process have at most.
const LookupConnections = 4
