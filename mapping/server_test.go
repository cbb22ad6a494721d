package mapping

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/wal"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func server(t *testing.T) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func row(values ...any) Row {
	var tuple []wal.Value
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			tuple = append(tuple, wal.Value{Presence: wal.Null})
		case wal.Presence:
			tuple = append(tuple, wal.Value{Presence: v})
		default:
			tuple = append(tuple, wal.Value{Presence: wal.Text, Text: []byte(fmt.Sprint(v))})
		}
	}
	return Row{Tuple: wal.NewTuple(tuple), SequenceID: 1 << 40, CommittedAt: time.Date(2024, 2, 3, 4, 5, 6, 789000, time.FixedZone("x", 3600))}
}

// run executes a step over rows and returns what it gives, one text a row; or the error as a mapping's fault.
func run(t *testing.T, conn *pgconn.PgConn, when When, sql string, rows *Rows) ([]string, error) {
	t.Helper()
	m, err := Load("m.yaml", []byte(fmt.Sprintf("name: m\ntarget: t\nsteps:\n  - from: item\n    when: %s\n    sql: |\n      %s\n", when, strings.ReplaceAll(sql, "\n", "\n      "))))
	if err != nil {
		t.Fatal(err)
	}
	st := m.Compile(0, rows.Relation, known)
	params, err := st.Parameters(rows)
	if err != nil {
		return nil, err
	}
	result := conn.ExecParams(t.Context(), st.SQL, params, st.ParameterOIDs(), []int16{1}, nil).Read()
	if pgErr := (*pgconn.PgError)(nil); errors.As(result.Err, &pgErr) {
		return nil, st.Fault(pgErr.Position, "%s", pgErr.Message)
	} else if result.Err != nil {
		t.Fatal(result.Err)
	}
	var got []string
	for _, r := range result.Rows {
		var fields []string
		for _, f := range r {
			text := "NULL"
			if f != nil {
				text = fmt.Sprintf("%q", f)
			}
			fields = append(fields, text)
		}
		got = append(got, strings.Join(fields, " "))
	}
	return got, nil
}

const someTenant = "11111111-1111-4111-8111-111111111111"

func TestParametersOnAServer(t *testing.T) {
	conn := server(t)
	long := strings.Repeat("é", 100000)
	rows := &Rows{Relation: item,
		Upserts: []Row{row(someTenant, 1, "a", "so", "{a,NULL}", "1.50"), row(someTenant, 2, nil, nil, nil, nil), row(someTenant, 3, "", "", "{}", "NaN"),
			row(someTenant, 4, "NULL", `{"\,'`, `{"NULL","a\"b"}`, nil), row(someTenant, 5, long, nil, nil, nil)},
		Deletes: []Row{row(someTenant, -1, nil, nil, nil, nil)}}
	for _, c := range []struct {
		when When
		sql  string
		want []string
	}{
		{Upsert, "SELECT r.id, r.note FROM item r WHERE r.id < 5 ORDER BY 1", []string{`"1" "a"`, `"2" NULL`, `"3" ""`, `"4" "NULL"`}},
		{Upsert, "SELECT length(r.note) FROM item r WHERE r.id = 5", []string{`"100000"`}},
		{Upsert, "SELECT pg_typeof(r.id), pg_typeof(r.note), pg_typeof(r.mood), pg_typeof(r.moods), pg_typeof(r.\"o\"\"dd\"), pg_typeof(r.tenant) FROM item r LIMIT 1",
			[]string{`"integer" "text" "text" "text[]" "numeric" "uuid"`}},
		{Upsert, `SELECT r.mood, r.moods, r."o""dd" FROM item r WHERE r.id < 5 ORDER BY r.id`,
			[]string{`"so" "{a,NULL}" "1.50"`, "NULL NULL NULL", `"" "{}" "NaN"`, `"{\"\\,'" "{\"NULL\",\"a\\\"b\"}" NULL`}},
		{Delete, "SELECT r.id, r.note FROM item r", []string{`"-1" NULL`}},
		{Any, "SELECT r.id, r._op FROM item r ORDER BY 1 LIMIT 2", []string{`"-1" "delete"`, `"1" "upsert"`}},
		{Any, "SELECT DISTINCT r._sequence_id, extract(epoch FROM r._committed_at) FROM item r", []string{`"1099511627776" "1706929506.000789"`}},
		{Any, "SELECT count(*) FROM item", []string{`"6"`}},
		{Any, "WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < 3)\nSELECT sum(n.n), (SELECT count(*) FROM item) FROM n", []string{`"6" "6"`}},
	} {
		got, err := run(t, conn, c.when, c.sql, rows)
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-expected +found):\n%.2000s", c.sql, diff)
		}
	}
	// No rows at all: an empty array.
	if got, err := run(t, conn, Any, "SELECT count(*), max(r.id) FROM item r", &Rows{Relation: item}); err != nil || cmp.Diff([]string{`"0" NULL`}, got) != "" {
		t.Errorf("no rows: %v %v", got, err)
	}
	// Many rows of growing size: what was reserved for them is never too small.
	many := &Rows{Relation: item}
	for i := range 3000 {
		many.Upserts = append(many.Upserts, row(someTenant, i, strings.Repeat("x", i), nil, nil, nil))
	}
	if got, err := run(t, conn, Upsert, "SELECT sum(length(r.note)), count(DISTINCT r.id) FROM item r", many); err != nil || got[0] != `"4498500" "3000"` {
		t.Errorf("many rows: %v %v", got, err)
	}
}

