package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
)

// canary is the password of every connection string. The servers do not ask for a password, and no log may show the canary.
const canary = "canary-7f3a9c"

const (
	slot       = "torture"
	adminToken = "torture-admin-token"
	database   = "app" // of the primary
)

// tenants of the run. The first has two destinations, the others have a single destination each.
var tenants = []string{
	"aaaaaaaa-0000-4000-8000-000000000001",
	"bbbbbbbb-0000-4000-8000-000000000002",
	"cccccccc-0000-4000-8000-000000000003",
	"dddddddd-0000-4000-8000-000000000004",
}

// world is all parts of a run.
type world struct {
	t            *testing.T
	seed         uint64
	dir          string // logs and configuration; kept after a failure
	start        time.Time
	primary      *pgcluster.Cluster
	wire         *faultproxy.Proxy // between outflow and the primary
	east, west   *targetServer
	destinations []*destination
	fleet        *fleet
	commits      commits
	tally        tally
	edition      atomic.Int64 // of the mapping of items
	definition   atomic.Int64 // edition of the tenants' own mapping
	pooler       *pooler      // nil: the machine has none
	disk         *disk        // nil: the process may not mount

	settled time.Duration // how long the judge waited

	record
}

// record is what has happened, for a failure's message.
type record struct {
	mu      sync.Mutex
	events  []string
	failure string // the first
	failed  chan struct{}
}

// destination is an external database, with the harness' knowledge of the database.
type destination struct {
	tenant, name string
	server       *targetServer
	database     string
	wire         *faultproxy.Proxy // before the server
	pooler       *pooler           // between the proxy and the server; nil for none
	queried      bool              // configured in outflow.destination, else in the file
	tablespace   string            // clause of CREATE DATABASE
	excuses      excuses
	restored     atomic.Int64 // an older copy was put in place of the database in this epoch, or in an earlier epoch
}

func (d *destination) String() string { return d.database }

// direct is the connection string of the harness, past the proxy.
func (d *destination) direct() string { return d.server.DSN(d.database) + plain }

// dsn is the connection string of outflow.
func (d *destination) dsn() string { return withPassword(d.wire.DSN(d.server.DSN(d.database))) }

// hasOwn reports whether the tenant has written a mapping.
func (d *destination) hasOwn() bool { return d.queried }

func withPassword(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // made by pgcluster
	}
	u.User = url.UserPassword(u.User.Username(), canary)
	return u.String()
}

// newWorld starts the servers and writes the configuration. Nothing runs yet.
func newWorld(t *testing.T, seed uint64, dir string) *world {
	w := &world{t: t, seed: seed, dir: dir, record: record{failed: make(chan struct{})}}
	w.definition.Store(1)
	w.disk = newDisk(w)
	w.startServers()
	w.destinations = []*destination{
		{tenant: tenants[0], name: "main", server: w.east, database: "alpha"},
		{tenant: tenants[1], name: "main", server: w.east, database: "beta"},
		{tenant: tenants[2], name: "main", server: w.west, database: "gamma", pooler: newPooler(w, w.west)},
		{tenant: tenants[3], name: "main", server: w.west, database: "delta", queried: true},
		{tenant: tenants[0], name: "second", server: w.west, database: "alpha_second", queried: true},
	}
	w.pooler, w.wire = w.destinations[2].pooler, w.proxy(w.primary.Addr())
	tablespace, err := w.disk.tablespace(t.Context(), w.west)
	must(t, err)
	for _, d := range w.destinations {
		behind := d.server.Addr()
		if d.pooler != nil {
			behind = d.pooler.addr
		}
		d.wire = w.proxy(behind)
		if d.database == "alpha_second" {
			d.tablespace = tablespace
		}
		must(t, d.server.Exec(t.Context(), "", "CREATE DATABASE "+d.database+d.tablespace+";"))
		must(t, d.server.Exec(t.Context(), "", strings.ReplaceAll(hostile, "DATABASE", "DATABASE "+d.database)))
	}
	w.makePrimary()
	w.writeMappings()
	must(t, os.WriteFile(w.configFile(), []byte(w.config()), 0o600))
	return w
}

// hostile are settings of a database under which the server writes values unreadable under other settings.
const hostile = `ALTER DATABASE SET datestyle = 'German, DMY'; ALTER DATABASE SET intervalstyle = 'sql_standard'; ALTER DATABASE SET extra_float_digits = -5;
	ALTER DATABASE SET bytea_output = 'escape'; ALTER DATABASE SET timezone = 'Asia/Kathmandu'`

// plain are settings for the sessions of the harness, which must not meet the hostile ones.
const plain = "&datestyle=ISO&intervalstyle=postgres&extra_float_digits=3&bytea_output=hex&timezone=UTC"

// startServers starts servers of versions chosen by the seed, as far as the machine has the versions.
func (w *world) startServers() {
	r := rand.New(rand.NewPCG(w.seed, 1000))
	// With small segments of the WAL a slot loses WAL soon.
	primary := pgcluster.Options{Version: version(r, 14, 18), InitdbArgs: []string{"--wal-segsize=1"},
		Settings: map[string]string{"wal_sender_timeout": "3s", "max_wal_size": "64MB", "min_wal_size": "8MB"}}
	east, west := pgcluster.Options{}, pgcluster.Options{Version: version(r, 13, 14, 18)}
	w.primary = pgtest.New(w.t, primary)
	w.east, w.west = &targetServer{pgtest.New(w.t, east), "east"}, &targetServer{pgtest.New(w.t, west), "west"}
	w.say("the primary has version %d, west has version %d; 0 is the machine's own", primary.Version, west.Version)
}

