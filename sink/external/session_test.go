package external

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/mapping"
)

// The settings of the server, the database and the role do not matter to what a statement does.
func TestSettingsOfATransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, setting := range []string{"DateStyle = 'German, DMY'", "IntervalStyle = 'iso_8601'", "TimeZone = 'Asia/Tokyo'", "bytea_output = 'escape'", "extra_float_digits = 0",
		"standard_conforming_strings = off", "array_nulls = off", "xmloption = 'document'", "search_path = 'pg_catalog'", "statement_timeout = '1h'", "jit = on",
		"default_transaction_isolation = 'serializable'"} {
		w.exec(fmt.Sprintf(`ALTER DATABASE %s SET %s`, QuoteIdentifier(w.db.Config.Database), setting))
	}
	s := w.dial()
	w.must(s.Begin(t.Context()))
	for name, want := range map[string]string{"DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "TimeZone": "UTC", "bytea_output": "hex", "extra_float_digits": "3",
		"standard_conforming_strings": "on", "array_nulls": "on", "xmloption": "content", "search_path": "public", "statement_timeout": "10s", "lock_timeout": "5s",
		"idle_in_transaction_session_timeout": "10s", "jit": "off", "row_security": "off", "synchronous_commit": "on", "transaction_isolation": "read committed", "plan_cache_mode": "auto"} {
		row, err := s.AskRow(t.Context(), 1, `SELECT current_setting($1)`, name)
		w.must(err)
		if string(row[0]) != want {
			t.Errorf("%s is %q, expected %q", name, row[0], want)
		}
	}
	s.Rollback()
	if !s.Usable() || s.InTransaction() {
		t.Error("the session is not usable")
	}
	row, err := s.AskRow(t.Context(), 1, `SELECT current_setting('DateStyle')`)
	w.must(err)
	if string(row[0]) != "German, DMY" {
		t.Errorf("the settings last beyond their transaction: %s", row[0])
	}
}

