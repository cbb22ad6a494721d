package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// soak is a process whose destinations come and go: added, removed, dead, reborn, their strings edited.
type soak struct {
	*world
	t       *testing.T
	rnd     *rand.Rand
	p       *process
	url     string
	free    []freed // databases without a destination, the longest free first
	tenants []*soakTenant
	samples []sample
	began   time.Time
}

// freed is a database without a destination.
type freed struct {
	dsn   string
	since time.Time
}

// soakTenant is a tenant that may have a destination.
type soakTenant struct {
	id   string
	live bool   // there is a destination
	dsn  string // of the database, "" where the destination has an address without a server
}

// dead is an address without a server.
const dead = "postgres://user:password%d@127.0.0.1:1/nothing?sslmode=disable&application_name=n"

// sample is what a running process holds at a time.
type sample struct {
	at     float64 // seconds
	values map[string]float64
}

// allowed is by how much a value may grow over the run, as a share of its mean and in absolute terms: the larger counts.
var allowed = map[string]struct{ share, absolute float64 }{
	"go_goroutines":                 {0.15, 40},
	"process_open_fds":              {0.15, 20},
	"process_resident_memory_bytes": {0.15, 48 << 20},
	"connections":                   {0.15, 15}, // of outflow to the primary and all targets
}

// For 30 minutes 300 destinations come and go (make soak), in make test fewer for some seconds. The holdings of the process stay flat, and
// are as before the first destination when all destinations have gone.
func TestSoak(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	lasts := lasting(t, 12*time.Second)
	s := newSoak(t, size(t, "TENANTS", 30))
	s.rest("before any destination")
	first := s.sample()
	s.began = time.Now()
	for next := s.began; time.Since(s.began) < lasts; {
		s.step()
		if now := time.Now(); now.After(next) {
			next = now.Add(max(lasts/200, 200*time.Millisecond))
			s.samples = append(s.samples, s.sample())
		}
	}
	s.judge(lasts)
	s.compare()
	for _, tenant := range s.tenants {
		if tenant.live {
			s.remove(tenant)
		}
	}
	s.rest("after all destinations have gone")
	last := s.sample()
	for _, name := range []string{"go_goroutines", "process_open_fds", "connections"} {
		t.Logf("%s: %.0f before, %.0f after", name, first.values[name], last.values[name])
		if last.values[name] > first.values[name]+10 {
			t.Errorf("%s: %.0f before the first destination, %.0f when all have gone", name, first.values[name], last.values[name])
		}
	}
	if code := s.p.terminate(); code != 0 {
		t.Errorf("SIGTERM has ended the process with %d", code)
	}
}

func newSoak(t *testing.T, n int) *soak {
	s := &soak{world: newWorld(t, pgtest.Shared(t)), t: t, rnd: rand.New(rand.NewPCG(seed(t), 13))}
	s.openPolicy()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.cfg.Admin.Listen, s.cfg.Admin.Token = l.Addr().String(), secret.New(adminToken)
	s.url = "http://" + l.Addr().String() + "/metrics"
	must(t, l.Close())
	for i := range n {
		tenant := &soakTenant{id: fmt.Sprintf("bbbbbbbb-bbbb-4bbb-8bbb-%012d", i)}
		s.tenants = append(s.tenants, tenant)
		s.existing(20, tenant.id)
	}
	for range max(n/6, 5) {
		s.free = append(s.free, freed{dsn: pgtest.Database(t, s.cluster)})
	}
	s.p = launch(t, append([]string{"run", "--config", s.configFile(), "--set", "destinations.refresh=500ms", "--set", "sink.park_after=2s",
		"--set", "sink.idle_close=2s"}, "--set", "sink.retry_max=2s")...)
	s.p.says(`"streaming"`)
	return s
}

// step writes some rows and changes some destinations.
func (s *soak) step() {
	s.t.Helper()
	for range 3 {
		tenant := s.tenants[s.rnd.IntN(len(s.tenants))]
		s.exec(`UPDATE "ProjectUser" SET "displayName" = $2 WHERE "tenancyId" = $1`, tenant.id, fmt.Sprint("at ", time.Since(s.began)))
	}
	for range 1 + len(s.tenants)/60 {
		switch tenant := s.tenants[s.rnd.IntN(len(s.tenants))]; {
		case !tenant.live:
			s.add(tenant)
		case s.rnd.IntN(2) == 0:
			s.remove(tenant)
		case tenant.dsn == "":
			s.edit(tenant, fmt.Sprintf(dead, s.rnd.Int())) // as dead as before
		default:
			edits := []string{tenant.dsn + "&options=x", strings.Replace(tenant.dsn, "127.0.0.1", "localhost", 1), tenant.dsn} // refused, the same place, healed
			s.edit(tenant, edits[s.rnd.IntN(len(edits))])
		}
	}
	s.exec(`SELECT pg_sleep(0.05)`)
}

