package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/config"
)

// process is outflow as a process of its own: this test binary, which main_test lets stand in for it.
type process struct {
	tb  testing.TB
	cmd *osexec.Cmd
	out *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// configFile writes the world's configuration to a file.
func (w *world) configFile() string {
	w.tb.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "source:\n  dsn: %q\n  slot: %s\n", w.cfg.Source.DSN.Reveal(), w.cfg.Source.Slot)
	b.WriteString("  tables:\n")
	for _, t := range w.cfg.Source.Tables {
		fmt.Fprintf(&b, "    - {name: %q, tenant: %q}\n", t.Name, t.Tenant)
	}
	if ts := w.cfg.Source.Tombstones; ts != nil {
		fmt.Fprintf(&b, "  tombstones: {table: %s, tenant: %s, table_name: %s, key: %s, row: %s}\n", ts.Table, ts.Tenant, ts.TableName, ts.Key, ts.Row)
	}
	policy := w.cfg.Destinations.Policy
	fmt.Fprintf(&b, "destinations:\n  policy: {min_sslmode: %s, allow_networks: [%s], ports: []}\n", policy.MinSSLMode, strings.Trim(fmt.Sprint(policy.AllowNetworks), "[]"))
	b.WriteString("  static:\n")
	for _, d := range w.cfg.Destinations.Static {
		fmt.Fprintf(&b, "    - {tenant: %q, name: %q, dsn: %q, mappings: [%s]}\n", d.Tenant, d.Name, d.DSN.Reveal(), strings.Join(d.Mappings, ", "))
	}
	fmt.Fprintf(&b, "mappings: [%s]\n", strings.Join(w.cfg.Mappings, ", "))
	fmt.Fprintf(&b, "sink: {retry_max: %s, queue_bytes: %s, checkpoint: %s, batch_rows: %d, connect_timeout: %s, statement_timeout: %s, lock_timeout: %s}\n",
		w.cfg.Sink.RetryMax, w.cfg.Sink.QueueBytes, w.cfg.Sink.Checkpoint, w.cfg.Sink.BatchRows, w.cfg.Sink.ConnectTimeout, w.cfg.Sink.StatementTimeout,
		w.cfg.Sink.LockTimeout)
	fmt.Fprintf(&b, "admin: {listen: %q, token: %q}\n", w.cfg.Admin.Listen, w.cfg.Admin.Token.Reveal())
	file := filepath.Join(w.tb.TempDir(), "outflow.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		w.tb.Fatal(err)
	}
	return file
}

// launch starts outflow with arguments.
func launch(tb testing.TB, args ...string) *process {
	tb.Helper()
	return launchProgram(tb, os.Args[0], []string{"OUTFLOW_TEST_EXEC=1", "GORACE=halt_on_error=1 exitcode=66"}, args...)
}