// version picks a version of Postgres, or as often 0, the machine's own.
func version(r *rand.Rand, versions ...int) int {
	wanted := pick(r, append(versions, slices.Repeat([]int{0}, len(versions))...))
	if slices.ContainsFunc(pgcluster.Installed(), func(i pgcluster.Install) bool { return i.Version == wanted }) {
		return wanted
	}
	return 0
}

func (w *world) proxy(addr string) *faultproxy.Proxy {
	p, err := faultproxy.New(addr)
	must(w.t, err)
	w.t.Cleanup(func() { _ = p.Close() })
	return p
}

// makePrimary makes the tables of the primary with their first rows.
func (w *world) makePrimary() {
	ctx := w.t.Context()
	_, err := w.primary.CreateDatabase(ctx, database)
	must(w.t, err)
	must(w.t, w.primary.Exec(ctx, "", strings.ReplaceAll(hostile, "DATABASE", "DATABASE "+database)))
	for _, file := range []string{"../../testdata/schema.sql", "testdata/primary.sql"} {
		sql, err := os.ReadFile(file)
		must(w.t, err)
		must(w.t, w.primary.Exec(ctx, database, string(sql)))
	}
	for _, tenant := range tenants {
		must(w.t, w.primary.Exec(ctx, database, fmt.Sprintf(`INSERT INTO "Account" SELECT '%s', x, %d, nextval('version') FROM generate_series(1, %d) x`,
			tenant, openingBalance, accounts)))
	}
}

func (w *world) source() string       { return w.primary.DSN(database) + plain }
func (w *world) configFile() string   { return filepath.Join(w.dir, "outflow.yaml") }
func (w *world) mappingsDir() string  { return filepath.Join(w.dir, "mappings") }
func (w *world) since() time.Duration { return time.Since(w.start) }

// writeMappings writes the mappings of the present edition.
func (w *world) writeMappings() {
	must(w.t, os.MkdirAll(w.mappingsDir(), 0o700))
	for _, t := range tables {
		edition := 0
		if t.mapping == "items" {
			edition = int(w.edition.Load())
		}
		must(w.t, os.WriteFile(filepath.Join(w.mappingsDir(), t.mapping+".yaml"), []byte(t.yaml(edition)), 0o600))
	}
}

// config is the configuration of outflow. Times and sizes are small, for parking, slow destinations and full queues in a short run.
func (w *world) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "source:\n  dsn: %q\n  slot: %s\n  heartbeat: 1s\n  tables:\n", withPassword(w.wire.DSN(w.primary.DSN(database))), slot)
	b.WriteString("    - {name: ProjectUser, tenant: tenancyId}\n    - {name: ContactChannel, tenant: tenancyId}\n")
	for _, t := range tables {
		fmt.Fprintf(&b, "    - {name: %s, tenant: tenant}\n", t.source)
	}
	b.WriteString("  tombstones: {table: DeletedRow, tenant: tenancyId, table_name: tableName, key: primaryKey, row: data}\n")
	b.WriteString("destinations:\n  refresh: 1s\n  policy: {min_sslmode: disable, allow_networks: [127.0.0.0/8], ports: []}\n  static:\n")
	for _, d := range w.destinations {
		if !d.queried {
			fmt.Fprintf(&b, "    - {tenant: %s, name: %s, dsn: %q, mappings: [%s]}\n", d.tenant, d.name, d.dsn(), strings.Join(mappingNames(), ", "))
		}
	}
	fmt.Fprintf(&b, "mappings: [%s]\n", w.mappingsDir())
	b.WriteString("sink: {queue_bytes: 512KiB, memory_bytes: 64MiB, batch_rows: 500, idle_close: 2s, statement_timeout: 10s, lock_timeout: 2s, connect_timeout: 2s, " +
		"retry_max: 1s, park_after: 8s, slow_after: 8s, retained_wal: 32MiB, checkpoint: 200ms, max_connections: 8}\n")
	fmt.Fprintf(&b, "admin: {token: %s}\n", adminToken)
	return b.String()
}

// addQueried inserts the destinations of outflow.destination, when outflow has made the table.
func (w *world) addQueried(ctx context.Context) error {
	for _, d := range w.destinations {
		if !d.queried {
			continue
		}
		if err := w.onPrimary(ctx, `INSERT INTO outflow.destination (tenant_id, name, dsn, mappings, definitions) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (tenant_id, name) DO UPDATE SET dsn = excluded.dsn`, d.tenant, d.name, d.dsn(), append(mappingNames(), "own"), []string{ownDefinition(w.definition.Load())}); err != nil {
			return err
		}
	}
	return nil
}

// onPrimary runs a statement on the primary, past the proxy.
func (w *world) onPrimary(ctx context.Context, sql string, args ...any) error {
	return execute(ctx, w.source(), sql, args...)
}

func execute(ctx context.Context, dsn, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// say notes an event.
func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%8.3fs  %s", w.since().Seconds(), fmt.Sprintf(format, args...)))
}

// fail ends the run. Only the first failure counts: the others may be consequences.
func (w *world) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.say("FAILURE: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == "" {
		w.failure = text
		close(w.failed)
	}
}

// history is all events so far.
func (w *world) history() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.events, "\n")
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// pause waits, and returns false where the context ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