// The schemas of extensions are in the search path, behind public: their operators must be found.
func TestSearchPathHasExtensions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE SCHEMA "Ext s"; CREATE EXTENSION citext SCHEMA "Ext s"`)
	s := w.dial()
	w.must(s.Begin(t.Context()))
	row, err := s.AskRow(t.Context(), 2, `SELECT current_setting('search_path'), 'A'::citext = 'a'::citext`)
	w.must(err)
	if string(row[0]) != `public, "Ext s"` || string(row[1]) != "t" {
		t.Errorf("the search path is %s; equal: %s", row[0], row[1])
	}
}

// A server may answer a question with anything.
func TestAnswersOfAnotherShape(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.dial()
	for name, ask := range map[string]func() error{
		"columns": func() error { _, err := s.Ask(t.Context(), 2, `SELECT 1`); return err },
		"bytes": func() error {
			_, err := s.Ask(t.Context(), 1, `SELECT repeat('x', 1000) FROM generate_series(1, 2000)`)
			return err
		},
		"cells":  func() error { _, err := s.Ask(t.Context(), 0, `SELECT FROM generate_series(1, 100000)`); return err },
		"no row": func() error { _, err := s.AskRow(t.Context(), 1, `SELECT 1 WHERE false`); return err },
		"rows":   func() error { _, err := s.AskRow(t.Context(), 1, `SELECT 1 UNION SELECT 2`); return err },
	} {
		e := w.failed(ask(), Retry, "the server is not Postgres, or is hostile", w.db.host())
		if e.Class() != ClassProtocol {
			t.Errorf("%s: the class is %s", name, e.Class())
		}
		if !s.Usable() {
			t.Fatalf("%s: the session is not usable", name)
		}
	}
	rows, cut, err := s.answer(t.Context(), 10, 1, `SELECT repeat('x', 1000) FROM generate_series(1, 5)`)
	if len(rows) != 1 || !cut || err != nil {
		t.Errorf("%d rows within 10 bytes, cut: %v: %v", len(rows), cut, err)
	}
	row, err := s.AskRow(t.Context(), 2, `SELECT NULL, ''`)
	if err != nil || row[0] != nil || row[1] == nil {
		t.Errorf("NULL and the empty text are %v: %v", row, err)
	}
}

// A silent server is given a time, and the error says how much. The budget knows since when the server owes an answer.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.Options.StatementTimeout, w.db.Options.LockTimeout = 150*time.Millisecond, 50*time.Millisecond
	s := w.dial()
	owing := make(chan bool, 1)
	go func() {
		for range 200 {
			if s.Place.Owing() {
				owing <- true
				return
			}
			<-time.After(time.Millisecond)
		}
		owing <- false
	}()
	e := w.failed(s.Exec(t.Context(), `SELECT pg_sleep(20)`), Retry, "has not answered within 200ms")
	if e.Class() != ClassTimeout || !TimedOut(e) {
		t.Errorf("the class is %s", e.Class())
	}
	if !<-owing {
		t.Error("the server owed no answer")
	}
	if s.Place.Owing() || s.Usable() {
		t.Errorf("afterwards the server owes an answer: %v, the session is usable: %v", s.Place.Owing(), s.Usable())
	}
	s = w.dial()
	w.must(s.Begin(t.Context()))
	w.db.Options.LockTimeout = time.Minute // the server's own limit comes first
	e = w.failed(s.Exec(t.Context(), `SELECT pg_sleep(20)`), Retry)
	if e.SQLState != "57014" || !TimedOut(e) {
		t.Errorf("SQLSTATE %s", e.SQLState)
	}
	if w.db.Answered.None() {
		t.Error("no answer was noted")
	}
}

// A failed connection gives its place back and says what helps.
func TestDialThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dsn := func(edit func(string) string) string { return edit(w.dsn) }
	for name, test := range map[string]struct {
		dsn     string
		verdict Verdict
		class   string
		remedy  string
	}{
		"no database": {dsn(func(s string) string { return strings.Replace(s, w.db.Config.Database, "absent", 1) }), RetryLong, "3D000", "create the database"},
		"no role":     {dsn(func(s string) string { return strings.Replace(s, "postgres@", "absent@", 1) }), RetryLong, ClassAuth, "check user and password"},
		"nobody":      {"postgres://u@127.0.0.1:1/d", Retry, ClassRefused, ""},
		"no name":     {"postgres://u@host.invalid:1/d", Retry, ClassDNS, ""},
		"no TLS":      {dsn(func(s string) string { return s + "&sslmode=require" }), Retry, ClassTLS, "ssl = on"},
	} {
		if name == "no role" && test.dsn == w.dsn {
			continue // a given server's role has another name
		}
		if !strings.Contains(w.dsn, "?") {
			test.dsn = strings.Replace(test.dsn, "&sslmode", "?sslmode", 1)
		}
		db := w.database(test.dsn)
		pool, p := NewConnections(1), NewPlace(0, false, nil)
		w.must(pool.Take(t.Context(), nil, p))
		_, err := db.Dial(t.Context(), p)
		e := w.failed(err, test.verdict, "connecting:")
		if e.Class() != test.class || !strings.Contains(e.Remedy, test.remedy) {
			t.Errorf("%s: class %s and remedy %q, expected %s and %q: %v", name, e.Class(), e.Remedy, test.class, test.remedy, err)
		}
		if len(pool.held) > 0 {
			t.Errorf("%s: the place is still held", name)
		}
	}
}

// A destination with a fault has no way to a database; the operator's string overrides no setting of the program's.
func TestNewDatabase(t *testing.T) {
	t.Parallel()
	fault := NewFault(ClassConfiguration, errTest, "remedy")
	if _, err := (DestinationSpec{DSN: "::", Fault: fault}).Config(options); err != nil {
		t.Errorf("a string that does not count is read: %v", err)
	}
	if _, err := NewDatabase(&Owner{}, DestinationSpec{DSN: "postgres://h:port/d"}, options, SourceTables{}, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "the connection string cannot be read") {
		t.Errorf("%v", err)
	}
	db, err := NewDatabase(&Owner{SourceID: "s", Tenant: "t", Name: "n"}, DestinationSpec{DSN: "postgres://u@h:5433/d?application_name=x&options=-c%20fsync%3Doff&client_encoding=LATIN1"}, options, SourceTables{}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if p := db.Config.RuntimeParams; len(p) != 2 || p["application_name"] != "outflow" || p["client_encoding"] != "UTF8" {
		t.Errorf("the start-up parameters are %v", p)
	}
	if db.Address() != "h:5433/d" || db.String() != "t/n" || db.host() != "h:5433" {
		t.Errorf("%s is at %s", db, db.Address())
	}
}

// Everything that a mapping needs is prepared before its first use, and a fault has its place and what helps.
func TestPrepareSteps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(string) string // of the mapping
		before  string              // SQL in the database
		verdict Verdict
		parts   []string
	}{
		"no source table": {func(s string) string { return strings.ReplaceAll(s, "item r", "absent r") }, "", NeedsHuman, []string{"absent"}},
		"no target":       {nil, `DROP TABLE items`, NeedsHuman, []string{"m.yaml:8", `relation "items" does not exist`}},
		"no column": {func(s string) string { return strings.Replace(s, "r.v FROM", "r.w FROM", 1) }, "", NeedsHuman,
			[]string{"r.w", "item has the columns tenant, id, v; to publish another column"}},
		"a generated column": {nil, `ALTER TABLE items DROP v, ADD v text GENERATED ALWAYS AS ('x') STORED`, NeedsHuman, []string{"remove the column from the step"}},
		"keys":               {func(s string) string { return strings.Replace(s, "SELECT id FROM items", "SELECT v FROM items", 1) }, "", NeedsHuman, []string{"make the query return the columns"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			w.ready()
			if test.before != "" {
				w.exec(test.before)
			}
			if test.change != nil {
				m, err := mapping.Load("m.yaml", []byte(test.change(itemsYAML)))
				if err != nil { // found without a server
					if !strings.Contains(err.Error(), test.parts[0]) {
						t.Errorf("%v", err)
					}
					return
				}
				w.db.Mappings[0] = m
			}
			w.failed(w.dial().PrepareSteps(t.Context()), test.verdict, test.parts...)
		})
	}
}

// A step from a table that is not a source table is a fault with a remedy.
func TestPrepareStepsOfAnUnknownTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.NewReplacer("from: item", "from: other", "item r", "other r", "  item:", "  other:").Replace(itemsYAML))
	s := w.dial()
	w.exec(`CREATE TABLE items (id integer PRIMARY KEY, v text)`)
	e := w.failed(s.PrepareSteps(t.Context()), NeedsHuman, `reads from "other", which is not in source.tables`, "add the table to source.tables")
	if e.Table != "other" || !s.Usable() {
		t.Errorf("the table is %q, the session is usable: %v", e.Table, s.Usable())
	}
}

// Row security would hide rows from a delete: the server refuses the statement, and the remedy names the right that is missing.
func TestRowSecurity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.ready()
	role := fmt.Sprintf("rls_%d", time.Now().UnixNano())
	w.exec(fmt.Sprintf(`CREATE ROLE %s LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO %[1]s; GRANT ALL ON SCHEMA public TO %[1]s;
		ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON items USING (id > 5)`, role))
	defer func() { w.exec(fmt.Sprintf(`DROP OWNED BY %s; DROP ROLE %[1]s`, role)) }()
	w.db = w.database(w.dsn, itemsYAML)
	w.db.Config.User = role
	s := w.dial()
	defer s.Close()
	w.know(s)
	w.failed(w.batch(s, deletes(row(tenant, 1, nil)), 20), NeedsHuman, "a row security policy would hide rows", "ALTER ROLE", role, "BYPASSRLS")
}

// The names of the primary's types are found in the external database, also where an extension is in another schema there.
func TestTypesOfAnotherSchema(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	w.exec(`CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext`)
	s := w.dial()
	w.must(s.loadTypes(t.Context(), relation(5, "x", "a public.citext", "b public.citext[]", "c integer", "d public.absent", "e numeric(10,2)", "f character varying(5)[]")))
	for name, want := range map[string]string{"public.citext": "ext.citext", "public.citext[]": "ext.citext[]", "integer": "integer", "public.absent": "",
		"numeric(10,2)": "numeric(10,2)", "character varying(5)[]": "character varying(5)[]"} {
		if got := s.types[name]; got != want {
			t.Errorf("%s is %q, expected %q", name, got, want)
		}
	}
	w.exec(`CREATE SCHEMA ext2; CREATE TYPE ext.mood AS ENUM ('a'); CREATE TYPE ext2.mood AS (a int); CREATE DOMAIN ext.part AS text;
		CREATE TYPE ext.span AS RANGE (subtype = int4); CREATE TYPE ext2.span AS RANGE (subtype = int8)`)
	w.must(s.loadTypes(t.Context(), relation(6, "y", "a public.mood", "b public.part")))
	if s.types["public.mood"] != "" || s.types["public.part"] != "" {
		t.Errorf("an enum or a domain of another schema is taken: %v", s.types)
	}
	e := w.failed(s.loadTypes(t.Context(), relation(7, "z", "a public.span", "b integer")), NeedsHuman, "which several schemas of the external database have", "keep one of them")
	if e.Table != "z" {
		t.Errorf("the table is %q", e.Table)
	}
}

// A role may not read the positions in the WAL: every batch waits for the disk then.
func TestPositions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	if !s.TellsPositions {
		t.Fatal("the server does not tell its positions")
	}
	before, err := s.AskPositions(t.Context())
	w.must(err)
	if before.Insert == 0 || before.Flush == 0 {
		t.Errorf("the positions are %+v", before)
	}
	w.must(w.batch(s, upserts(row(tenant, 1, "a")), 20))
	w.must(s.FlushAll(t.Context()))
	after, err := s.AskPositions(t.Context())
	w.must(err)
	if after.Flush <= before.Insert {
		t.Errorf("the WAL is flushed up to %s, and stood at %s before the commit", after.Flush, before.Insert)
	}
	w.exec(`REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC`)
	role := fmt.Sprintf("nowal_%d", time.Now().UnixNano())
	w.exec(fmt.Sprintf(`CREATE ROLE %s LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO %[1]s; GRANT ALL ON SCHEMA public TO %[1]s`, role))
	defer func() { w.exec(fmt.Sprintf(`DROP OWNED BY %s; DROP ROLE %[1]s`, role)) }()
	w.db = w.database(w.dsn, itemsYAML)
	w.db.Config.User = role
	s = w.dial()
	defer s.Close()
	if s.TellsPositions {
		t.Fatal("the server tells its positions")
	}
	w.know(s)
	var told Positions
	w.must(s.Compile(t.Context(), upserts(row(tenant, 2, "b"))))
	told, err = s.Exchange(t.Context(), func(ctx context.Context, r *Round) error {
		if err := r.Begin(); err != nil {
			return err
		}
		return r.Advance(w.every(), 21, "")
	})
	w.must(err)
	if told != (Positions{}) {
		t.Errorf("the positions are %+v", told)
	}
}

// What a row says of positions is taken as a whole, or not at all.
func TestPositionsOf(t *testing.T) {
	t.Parallel()
	for text, known := range map[string]bool{"0/10|0/8": true, "0/10|": false, "|0/8": false, "x|0/8": false, "0/10|y": false, "0/10": false, "": false, "0/10|0/8|more": true} {
		var row [][]byte
		for _, v := range strings.Split(text, "|") {
			row = append(row, []byte(v))
		}
		if got := positionsOf(row); got != (Positions{}) != known {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