// launchProgram starts a program with more variables in its environment.
func launchProgram(tb testing.TB, program string, environ []string, args ...string) *process {
	tb.Helper()
	p := &process{tb: tb, out: &syncBuffer{}}
	p.cmd = osexec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), environ...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.kill()
		}
		if out := p.out.String(); tb.Failed() && strings.Contains(out, "panic") || strings.Contains(out, "DATA RACE") {
			tb.Errorf("outflow's output:\n%.8000s", out)
		}
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// terminate sends SIGTERM and returns the exit code.
func (p *process) terminate() int {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// says waits until the process has printed the text.
func (p *process) says(text string) {
	p.tb.Helper()
	waitFor(p.tb, fmt.Sprintf("outflow to say %q", text), func() error {
		if strings.Contains(p.out.String(), text) {
			return nil
		}
		return fmt.Errorf("it said %.2000s", p.out)
	})
}

// ledgerMapping appends every net change to a journal in the external database: a change that is applied twice shows as
// a row that is there twice, also where the tables themselves would converge.
const ledgerMapping = `
name: ledger
target: ledger
schema: |
  CREATE TABLE IF NOT EXISTS ledger (n bigserial, id int NOT NULL, version int NOT NULL, sequence_id bigint NOT NULL, op text NOT NULL);
  CREATE TABLE IF NOT EXISTS counter (id int PRIMARY KEY, version int NOT NULL);
steps:
  - from: Counter
    when: any
    sql: INSERT INTO ledger (id, version, sequence_id, op) SELECT c.id, coalesce(c.version, -1), c._sequence_id, c._op FROM "Counter" c
  - from: Counter
    when: delete
    sql: DELETE FROM counter t USING "Counter" c WHERE t.id = c.id
  - from: Counter
    when: upsert
    sql: |
      INSERT INTO counter (id, version) SELECT c.id, c.version FROM "Counter" c
      ON CONFLICT (id) DO UPDATE SET version = excluded.version
keys:
  Counter: SELECT id FROM counter
`

// withLedger adds a table of counters to the primary, and the ledger mapping to the world.
func (w *world) withLedger() {
	w.tb.Helper()
	w.exec(`CREATE TABLE "Counter" ("tenancyId" uuid, id int, version int NOT NULL, PRIMARY KEY ("tenancyId", id))`)
	w.cfg.Source.Tables = append(w.cfg.Source.Tables, config.Table{Name: "Counter", Tenant: "tenancyId"})
	w.addMapping("ledger", ledgerMapping)
}

// addMapping puts a mapping file into the configuration.
func (w *world) addMapping(name, text string) {
	w.tb.Helper()
	file := filepath.Join(w.tb.TempDir(), name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.tb.Fatal(err)
	}
	w.cfg.Mappings = append(w.cfg.Mappings, file)
}

// journalFromHere waits until every destination has copied what was there and begins the journals again. A copy applies rows
// that the stream has brought as well, which is no fault: an upsert that changes nothing.
func (w *world) journalFromHere() {
	w.tb.Helper()
	for _, d := range w.cfg.Destinations.Static {
		w.waitState(d.Tenant, d.Name, "streaming")
		exec(w.tb, connect(w.tb, d.DSN.Reveal()), `TRUNCATE ledger`)
	}
}

// exactlyOnce checks the journal: no version of a row twice, versions in order, and the last one is the primary's.
func (w *world) exactlyOnce(tenant, dsn string) {
	w.tb.Helper()
	for what, sql := range map[string]string{
		"changes applied twice": `SELECT id, version, sequence_id, op, count(*) FROM ledger GROUP BY 1, 2, 3, 4 HAVING count(*) > 1`,
		"changes out of order": `SELECT id, version, before FROM (SELECT id, version, lag(version) OVER (PARTITION BY id ORDER BY n) AS before
			FROM ledger WHERE op = 'upsert') l WHERE before >= version`,
	} {
		if rows := query(w.tb, dsn, sql); len(rows) > 0 {
			w.tb.Errorf("%s: %d, such as %s", what, len(rows), rows[0])
		}
	}
	want := query(w.tb, w.source, `SELECT id, version FROM "Counter" WHERE "tenancyId" = $1 ORDER BY id`, tenant)
	got := query(w.tb, dsn, `SELECT id, version FROM counter ORDER BY id`)
	if strings.Join(want, "\n") != strings.Join(got, "\n") {
		w.tb.Errorf("counters of %s differ: the primary has %d, the external database %d", tenant, len(want), len(got))
	}
}

// load writes a random mix for some tenants until it is stopped. Versions of counters never repeat, over all tenants.
type load struct {
	w       *world
	tenants []string
	rnd     *rand.Rand
	db      *pgx.Conn
	version int
	users   map[string][]string
	stop    chan struct{}
	done    chan error
	pause   time.Duration
}

func (w *world) load(seed uint64, tenants ...string) *load {
	w.tb.Helper()
	l := &load{w: w, tenants: tenants, rnd: rand.New(rand.NewPCG(seed, 1)), db: connect(w.tb, w.source), users: map[string][]string{},
		stop: make(chan struct{}), done: make(chan error, 1), pause: time.Millisecond}
	go func() { l.done <- l.run() }()
	return l
}

// end stops the load; the writer reconnects by itself where the primary was restarted.
func (l *load) end() {
	l.w.tb.Helper()
	close(l.stop)
	if err := <-l.done; err != nil {
		l.w.tb.Fatal(err)
	}
}

func (l *load) run() error {
	tick := time.NewTicker(l.pause)
	defer tick.Stop()
	failures := 0
	for {
		select {
		case <-l.stop:
			return nil
		case <-tick.C:
		}
		if err := l.transaction(); err != nil {
			if failures++; failures > 10000 {
				return err
			}
			if l.db.IsClosed() {
				if db, err := pgx.Connect(l.w.tb.Context(), l.w.source); err == nil {
					l.db = db
				}
			}
		}
	}
}

// transaction is one source transaction of one to four changes, sometimes of two tenants.
func (l *load) transaction() error {
	ctx := l.w.tb.Context()
	tx, err := l.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	for range 1 + l.rnd.IntN(4) {
		if err := l.change(tx, l.tenants[l.rnd.IntN(len(l.tenants))]); err != nil {
			return err
		}
	}
	if l.rnd.IntN(20) == 0 {
		return tx.Rollback(ctx)
	}
	return tx.Commit(ctx)
}

func (l *load) change(tx pgx.Tx, tenant string) error {
	ctx := l.w.tb.Context()
	l.version++
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", l.rnd.IntN(200))
	var err error
	switch n := l.rnd.IntN(10); {
	case n < 4:
		_, err = tx.Exec(ctx, `INSERT INTO "Counter" VALUES ($1, $2, $3) ON CONFLICT ("tenancyId", id) DO UPDATE SET version = excluded.version`,
			tenant, l.rnd.IntN(50), l.version)
	case n < 5:
		_, err = tx.Exec(ctx, `DELETE FROM "Counter" WHERE "tenancyId" = $1 AND id = $2`, tenant, l.rnd.IntN(50))
	case n < 7:
		_, err = tx.Exec(ctx, `INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName") VALUES ($1, $2, $3)
			ON CONFLICT ("tenancyId", "projectUserId") DO UPDATE SET "displayName" = excluded."displayName"`, tenant, id, fmt.Sprint("v", l.version))
	case n < 9:
		_, err = tx.Exec(ctx, `INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value)
			SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', true, $3 FROM "ProjectUser"
			WHERE "tenancyId" = $1 AND "projectUserId" = $2
			ON CONFLICT ("tenancyId", "projectUserId", type, "isPrimary") DO UPDATE SET value = excluded.value`,
			tenant, id, fmt.Sprintf("v%d@example.com", l.version))
	default:
		_, err = tx.Exec(ctx, `DELETE FROM "ProjectUser" WHERE "tenancyId" = $1 AND "projectUserId" = $2`, tenant, id)
	}
	return err
}
