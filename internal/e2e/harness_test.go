package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"outflow/internal/command"
	"outflow/internal/config"
	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/sink"
	"outflow/sink/ledger"
)

func TestMain(m *testing.M) {
	if os.Getenv("OUTFLOW_TEST_EXEC") != "" { // this binary stands in for outflow: see process_test.go
		os.Unsetenv("OUTFLOW_TEST_EXEC")
		os.Exit(command.Main("dev"))
	}
	if os.Getenv("OUTFLOW_TEST_FARM") != "" {
		if err := runFarm(); err != nil {
			fmt.Fprintln(os.Stderr, "hostile servers:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(pgtest.Main(m))
}

// Tenants of the tests.
const (
	tenant1 = "11111111-1111-4111-8111-111111111111"
	tenant2 = "22222222-2222-4222-8222-222222222222"
	tenant3 = "33333333-3333-4333-8333-333333333333"
)

// anyVersion skips a test that has nothing to do with the version of Postgres where the tests run for another version (make matrix).
func anyVersion(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the version of Postgres makes no difference")
	}
}

// world is a primary database with the application's schema, and external databases.
type world struct {
	tb      testing.TB
	cluster *pgcluster.Cluster
	source  string // superuser's connection string
	db      *pgx.Conn
	cfg     *config.Config
	// unwatched is for tests that alter tables under a pipeline in this process: the watch would end the pipeline for another one to be
	// opened, as `outflow run` does.
	unwatched bool
	parts     []func(*sink.Config) // change the parts of the routers
	runs      []*running           // that were started, the ended ones too
}

var slots atomic.Int64

// newWorld makes a primary database on that cluster.
func newWorld(tb testing.TB, cluster *pgcluster.Cluster) *world {
	tb.Helper()
	w := &world{tb: tb, cluster: cluster, source: pgtest.Database(tb, cluster)}
	w.db = connect(tb, w.source)
	schema, err := os.ReadFile("../../testdata/schema.sql")
	if err != nil {
		tb.Fatal(err)
	}
	w.exec(string(schema))
	w.cfg = config.Default()
	w.cfg.Source.DSN = secret.New(w.source)
	w.cfg.Source.Slot = fmt.Sprintf("test_%d_%d", os.Getpid(), slots.Add(1))
	w.cfg.Admin.Listen = "" // tests run beside each other
	w.cfg.Sink.RetryMax = 2 * time.Second
	w.cfg.Sink.Checkpoint = 50 * time.Millisecond // so that tests need not wait two seconds for every acknowledgement
	tb.Cleanup(func() { w.dropSlot() })
	return w
}

// version is the major version of the world's server.
func (w *world) version() (major int) {
	w.tb.Helper()
	if err := w.db.QueryRow(w.tb.Context(), `SELECT current_setting('server_version_num')::int / 10000`).Scan(&major); err != nil {
		w.tb.Fatal(err)
	}
	return major
}

// dropSlot frees the slot, which would keep the database from being dropped.
func (w *world) dropSlot() {
	conn, err := pgx.Connect(context.Background(), w.source)
	if err != nil {
		return // the server of this test is gone already
	}
	defer conn.Close(context.Background())
	waitFor(w.tb, "the slot to be free", func() error {
		_, err := conn.Exec(context.Background(), `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`,
			w.cfg.Source.Slot)
		return err
	})
}

// destination makes an external database for a tenant and adds it to the configuration. It returns its connection string.
func (w *world) destination(tenant, name string, mappings ...string) string {
	w.tb.Helper()
	dsn := pgtest.Database(w.tb, w.cluster)
	w.addDestination(tenant, name, dsn, mappings...)
	return dsn
}

func (w *world) addDestination(tenant, name, dsn string, mappings ...string) {
	w.cfg.Destinations.Static = append(w.cfg.Destinations.Static,
		config.Static{Tenant: tenant, Name: name, DSN: secret.New(dsn), Mappings: mappings})
}

// exec runs statements on the primary, as one implicit transaction.
func (w *world) exec(sql string, args ...any) {
	w.tb.Helper()
	exec(w.tb, w.db, sql, args...)
}

func exec(tb testing.TB, db *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := db.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func connect(tb testing.TB, dsn string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// running is a pipeline in this process.
type running struct {
	*pipeline.Pipeline
	tb   testing.TB
	stop context.CancelFunc
	done chan error
}

func (w *world) start() *running {
	w.tb.Helper()
	return w.startWith(func(*pipeline.Pipeline) {})
}

// startWith starts a pipeline after a change.
func (w *world) startWith(change func(*pipeline.Pipeline)) *running {
	w.tb.Helper()
	log := zaptest.NewLogger(w.tb, zaptest.Level(zap.InfoLevel))
	ctx, cancel := context.WithCancel(context.Background())
	pl, err := pipeline.Open(ctx, w.cfg, log, w.parts...)
	if err != nil {
		cancel()
		w.tb.Fatal(err)
	}
	if w.unwatched {
		pl.Watcher.Streaming = func() bool { return false }
	}
	pl.Reader.StatusInterval = 100 * time.Millisecond // so that tests need not wait a second for every acknowledgement
	change(pl)
	r := &running{Pipeline: pl, tb: w.tb, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- pl.Run(ctx) }()
	w.runs = append(w.runs, r)
	w.tb.Cleanup(r.end)
	return r
}

// end stops the pipeline as SIGTERM does. It may be called again.
func (r *running) end() {
	r.tb.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	if err := <-r.done; err != nil {
		r.tb.Errorf("the pipeline ended with: %v", err)
	}
}

// waitFor polls until f succeeds: soon at first, and then seldom, since most look-ups are a connection of their own.
func waitFor(tb testing.TB, what string, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for pause := 5 * time.Millisecond; ; pause = min(pause*5/4, 100*time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("waited a minute for %s: %v", what, err)
		}
		<-time.After(pause)
	}
}

// synced waits until everything that is committed on the primary now was acknowledged to the slot, and until no destination of a running
// pipeline has rows to copy: copies do not hold the slot.
func (w *world) synced() {
	w.tb.Helper()
	w.acknowledged()
	waitFor(w.tb, "the copies to end", func() error {
		for _, r := range w.runs {
			if r.stop == nil {
				continue
			}
			for _, d := range r.Router.Destinations() {
				if s := d.Status(); s.State == ledger.Backfilling {
					return fmt.Errorf("%s is %s (%d rows copied)", d, s.State, s.Copied)
				}
			}
		}
		return nil
	})
}

// acknowledged waits until everything that is committed on the primary now was acknowledged to the slot.
func (w *world) acknowledged() {
	w.tb.Helper()
	var target string
	if err := w.db.QueryRow(w.tb.Context(), `SELECT pg_current_wal_insert_lsn()::text`).Scan(&target); err != nil {
		w.tb.Fatal(err)
	}
	waitFor(w.tb, "the slot to be confirmed up to "+target, func() error {
		var confirmed string
		var there bool
		err := w.db.QueryRow(w.tb.Context(), `SELECT coalesce(confirmed_flush_lsn::text, ''), coalesce(confirmed_flush_lsn >= $2::pg_lsn, false)
			FROM pg_replication_slots WHERE slot_name = $1`, w.cfg.Source.Slot, target).Scan(&confirmed, &there)
		if err != nil || there {
			return err
		}
		return fmt.Errorf("it is at %s", confirmed)
	})
}

// query returns a query's rows as text, one line a row.
func query(tb testing.TB, dsn, sql string, args ...any) []string {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(tb.Context(), sql, append([]any{pgx.QueryExecModeExec, pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var fields []string
		for _, v := range row.RawValues() {
			if v == nil {
				fields = append(fields, "NULL")
				continue
			}
			b, err := json.Marshal(string(v))
			if err != nil {
				return "", err
			}
			fields = append(fields, string(b))
		}
		return strings.Join(fields, "|"), nil
	})
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return lines
}

// What the default mappings should give, as SQL on the primary that shares nothing with them.
const (
	expectedChannels = `SELECT id, "projectUserId", type::text, value, "isPrimary" IS NOT NULL, "isVerified", "usedForAuth" IS NOT NULL,
		"createdAt"::timestamp FROM "ContactChannel" WHERE "tenancyId" = $1 ORDER BY id`
	actualChannels = `SELECT id, user_id, type, value, is_primary, is_verified, used_for_auth, created_at FROM contact_channels ORDER BY id`
	expectedUsers  = `SELECT u."projectUserId", u."displayName", u."profileImageUrl", max(c.value), coalesce(bool_or(c."isVerified"), false),
		coalesce(u."signedUpAt", u."createdAt")::timestamp, coalesce(u."clientMetadata", '{}')::text, coalesce(u."clientReadOnlyMetadata", '{}')::text,
		coalesce(u."serverMetadata", '{}')::text, u."isAnonymous"
		FROM "ProjectUser" u LEFT JOIN "ContactChannel" c ON c."tenancyId" = u."tenancyId" AND c."projectUserId" = u."projectUserId"
			AND c.type = 'EMAIL' AND c."isPrimary" = 'TRUE'
		WHERE u."tenancyId" = $1 GROUP BY u."tenancyId", u."projectUserId" ORDER BY u."projectUserId"`
	actualUsers = `SELECT id, display_name, profile_image_url, primary_email, primary_email_verified, signed_up_at, client_metadata::text,
		client_read_only_metadata::text, server_metadata::text, is_anonymous FROM users ORDER BY id`
)

// equal fails unless the external database is the primary's projection for that tenant.
func (w *world) equal(tenant, dsn string) {
	w.tb.Helper()
	if diff := w.diff(tenant, dsn); diff != "" {
		w.tb.Error(diff)
	}
}

// diff tells how the external database differs from the primary's projection for that tenant.
func (w *world) diff(tenant, dsn string) string {
	w.tb.Helper()
	all := ""
	for _, q := range []struct{ name, expected, actual string }{
		{"contact_channels", expectedChannels, actualChannels}, {"users", expectedUsers, actualUsers},
	} {
		want, got := query(w.tb, w.source, q.expected, tenant), query(w.tb, dsn, q.actual)
		if diff := cmp.Diff(want, got); diff != "" {
			all += fmt.Sprintf("%s of tenant %s differs (-primary +external):\n%.4000s", q.name, tenant, diff)
		}
	}
	return all
}
