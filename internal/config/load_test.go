package config_test

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/config"
	"outflow/internal/strictyaml"
)

var update = flag.Bool("update", false, "write what is, as what is wanted")

// env makes a lookup of an environment that the test gives alone.
func env(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	}
}

func load(file string, values map[string]string, flags map[string]string) (*config.Config, error) {
	return config.Load(config.LoadOptions{File: file, Flags: flags, Env: env(values), Environ: func() []string {
		var all []string
		for name, value := range values {
			all = append(all, name+"="+value)
		}
		return all
	}})
}

const url = "postgres://u@h/db"

// TestFiles loads each file of testdata and compares the faults, or what Print
// writes where there are none, with the .want beside it.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	values := map[string]string{
		"SOURCE_DSN_FILE": "testdata/secrets/dsn", "ACME_DSN": "postgres://acme:4cmes3cret@acme/db", "ACME_PASSWORD": "4cme-s3cret",
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var out bytes.Buffer
			c, err := load(file, values, nil)
			if err != nil {
				out.WriteString(err.Error() + "\n")
			} else if err := c.Print(&out); err != nil {
				t.Fatal(err)
			}
			for _, canary := range []string{"s3cret", "f1lesecret", "cret@"} {
				if strings.Contains(out.String(), canary) {
					t.Errorf("%s is shown:\n%s", canary, out.String())
				}
			}
			wanted := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(wanted, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wanted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "outflow.yaml")
	write(t, file, "source: {dsn: \"postgres://u@file/db\"}\nsink:\n  batch_rows: 1\n  max_connections: 1\n  idle_close: 1s\nmappings: [file]\n")
	values := map[string]string{
		"OUTFLOW_SINK_BATCH_ROWS": "2", "OUTFLOW_SINK_MAX_CONNECTIONS": "2", "OUTFLOW_MAPPINGS": "a, b",
		"DATABASE_URL": "postgres://u@ambient/db", "OUTFLOW_CONFIG": "x", "OUTFLOW_TEST_X": "x", "OUTFLOW_PORT_80_TCP": "tcp://x",
	}
	c, err := load(file, values, map[string]string{"sink.batch_rows": "3"})
	if err != nil {
		t.Fatal(err)
	}
	if got := []int{c.Sink.BatchRows, c.Sink.MaxConnections, int(c.Sink.IdleClose / time.Second), int(c.Sink.LockTimeout / time.Second)}; !slices.Equal(got, []int{3, 2, 1, 10}) {
		t.Errorf("flag, environment, file, default give %v", got)
	}
	if !slices.Equal(c.Mappings, []string{"a", "b"}) || c.Source.DSN.Reveal() != "postgres://u@file/db" {
		t.Errorf("%v %s", c.Mappings, c.Source.DSN.Reveal())
	}
	for path, want := range map[string]string{
		"sink.batch_rows": "flag --sink.batch_rows", "sink.max_connections": "environment OUTFLOW_SINK_MAX_CONNECTIONS",
		"sink.idle_close": "file " + file + ":5", "sink.lock_timeout": "default",
	} {
		if got := c.Origin(path); got != want {
			t.Errorf("%s comes from %s, want %s", path, got, want)
		}
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSourceDSN(t *testing.T) {
	home := t.TempDir()
	write(t, filepath.Join(home, ".pgpass"), "*:*:*:*:x")
	for name, test := range map[string]struct {
		values map[string]string
		want   string
		origin string
	}{
		"environment": {map[string]string{"OUTFLOW_SOURCE_DSN": url, "DATABASE_URL": "x"}, url, "environment OUTFLOW_SOURCE_DSN"},
		"file": {
			map[string]string{"OUTFLOW_SOURCE_DSN_FILE": "testdata/secrets/dsn"},
			"postgres://u:f1lesecret@filehost/db", "environment OUTFLOW_SOURCE_DSN_FILE",
		},
		"DATABASE_URL": {map[string]string{"DATABASE_URL": url, "PGHOST": "x"}, url, "environment DATABASE_URL"},
		"DATABASE_URL_FILE": {
			map[string]string{"DATABASE_URL": "", "DATABASE_URL_FILE": "testdata/secrets/dsn"},
			"postgres://u:f1lesecret@filehost/db", "environment DATABASE_URL_FILE",
		},
		"PG*": {
			map[string]string{"PGHOST": "h", "PGPORT": "1", "PGPASSWORD": `it's \`, "PGSSLMODE": "disable"},
			`host='h' port='1' password='it\'s \\' sslmode='disable'`, "environment PGHOST, PGPORT, PGPASSWORD, PGSSLMODE",
		},
		"PG* added to a URL": {
			map[string]string{"DATABASE_URL": url, "PGUSER": "x", "PGPASSWORD": "a&b +%"},
			url + "?password=a%26b%20%2B%25", "environment DATABASE_URL",
		},
		"PG* added to keywords": {
			map[string]string{"DATABASE_URL": "host=h", "PGUSER": "u", "PGHOST": "x"},
			"host='x' user='u' host=h", "environment DATABASE_URL",
		},
		"home": {map[string]string{"DATABASE_URL": "host=h", "HOME": home}, "passfile='" + home + "/.pgpass' host=h", "environment DATABASE_URL"},
	} {
		c, err := load("", test.values, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := c.Source.DSN.Reveal(); got != test.want || c.Origin("source.dsn") != test.origin {
			t.Errorf("%s: %s from %s", name, got, c.Origin("source.dsn"))
		}
	}
}

// TestSourceDSNMeansTheSame compares what pgx reads from the string alone with
// what it would have read from the environment.
func TestSourceDSNMeansTheSame(t *testing.T) {
	values := map[string]string{
		"PGHOST": "h", "PGPORT": "77", "PGUSER": "u v", "PGPASSWORD": `p'\ &%+`, "PGDATABASE": "d", "PGSSLMODE": "disable", "PGAPPNAME": "app", "PGTZ": "UTC",
	}
	for _, dsn := range []string{"", "host=other", "postgres://", "postgres://u2:p2@h2/d2?sslmode=require", "postgres:///d2?host=h3"} {
		values["DATABASE_URL"] = dsn
		c, err := load("", values, nil)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		alone, err := pgconn.ParseConfig(c.Source.DSN.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range values {
			t.Setenv(name, value)
		}
		ambient, err := pgconn.ParseConfig(dsn)
		for name := range values {
			_ = os.Unsetenv(name)
		}
		if err != nil {
			t.Fatal(err)
		}
		got := []any{alone.Host, alone.Port, alone.User, alone.Password, alone.Database, alone.RuntimeParams, alone.TLSConfig == nil}
		want := []any{ambient.Host, ambient.Port, ambient.User, ambient.Password, ambient.Database, ambient.RuntimeParams, ambient.TLSConfig == nil}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", dsn, diff)
		}
	}
}

func TestFaultsOutsideTheFile(t *testing.T) {
	for name, test := range map[string]struct {
		values, flags map[string]string
		want          string
	}{
		"nothing": {nil, nil, "source.dsn: required: the primary's connection string, here or as OUTFLOW_SOURCE_DSN, OUTFLOW_SOURCE_DSN_FILE, DATABASE_URL, DATABASE_URL_FILE or PG*"},
		"wrong type": {
			map[string]string{"DATABASE_URL": url, "OUTFLOW_SINK_BATCH_ROWS": "abc"}, map[string]string{"sink.idle_close": "x"},
			"environment variable OUTFLOW_SINK_BATCH_ROWS: expected an integer such as 100, found \"abc\"\n" +
				"flag --sink.idle_close: expected a duration such as 5m, 30s or 100ms, found \"x\"",
		},
		"range": {
			map[string]string{"DATABASE_URL": url, "OUTFLOW_SOURCE_SLOT": "A"}, map[string]string{"sink.batch_rows": "0", "mappings": "a,,b"},
			"environment variable OUTFLOW_SOURCE_SLOT: expected 1 to 63 of a-z, 0-9 and _, found \"A\"\n" +
				"flag --mappings: expected the path of a file or directory, found nothing\n" +
				"flag --sink.batch_rows: expected 1 to 1000000, found 0",
		},
		"unknown": {
			map[string]string{"DATABASE_URL": url, "OUTFLOW_SINK_BATCHROWS": "1"}, map[string]string{"log.levle": "x"},
			"flag --log.levle: unknown setting (did you mean log.level?)\n" +
				"environment variable OUTFLOW_SINK_BATCHROWS: unknown setting (did you mean OUTFLOW_SINK_BATCH_ROWS?)",
		},
		"unreadable": {
			map[string]string{"OUTFLOW_SOURCE_DSN_FILE": "testdata/none"}, nil,
			"environment variable OUTFLOW_SOURCE_DSN_FILE: open testdata/none: no such file or directory",
		},
		"both": {
			map[string]string{"OUTFLOW_SOURCE_DSN": url, "OUTFLOW_SOURCE_DSN_FILE": "testdata/secrets/dsn"}, nil,
			"environment variable OUTFLOW_SOURCE_DSN_FILE: OUTFLOW_SOURCE_DSN is set too; only one of them is allowed",
		},
		"broken": {
			map[string]string{"PGHOST": "h", "PGPORT": "s3cret"}, nil,
			"environment variables PGHOST, PGPORT: expected a connection string such as postgres://user:password@host:5432/database or \"host=... dbname=...\", found host='h' port='s3cret' (invalid port)",
		},
	} {
		c, err := load("", test.values, test.flags)
		if err == nil || c != nil {
			t.Errorf("%s: %v, %v", name, c, err)
			continue
		}
		if diff := cmp.Diff(test.want, err.Error()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		var one *config.Error
		if !errors.As(err, &one) || !config.IsFault(err) {
			t.Errorf("%s: %T", name, err)
		}
	}
	if _, err := load("testdata/none.yaml", nil, nil); !config.IsFault(err) || err.Error() != "flag --config: open testdata/none.yaml: no such file or directory" {
		t.Error(err)
	}
	_, err := load("testdata/unknown_key.yaml", nil, nil)
	var one *strictyaml.Error
	if !errors.As(err, &one) || one.Line != 3 || !config.IsFault(err) {
		t.Error(err)
	}
}

// TestPrintLoadsAgain prints, loads what was printed, and prints that.
func TestPrintLoadsAgain(t *testing.T) {
	values := map[string]string{"SOURCE_DSN": url, "ACME_DSN": url, "ACME_PASSWORD": "x"}
	for _, file := range []string{"testdata/full.yaml", "testdata/minimal.yaml"} {
		c, err := load(file, values, map[string]string{"sink.batch_rows": "7"})
		if err != nil {
			t.Fatal(err)
		}
		first := printed(t, c)
		again := filepath.Join(t.TempDir(), "again.yaml")
		write(t, again, first)
		c, err = load(again, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if diff := cmp.Diff(withoutComments(first), withoutComments(printed(t, c))); diff != "" {
			t.Error(diff)
		}
	}
}

func printed(t *testing.T, c *config.Config) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func withoutComments(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		before, _, _ := strings.Cut(line, " #")
		lines = append(lines, strings.TrimRight(before, "\n"))
	}
	return lines
}

func TestQualified(t *testing.T) {
	for name, want := range map[string][2]string{"A": {"public", "A"}, "s.A": {"s", "A"}, "s.A.b": {"s", "A.b"},
		`"a.b"`: {"public", "a.b"}, `"my schema"."a.b"`: {"my schema", "a.b"}} {
		for _, of := range []func() (string, string){config.Table{Name: name}.Qualified, config.Tombstones{Table: name}.Qualified} {
			if schema, table := of(); schema != want[0] || table != want[1] {
				t.Errorf("%s: %s %s", name, schema, table)
			}
		}
	}
}

func TestScrub(t *testing.T) {
	for _, name := range []string{"PGPASSWORD", "PGHOST", "PGSERVICE", "PGWHATEVER", "HOME", "KEPT_PGHOST"} {
		t.Setenv(name, "canary")
	}
	config.Scrub()
	left := make(map[string]string)
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); value == "canary" || strings.HasPrefix(name, "PG") {
			left[name] = value
		}
	}
	if want := map[string]string{"KEPT_PGHOST": "canary"}; !maps.Equal(left, want) {
		t.Errorf("what is left: %v", left)
	}
	c, err := pgconn.ParseConfig("host=evil user=u dbname=d")
	if err != nil || c.Password != "" || c.TLSConfig != nil && c.TLSConfig.RootCAs != nil {
		t.Errorf("%v: a tenant's connection string inherits something", err)
	}
}

// FuzzLoad: no panic, a secret of the environment in no message, and what Print
// writes loads again.
func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src), "7", "json")
	}
	f.Fuzz(func(t *testing.T, src, rows, format string) {
		file := filepath.Join(t.TempDir(), "f.yaml")
		write(t, file, src)
		values := map[string]string{"ACME_DSN": "postgres://u:kanarienvogel@h/db", "ACME_PASSWORD": "kanarienvogel", "OUTFLOW_SINK_BATCH_ROWS": rows}
		c, err := load(file, values, map[string]string{"log.format": format})
		var out string
		if err != nil {
			out = err.Error()
		} else {
			out = printed(t, c)
		}
		if !strings.Contains(src, "${") && strings.Contains(out, "kanarienvogel") && !strings.Contains(src+rows+format, "kanarienvogel") {
			t.Errorf("a secret is shown: %s", out)
		}
		if err != nil || strings.Contains(src, "${") {
			return
		}
		again := filepath.Join(t.TempDir(), "again.yaml")
		write(t, again, out)
		var c2 config.Config
		if _, err := strictyaml.Decode(again, []byte(out), &c2); err != nil {
			t.Errorf("%v in\n%s", err, out)
		}
	})
}
