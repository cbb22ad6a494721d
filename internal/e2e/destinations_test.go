package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/sink/ledger"
)

// openPolicy lets destinations.query lead to the tests' servers, which are on loopback and speak no TLS.
func (w *world) openPolicy() {
	p := &w.cfg.Destinations.Policy
	p.MinSSLMode, p.Ports, p.AllowNetworks = "disable", nil, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// writes inserts a row into outflow.destination as an application does.
func (w *world) writes(tenant, name, dsn string, mappings ...string) {
	w.tb.Helper()
	w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, mappings) VALUES ($1, $2, $3, $4)`, tenant, name, dsn, mappings)
}

// has waits until there are exactly so many destinations.
func (r *running) has(n int) {
	r.tb.Helper()
	waitFor(r.tb, fmt.Sprintf("%d destinations", n), func() error {
		if all := r.Router.Destinations(); len(all) != n {
			return fmt.Errorf("there are %v", all)
		}
		return nil
	})
}

// TestDestinationsOfTheApplication has an application add, change, disable and remove its tenants' databases while changes flow.
func TestDestinationsOfTheApplication(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.cfg.Destinations.Refresh = time.Hour // the notification alone must do
	w.existing(50, tenant1, tenant2)
	r := w.start()
	r.has(0)
	dsn := pgtest.Database(t, w.cluster)
	w.synced()
	began := time.Now()
	w.writes(tenant1, "main", dsn)
	r.has(1)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s to notice a new row", took)
	}
	r.caughtUp()
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "beside it")
	w.synced()
	w.equal(tenant1, dsn)

	// Another password or host is the same database: nothing is copied again.
	epoch := w.epoch(tenant1, "main")
	w.exec(`UPDATE outflow.destination SET dsn = dsn || '&port=' || $1`, portOf(dsn))
	w.exec(`UPDATE outflow.destination SET dsn = replace(dsn, '&port=' || $1, '')`, portOf(dsn))
	w.user(tenant1, "00000000-0000-4000-8000-000000999992", "after the change")
	w.synced()
	w.equal(tenant1, dsn)
	if now := w.epoch(tenant1, "main"); now != epoch {
		t.Errorf("it was copied anew: epoch %s is %s", epoch, now)
	}

	// An empty database behind the same name is filled from the tables.
	moved := pgtest.Database(t, w.cluster)
	w.exec(`UPDATE outflow.destination SET dsn = $1`, moved)
	waitFor(t, "the new database to be filled", func() error {
		if query(t, moved, `SELECT to_regclass('users')`)[0] == "NULL" {
			return errors.New("it has no table yet")
		}
		return nil
	})
	r.caughtUp()
	w.synced()
	w.equal(tenant1, moved)

	// Disabled, it holds nothing back; enabled again, it learns what it has missed.
	w.exec(`UPDATE outflow.destination SET enabled = false`)
	r.has(0)
	w.exec(`DELETE FROM "ProjectUser" WHERE "projectUserId"::text LIKE '%7'`)
	w.user(tenant1, "00000000-0000-4000-8000-000000999993", "while it was away")
	w.synced()
	if s := w.state(tenant1, "main"); s != "parked" {
		t.Errorf("the primary has noted that it is %s", s)
	}
	w.exec(`UPDATE outflow.destination SET enabled = true`)
	r.has(1)
	r.caughtUp()
	w.synced()
	w.equal(tenant1, moved)

	// A restart in between changes nothing, and takes over what was written meanwhile.
	r.end()
	other := pgtest.Database(t, w.cluster)
	w.writes(tenant2, "main", other)
	epoch = w.epoch(tenant1, "main")
	r = w.start()
	r.has(2)
	r.caughtUp()
	w.synced()
	w.equal(tenant1, moved)
	w.equal(tenant2, other)
	if now := w.epoch(tenant1, "main"); now != epoch {
		t.Errorf("the restart copied it anew: epoch %s is %s", epoch, now)
	}
	w.exec(`DELETE FROM outflow.destination WHERE tenant_id = $1`, tenant1)
	r.has(1)
}

func portOf(dsn string) string {
	_, after, _ := strings.Cut(dsn, "@")
	_, port, _ := strings.Cut(after, ":")
	port, _, _ = strings.Cut(port, "/")
	return port
}

func (w *world) epoch(tenant, name string) string {
	w.tb.Helper()
	return strings.Join(query(w.tb, w.source, `SELECT epoch FROM outflow.destination_state WHERE tenant_id = $1 AND name = $2`, tenant, name), " ")
}

// One tenant's broken row halts its own destination, says why in words that the tenant may read, and touches nobody else.
func TestBrokenDestinations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	port, err := strconv.Atoi(portOf(w.source))
	must(t, err)
	w.cfg.Destinations.Policy.Ports = []uint16{5432, uint16(port)}
	w.cfg.Sink.ParkAfter = 500 * time.Millisecond
	w.existing(5, tenant1, tenant2)
	static := w.destination(tenant1, "operator")
	r := w.start()
	good := pgtest.Database(t, w.cluster)
	const broken = "name: mine\ntarget: t\nsteps:\n  - from: ProjectUser\n    when: upsert\n    sql: COMMIT\n"
	w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, mappings, definitions) VALUES
		($1, 'no string', '', NULL, NULL), ($1, 'file', 'postgres://u:canary@h/d?sslrootcert=/etc/passwd', NULL, NULL),
		($1, 'network', 'postgres://u:canary@10.0.0.1/d?sslmode=disable', NULL, NULL), ($1, 'port', 'postgres://u:canary@127.0.0.1:22/d?sslmode=disable', NULL, NULL),
		($1, 'mapping', $2, '{nonsense}', NULL), ($1, 'own', $2, NULL, ARRAY[$3]), ('acme', 'main', $2, NULL, NULL), ($1, 'operator', 'postgres://h/d', NULL, NULL),
		($1, 'good', $2, NULL, NULL)`, tenant1, good, broken)
	r.has(9)
	becomes(t, r.destination("good"), ledger.Streaming)
	for name, want := range map[string][2]string{
		"no string": {"configuration", "it is empty"},
		"file":      {"configuration", `"sslrootcert" is not allowed; allowed are host`},
		"network":   {"blocked", "address 10.0.0.1 is not public"},
		"port":      {"blocked", "port 22 is not allowed; allowed are 5432"},
		"mapping":   {"configuration", `there is no mapping "nonsense"; there are: contact_channels, users`},
		"own":       {"configuration", `definitions[1]:6:10: `},
		"main":      {"configuration", "tenant_id: no uuid"},
	} {
		text := becomes(t, r.destination(name), ledger.Halted)
		contains(t, text, want[1])
		if strings.Contains(text, "canary") {
			t.Errorf("%s: the password is in %s", name, text)
		}
		waitFor(t, "the class to be noted of "+name, func() error {
			if got := query(t, w.source, `SELECT state, error_class FROM outflow.destination_state WHERE name = $1`, name); strings.Join(got, "") != `"halted"|"`+want[0]+`"` {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "beside them")
	w.synced() // none of them holds the slot for long
	w.equal(tenant1, good)
	w.equal(tenant1, static)

	// Mended, it works.
	mended := pgtest.Database(t, w.cluster)
	w.exec(`UPDATE outflow.destination SET dsn = $1 WHERE name = 'network'`, mended)
	becomes(t, r.destination("network"), ledger.Streaming)
	waitFor(t, "the class to be taken back", func() error {
		if got := query(t, w.source, `SELECT state, error_class FROM outflow.destination_state WHERE name = 'network'`); got[0] != `"streaming"|NULL` {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	w.synced()
	w.equal(tenant1, mended)
}

// TestMappingsOfTenants has a tenant write mappings: of the columns that the operator allows, in that tenant's database alone.
func TestMappingsOfTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, price int, secret text, PRIMARY KEY (tenant, id))`)
	w.exec(`INSERT INTO item SELECT $1, n, 'note ' || n, n, 'canary' FROM generate_series(1, 20) n`, tenant1)
	w.table("item", 1, "id int", "secret text") // the operator's own mapping has it, so it is published
	w.cfg.Source.Tables[len(w.cfg.Source.Tables)-1].Columns = []string{"note", "price"}
	operators := w.destination(tenant1, "operators", "item")
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	mine := func(columns, selected string) string {
		return fmt.Sprintf("name: mine\ntarget: mine\nschema: CREATE TABLE IF NOT EXISTS mine (id int PRIMARY KEY, a text, b text)\nsteps:\n"+
			"  - from: item\n    when: delete\n    sql: DELETE FROM mine t USING item r WHERE t.id = r.id\n"+
			"  - from: item\n    when: upsert\n    sql: |\n      INSERT INTO mine (id, %s) SELECT r.id, %s FROM item r\n"+
			"      ON CONFLICT (id) DO UPDATE SET (id, %[1]s) = (excluded.id, excluded.%[3]s)\nkeys:\n  item: SELECT id FROM mine\n",
			columns, selected, strings.ReplaceAll(columns, ", ", ", excluded."))
	}
	define := func(definition string) {
		t.Helper()
		w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, definitions) VALUES ($1, 'tenants', $2, ARRAY[$3])
			ON CONFLICT (tenant_id, name) DO UPDATE SET definitions = excluded.definitions`, tenant1, dsn, definition)
	}
	define(mine("a", "r.note"))
	r.has(2)
	becomes(t, r.destination("tenants"), ledger.Streaming)
	w.synced()
	same(t, dsn, `SELECT count(*), count(a), count(b), min(a) FROM mine`, `"20"|"20"|"0"|"note 1"`)

	// Changed while rows change: the new column is filled in all of them.
	define(mine("a, b", "r.note, r.price::text"))
	w.exec(`UPDATE item SET price = price + 100 WHERE id > 10; DELETE FROM item WHERE id = 7`)
	waitFor(t, "the new column", func() error {
		if got := query(t, dsn, `SELECT count(b) FROM mine`)[0]; got != `"19"` {
			return fmt.Errorf("it is filled in %s rows", got)
		}
		return nil
	})
	w.synced()
	same(t, dsn, `SELECT id, b FROM mine WHERE id IN (1, 7, 20) ORDER BY 1`, `"1"|"1"`, `"20"|"120"`)

	// The secret column is in the stream, for the operator's mapping; to a tenant's it does not exist.
	define(mine("a, b", "r.note, r.secret"))
	text := becomes(t, r.destination("tenants"), ledger.Halted)
	contains(t, text, "definitions[1]:11:56: ", "r.secret does not exist", "item has the columns tenant, id, note, price;")
	same(t, operators, `SELECT count(*) FROM item_copy WHERE secret = 'canary'`, `"19"`)
	if rows := query(t, dsn, `SELECT * FROM mine WHERE mine::text LIKE '%canary%'`); len(rows) > 0 {
		t.Errorf("the secret is there: %s", rows)
	}
	define(mine("a, b", "r.note, r.price::text"))
	becomes(t, r.destination("tenants"), ledger.Streaming)
}

// A query that fails leaves the destinations as they are, and says so.
func TestDestinationsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.cfg.Destinations.Refresh = 100 * time.Millisecond
	r := w.start()
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "main", dsn)
	r.has(1)
	w.exec(`ALTER TABLE outflow.destination RENAME TO elsewhere`)
	waitFor(t, "the fault to be known", func() error {
		if err := r.DestinationsFault(); err == nil || !strings.Contains(err.Error(), "destinations.query") {
			return fmt.Errorf("it is %w", err)
		}
		return nil
	})
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "meanwhile")
	w.synced()
	w.equal(tenant1, dsn)
	w.exec(`ALTER TABLE outflow.elsewhere RENAME TO destination`)
	w.exec(`DELETE FROM outflow.destination`)
	r.has(0)
	if err := r.DestinationsFault(); err != nil {
		t.Errorf("it is well again, and still says: %v", err)
	}
	w = newWorld(t, pgtest.Shared(t))
	for sql, want := range map[string]string{
		`SELECT 'x' AS tenant_id, 'y' AS name`:                                           "the query returns no column dsn",
		`SELECT 'x' AS tenant_id, 'y' AS name, 'z' AS dsn, 1 AS color`:                   `the query returns a column "color" that is unknown`,
		`SELECT 'x' AS tenant_id, 'y' AS name, 'z' AS dsn, 'users' AS mappings`:          "mappings and definitions are text[]",
		`SELECT tenant_id, name, dsn FROM nowhere`:                                       `relation "nowhere" does not exist`,
		`WITH gone AS (DELETE FROM "ProjectUser" RETURNING 1) SELECT count(*) FROM gone`: "read-only transaction",
	} {
		w.cfg.Destinations.Query = sql
		w.refused(sql, "destinations.query", want)
	}
	// The query reads passwords, and a server repeats a value that it cannot convert.
	w.cfg.Destinations.Query = `SELECT 'x' AS tenant_id, 'y' AS name, v::int::text AS dsn FROM (SELECT 'postgres://u:canary@h/db ' || random() AS v) AS o`
	w.refused(w.cfg.Destinations.Query, "destinations.query", "may have values of rows")
	if _, err := pipeline.Open(t.Context(), w.cfg, zap.NewNop()); strings.Contains(fmt.Sprint(err), "canary") {
		t.Errorf("a password is told: %v", err)
	}
}

