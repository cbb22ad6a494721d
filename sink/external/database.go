package external

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/moment"
	"outflow/internal/tenantdsn"
	"outflow/mapping"
	"outflow/replication/wal"
)

// Options bound what is asked of external databases. The zero options are not valid.
type Options struct {
	MaxConnections   int           `yaml:"max_connections" default:"200" range:"1..10000"` // to external databases, all together
	IdleClose        time.Duration `yaml:"idle_close" default:"30s" range:"0s..24h"`       // 0: a connection is closed with the batch
	StatementTimeout time.Duration `yaml:"statement_timeout" default:"1m" range:"1ms..24h"`
	LockTimeout      time.Duration `yaml:"lock_timeout" default:"10s" range:"1ms..24h"`
	ConnectTimeout   time.Duration `yaml:"connect_timeout" default:"5s" range:"1ms..10m"`
}

// AnswerTimeout is how long the answer to a round of statements may take.
func (o *Options) AnswerTimeout() time.Duration { return o.StatementTimeout + o.LockTimeout }

// Tables is the knowledge of the source tables. Implementations are safe for concurrent use.
type Tables interface {
	// Relation is the newest relation of a source table, nil where there is no such table.
	Relation(table string) *wal.Relation
	// TenantColumn is the index of the tenant's column in a relation of a source table, -1 where the column is not known.
	TenantColumn(*wal.Relation) int
	// Names are the source tables in the configuration's order.
	Names() []string
}

// Owner is the owner of an external database, as the metadata names the owner. The fields do not change.
type Owner struct {
	SourceID     string // of the primary's slot; "" where nothing ever ran
	Tenant, Name string // of the destination
}

// String is the destination's name for messages.
func (o *Owner) String() string { return o.Tenant + "/" + o.Name }

// Database is one external database of a tenant. The fields are not changed after the first [Database.Dial]. Safe for concurrent use, but for
// the sessions: a database has one session at a time.
type Database struct {
	*Owner
	Config   *pgconn.Config
	Mappings []*mapping.Mapping // in running order
	Options  Options
	Tables   Tables
	Log      *zap.Logger
	// Answered is when the server last answered without an error. The moment may be shared with a later Database of the same destination.
	Answered *moment.Moment
	// Unnamed says that statements are not prepared by name, because a pooler does not keep prepared statements. A session that finds such a
	// pooler sets Unnamed for the next session.
	Unnamed bool
}

// NewDatabase makes the database of a configured destination, which is the owner. The error is of a connection string that cannot be read. The database of a
// destination with a fault cannot be dialed.
func NewDatabase(owner *Owner, t DestinationSpec, o Options, tables Tables, log *zap.Logger) (*Database, error) {
	config, err := t.Config(o)
	if err != nil {
		return nil, err
	}
	return &Database{Owner: owner, Config: config, Mappings: t.Mappings, Options: o, Tables: tables, Log: log,
		Answered: new(moment.Moment)}, nil
}

// Address is the place of the external database, without user and password.
func (db *Database) Address() string {
	return net.JoinHostPort(db.Config.Host, strconv.Itoa(int(db.Config.Port))) + "/" + db.Config.Database
}

// host is the server's address for messages.
func (db *Database) host() string { return fmt.Sprintf("%s:%d", db.Config.Host, db.Config.Port) }

// dialConfig reads an operator's connection string: any host and any sslmode, but nothing that could override Outflow's settings. The process
// has no PG* variables any more when dialConfig is called.
func dialConfig(dsn string, o Options) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("the connection string cannot be read: %w", err)
	}
	// pgbouncer refuses other start-up parameters; the rest is set in each transaction.
	config.RuntimeParams = map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}
	config.ConnectTimeout = o.ConnectTimeout
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	tenantdsn.Bound(config)
	return config, nil
}

// Dial connects in a place that was taken, and learns what the server can do. The session has read nothing of the metadata yet. Without a
// session the place is free again, after a panic too.
func (db *Database) Dial(ctx context.Context, p *Place) (*Session, error) {
	conn, err := db.connect(ctx, p)
	if err != nil {
		return nil, explainConnect(err)
	}
	s := newSession(db, conn, p)
	if err := s.findPositions(ctx); err != nil {
		s.Close()
		return nil, explainConnect(err)
	}
	return s, nil
}

// DialAlone is Dial beside the budget of connections: for a look that has no other connection at the same time.
func (db *Database) DialAlone(ctx context.Context) (*Session, error) {
	p := &Place{}
	if err := NewConnections(1).Take(ctx, nil, p); err != nil {
		return nil, err
	}
	return db.Dial(ctx, p)
}

// connect connects in a place. Without a connection the place is free again, after a panic too.
func (db *Database) connect(ctx context.Context, p *Place) (conn *pgconn.PgConn, err error) {
	defer func() {
		if conn != nil {
			p.dialed()
		} else {
			p.release()
		}
	}()
	if err := failpoint.Fail(failpoint.BeforeConnect); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, db.Options.ConnectTimeout)
	defer cancel()
	return pgconn.ConnectConfig(ctx, db.Config)
}
