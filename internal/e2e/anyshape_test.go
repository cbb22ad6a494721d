package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// TestAnyShape: whatever the primary's tables, the targets and the rights are, and whatever happens to them, within a bounded time
// both sides are equal, by SQL that is not Outflow's, or Outflow says by name why they are not. A history follows from its seed.
func TestAnyShape(t *testing.T) {
	t.Parallel()
	first := uint64(110)
	if os.Getenv("OUTFLOW_TEST_SEED") != "" {
		first = seed(t)
	}
	all := &tally{steps: map[string]int{}, failed: map[string]int{}, refused: map[string]int{}}
	defer func() { t.Log(all) }()
	for i := range size(t, "SHAPES", 5) {
		n := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) { playShape(t, n, all) })
	}
}

func playShape(t *testing.T, seed uint64, all *tally) {
	w := newWorld(t, pgtest.Shared(t))
	r := rand.New(rand.NewPCG(seed, 9))
	s := newShape(r, w.version(), w.extensions())
	steps := newHistory(r, s, size(t, "STEPS", 20))
	p := &player{world: w, shape: s, seed: seed, tally: all}
	defer p.end()
	p.build()
	for _, step := range steps {
		if !p.play(step) {
			break
		}
	}
	all.history(p)
	t.Logf("seed %d: %d steps, ended %s", seed, len(steps), cmp.Or(p.refusal, "equal"))
}

// extensions are those of the primary that shapes use.
func (w *world) extensions() []string {
	w.tb.Helper()
	all := query(w.tb, w.source, `SELECT name FROM pg_available_extensions WHERE name IN ('citext', 'ltree')`)
	for i, quoted := range all {
		all[i] = strings.Trim(quoted, `"`)
		w.exec("CREATE EXTENSION " + all[i])
	}
	return all
}

// player plays a history against servers and an Outflow process.
type player struct {
	*world
	shape   *shape
	seed    uint64
	tally   *tally
	targets []string // of the tenants that have one
	role    string   // that outflow runs as, "" for the superuser
	file    string   // the configuration
	run     *liveProcess
	past    []string // what has happened, for a failure's message
	byHand  bool     // a person has changed the publication, so what then breaks is no fault of Outflow's
	refusal string   // the last judgement's, "" for equal
	init    string   // what outflow init said last where it failed
}

// build makes the primary's tables, the targets and the configuration.
func (p *player) build() {
	p.exec(`CREATE TYPE shape_enum AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN shape_domain AS int CHECK (VALUE > -1000000); CREATE SCHEMA "Other Schema";
		CREATE COLLATION shape_caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
	p.cfg.Source.Tables, p.cfg.Source.Tombstones = nil, nil
	p.cfg.Sink.BatchRows = p.shape.batch
	var mappings []string
	for _, t := range p.shape.tables {
		p.note("%s", t.create(p.shape, t.name))
		p.exec(t.create(p.shape, t.name))
		p.cfg.Source.Tables = append(p.cfg.Source.Tables, config.Table{Name: t.configured(), Tenant: "tenant"})
		yaml := t.mapping(p.shape)
		p.note("%s", yaml)
		p.world.mapping("m_"+t.target, yaml)
		mappings = append(mappings, "m_"+t.target)
	}
	for i, encoding := range []string{"UTF8", p.shape.encoding} {
		dsn := p.encoded(encoding)
		p.extend(dsn)
		p.targets = append(p.targets, dsn)
		p.addDestination(p.shape.tenant.tenants[i], "main", dsn, mappings...)
	}
	if p.shape.role {
		p.role = p.newRole()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(p.tb, err)
	p.cfg.Admin.Listen, p.cfg.Admin.Token = listener.Addr().String(), secret.New(adminToken)
	must(p.tb, listener.Close())
	p.note("tenants %s: %q; a role of its own: %t; the second target is %s; batches of %d rows", p.shape.tenant.typ, p.shape.tenant.tenants,
		p.shape.role, p.shape.encoding, p.shape.batch)
}

// encoded makes an external database with an encoding.
func (p *player) encoded(encoding string) string {
	dsn := pgtest.Database(p.tb, p.cluster)
	if encoding == "UTF8" {
		return dsn
	}
	u, err := pgx.ParseConfig(dsn)
	must(p.tb, err)
	name := identifier(u.Database)
	must(p.tb, p.cluster.DropDatabase(p.tb.Context(), u.Database))
	must(p.tb, p.cluster.Exec(p.tb.Context(), "", fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C'", name, encoding)))
	return dsn
}

func (p *player) note(format string, args ...any) {
	p.past = append(p.past, fmt.Sprintf(format, args...))
}

// fail reports a broken promise, with all that leads to it.
func (p *player) fail(format string, args ...any) {
	p.tb.Helper()
	log := ""
	if p.run != nil {
		log = tailOf(p.run.out.String(), 12000)
	}
	p.tb.Errorf("%s\n\nmake shapes SEED=%d RUNS=1 repeats it. The history:\n%s\n\nthe end of Outflow's log:\n%s", fmt.Sprintf(format, args...), p.seed,
		strings.Join(p.past, "\n"), log)
}

func tailOf(text string, most int) string { return text[max(0, len(text)-most):] }

// sqlChange runs a transaction on the primary. Changes of rows that the primary refuses are undone alone, as an application does.
func (p *player) sqlChange(s shapeStep) error {
	ctx := context.WithoutCancel(p.tb.Context())
	if s.ddl {
		_, err := p.db.Exec(ctx, "SET statement_timeout = '30s';\n"+strings.Join(s.sql, ";\n"))
		return err
	}
	tx, err := p.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var faults []error
	for _, sql := range s.sql {
		if sql == "rollback" {
			return errors.Join(faults...)
		}
		sub, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := sub.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			faults = append(faults, err)
			if err := sub.Rollback(ctx); err != nil {
				return err
			}
		} else if err := sub.Commit(ctx); err != nil {
			return err
		}
	}
	return errors.Join(append(faults, tx.Commit(ctx))...)
}

// refusedByConstraint tells whether only constraints have refused changes of rows, which the generator expects.
func refusedByConstraint(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (strings.HasPrefix(pgErr.Code, "23") || pgErr.Code == "21000")
}

// tally counts what a run has shown.
type tally struct {
	mu                     sync.Mutex
	histories, equal       int
	ended                  int // histories at whose end the two sides were equal
	steps, failed, refused map[string]int
}

func (t *tally) count(in map[string]int, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in[what]++
}

func (t *tally) history(p *player) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.histories++
	if p.refusal == "" && !p.tb.Failed() {
		t.ended++
	}
}

var variable = regexp.MustCompile(`"[^"]*"|'[^']*'|[0-9a-f]{8}-[0-9a-f-]{27}|/tmp/\S+|\d+`)

// cause is a message without what differs from one history to the next.
func cause(message string) string {
	return fmt.Sprintf("%.160s", variable.ReplaceAllString(message, "…"))
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d shapes with a history each; %d ended equal. Judgements: %d equal, refused:", t.histories, t.ended, t.equal)
	for _, part := range []map[string]int{t.refused, t.steps, t.failed} {
		for _, what := range slices.SortedFunc(maps.Keys(part), func(a, b string) int { return part[b] - part[a] }) {
			fmt.Fprintf(&b, "\n  %5d %s", part[what], what)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// extend gives an external database the extensions of the primary.
func (p *player) extend(dsn string) {
	for _, extension := range query(p.tb, p.source, `SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'`) {
		exec(p.tb, connect(p.tb, dsn), "CREATE EXTENSION "+strings.Trim(extension, `"`))
	}
}