// TestDestinationsComeAndGoUnderLoad races changes of the configuration with changes of the rows; in the end all are equal.
func TestDestinationsComeAndGoUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	tenants := []string{tenant1, tenant2, tenant3}
	w.existing(100, tenants...)
	r := w.start()
	dsns := map[string][]string{}
	for _, tenant := range tenants {
		dsns[tenant] = []string{pgtest.Database(t, w.cluster), pgtest.Database(t, w.cluster)}
		w.writes(tenant, "main", dsns[tenant][0])
	}
	l := w.load(seed(t), tenants...)
	random := rand.New(rand.NewPCG(seed(t), 1))
	for range 40 {
		tenant := tenants[random.IntN(len(tenants))]
		switch random.IntN(4) {
		case 0:
			w.exec(`UPDATE outflow.destination SET enabled = NOT enabled WHERE tenant_id = $1`, tenant)
		case 1:
			w.exec(`UPDATE outflow.destination SET dsn = $2 WHERE tenant_id = $1`, tenant, dsns[tenant][random.IntN(2)])
		case 2:
			w.exec(`UPDATE outflow.destination SET mappings = CASE WHEN mappings = '{users}' THEN '{contact_channels,users}'::text[] ELSE '{users}' END WHERE tenant_id = $1`, tenant)
		case 3:
			w.exec(`DELETE FROM outflow.destination WHERE tenant_id = $1`, tenant)
			w.writes(tenant, "main", dsns[tenant][random.IntN(2)])
		}
		w.exec(`SELECT pg_sleep($1)`, random.Float64()/5)
	}
	w.exec(`UPDATE outflow.destination SET enabled = true, mappings = NULL`)
	l.end()
	r.has(3)
	for _, tenant := range tenants {
		dsn := strings.Trim(query(t, w.source, `SELECT dsn FROM outflow.destination WHERE tenant_id = $1`, tenant)[0], `"`)
		waitFor(t, "equality of "+tenant, func() error {
			if query(t, dsn, `SELECT to_regclass('users') IS NULL OR to_regclass('contact_channels') IS NULL`)[0] == `"t"` {
				return errors.New("there are no tables")
			}
			if diff := w.diff(tenant, dsn); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
	r.caughtUp()
	w.synced()
}

// A process that waits as standby knows the destinations when it takes over, and copies none of them again.
func TestStandbyKnowsTheDestinations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.openPolicy()
	w.existing(20, tenant1)
	file := w.configFile()
	first := launch(t, "run", "--config", file)
	first.says(`"streaming"`)
	second := launch(t, "run", "--config", file)
	second.says("waiting as standby")
	dsn := pgtest.Database(t, w.cluster)
	w.writes(tenant1, "main", dsn)
	first.says("all rows are copied")
	w.synced()
	epoch := w.epoch(tenant1, "main")
	if code := first.terminate(); code != 0 {
		t.Errorf("the first ended with %d", code)
	}
	w.user(tenant1, "00000000-0000-4000-8000-000000999991", "after the hand-over")
	second.says(`"streaming"`)
	w.synced()
	w.equal(tenant1, dsn)
	if now := w.epoch(tenant1, "main"); now != epoch {
		t.Errorf("the hand-over copied it anew: epoch %s is %s", epoch, now)
	}
	if code := second.terminate(); code != 0 {
		t.Errorf("the second ended with %d", code)
	}
}