// add gives a tenant a destination: a free database, or an address without a server.
func (s *soak) add(tenant *soakTenant) {
	s.t.Helper()
	tenant.live, tenant.dsn = true, ""
	dsn := fmt.Sprintf(dead, s.rnd.Int())
	if len(s.free) > 0 && time.Since(s.free[0].since) > 2*time.Second && s.rnd.IntN(3) > 0 { // outflow works there no more
		dsn, s.free = s.free[0].dsn, s.free[1:]
		tenant.dsn = dsn
		db := connect(s.t, dsn)
		exec(s.t, db, `DROP TABLE IF EXISTS _stack_sync_metadata, users, contact_channels`)
		must(s.t, db.Close(s.t.Context()))
	}
	s.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn) VALUES ($1, 'main', $2)`, tenant.id, dsn)
}

func (s *soak) edit(tenant *soakTenant, dsn string) {
	s.t.Helper()
	s.exec(`UPDATE outflow.destination SET dsn = $2 WHERE tenant_id = $1`, tenant.id, dsn)
}

// remove takes a destination away. The database is for another tenant, later.
func (s *soak) remove(tenant *soakTenant) {
	s.t.Helper()
	s.exec(`DELETE FROM outflow.destination WHERE tenant_id = $1`, tenant.id)
	if tenant.dsn != "" {
		s.free = append(s.free, freed{tenant.dsn, time.Now()})
	}
	tenant.live, tenant.dsn = false, ""
}

// rest waits until the process has no destination.
func (s *soak) rest(when string) {
	s.t.Helper()
	waitFor(s.t, "the process to rest "+when, func() error {
		if n := s.connections(true); n > 0 {
			return fmt.Errorf("it has %v connections to external databases", n)
		}
		return nil
	})
	s.synced()
}

// connections counts the connections of outflow on the cluster; external: those to other databases than the primary's.
func (s *soak) connections(external bool) (n float64) {
	s.t.Helper()
	must(s.t, s.db.QueryRow(s.t.Context(), `SELECT count(*)::float8 FROM pg_stat_activity a WHERE application_name = 'outflow' AND
		(datname = current_database() AND NOT $1 OR datname IN (SELECT datname FROM pg_database WHERE datname LIKE 'testsoak%') AND datname <> current_database())`,
		external).Scan(&n))
	return n
}

// sample asks the process.
func (s *soak) sample() sample {
	s.t.Helper()
	got := sample{at: time.Since(s.began).Seconds(), values: map[string]float64{"connections": s.connections(false)}}
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url, nil)
	must(s.t, err)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	answer, err := http.DefaultClient.Do(r)
	must(s.t, err)
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if _, wanted := allowed[name]; wanted {
			if got.values[name], err = strconv.ParseFloat(value, 64); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	if len(got.values) != len(allowed) {
		s.t.Fatalf("the metrics lack some of %v: %v", allowed, got.values)
	}
	return got
}

// judge fits a line to each value, less the first third of the run, in which the process grows to its size.
func (s *soak) judge(lasts time.Duration) {
	s.t.Helper()
	steady := s.samples[len(s.samples)/3:]
	for name, may := range allowed {
		var xs, ys []float64
		least, most := math.Inf(1), 0.0
		for _, one := range steady {
			xs, ys = append(xs, one.at), append(ys, one.values[name])
			least, most = min(least, one.values[name]), max(most, one.values[name])
		}
		slope, mean := leastSquares(xs, ys)
		growth := slope * (xs[len(xs)-1] - xs[0])
		s.t.Logf("%-30s mean %12.0f, least %12.0f, most %12.0f, growth %12.0f in %s, %d samples", name, mean, least, most, growth, lasts*2/3, len(xs))
		if limit := max(may.share*mean, may.absolute); growth > limit && (!raceEnabled || name != "process_resident_memory_bytes") {
			s.t.Errorf("%s grows by %.0f; expected at most %.0f", name, growth, limit)
		}
	}
}

// leastSquares is the line through values with the least squares of distances.
func leastSquares(xs, ys []float64) (slope, mean float64) {
	var x, y, xx, xy float64
	n := float64(len(xs))
	for i := range xs {
		x, y, xx, xy = x+xs[i], y+ys[i], xx+xs[i]*xs[i], xy+xs[i]*ys[i]
	}
	if d := n*xx - x*x; d > 0 {
		slope = (n*xy - x*y) / d
	}
	return slope, y / n
}

// compare gives each living destination with a database its string, and waits until the destination is equal to the primary.
func (s *soak) compare() {
	s.t.Helper()
	for _, tenant := range s.tenants {
		if tenant.live && tenant.dsn != "" {
			s.edit(tenant, tenant.dsn)
		}
	}
	for _, tenant := range s.tenants {
		if tenant.live && tenant.dsn != "" {
			waitFor(s.t, tenant.id+" to be equal", func() error {
				if got := query(s.t, tenant.dsn, `SELECT to_regclass('users') IS NOT NULL`)[0]; got != `"t"` {
					return fmt.Errorf("it has no table")
				}
				if diff := s.diff(tenant.id, tenant.dsn); diff != "" {
					return fmt.Errorf("%s", diff)
				}
				return nil
			})
		}
	}
}

func TestLeastSquares(t *testing.T) {
	if slope, mean := leastSquares([]float64{0, 1, 2, 3}, []float64{5, 7, 9, 11}); math.Abs(slope-2) > 1e-9 || mean != 8 {
		t.Errorf("slope %v, mean %v", slope, mean)
	}
}