// TestUnchangedIsNeverSent: a value that stayed in TOAST and was not fetched is an error, where the step names it.
func TestUnchangedIsNeverSent(t *testing.T) {
	conn := server(t)
	rows := &Rows{Relation: item, Upserts: []Row{row(someTenant, 1, wal.Unchanged, nil, nil, nil)}}
	if _, err := run(t, conn, Upsert, "SELECT r.note FROM item r", rows); err == nil || !strings.Contains(err.Error(), `"note"`) {
		t.Errorf("the step that names it: %v", err)
	}
	if got, err := run(t, conn, Upsert, "SELECT r.id FROM item r", rows); err != nil || len(got) != 1 {
		t.Errorf("the step that does not: %v %v", got, err)
	}
}

// TestServerErrorsFindTheirPlace maps positions in the compiled statement back to the mapping's own lines.
func TestServerErrorsFindTheirPlace(t *testing.T) {
	conn := server(t)
	rows := &Rows{Relation: item, Upserts: []Row{row(someTenant, 1, "x", nil, nil, nil)}}
	for _, c := range []struct{ sql, want string }{
		{"SELECT r.nothing FROM item r", "m.yaml:7:14: column r.nothing"},
		{"SELECT 'ünï', 日本 FROM item", "m.yaml:7:21: "},
		{"-- a comment\n\n  SELECT r.id\n  FROM nowhere, item r", "m.yaml:10:14: "},
		{"WITH x AS (SELECT nothing FROM item r) SELECT x.id FROM x", "m.yaml:7:25: "},
		{"-- é\nWITH RECURSIVE\n  x AS (SELECT r.id FROM item r)\nSELECT é.id FROM x", "m.yaml:10:14: "},
		{"SELECT r.id FROM item r WHERE", "m.yaml:7:36: syntax error at end of input"},
		{"SELECT 1 FROM item r WHERE r.id = 'x'", "m.yaml:7:41: invalid input syntax for type integer"},
	} {
		_, err := run(t, conn, Upsert, c.sql, rows)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: expected %s, found %v", c.sql, c.want, err)
		}
	}
	// An error of the rows themselves has no place of its own in the mapping.
	bad := &Rows{Relation: item, Upserts: []Row{row(someTenant, "x", "x", nil, nil, nil)}}
	if _, err := run(t, conn, Upsert, "SELECT r.id FROM item r", bad); err == nil || !strings.Contains(err.Error(), "m.yaml:7:7: ") {
		t.Errorf("a bad value: %v", err)
	}
}
