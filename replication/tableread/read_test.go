package tableread

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// fixture is a table of several tenants on a primary, and the ways to read the table.
type fixture struct {
	t      *testing.T
	conn   *pgx.Conn
	copier *Copier
	lookup *Lookup
	part   Part // of tenant a
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	server, err := primary.New(pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tables := NewTables(server)
	f := &fixture{t: t, conn: conn, copier: &Copier{Tables: tables}, lookup: &Lookup{Tables: tables}}
	t.Cleanup(func() {
		f.lookup.Close()
		f.copier.Close()
		_ = conn.Close(context.Background())
	})
	f.exec(`CREATE TABLE public.item (tenant text, n numeric, doc text, PRIMARY KEY (n, tenant));
		INSERT INTO public.item SELECT CASE i % 3 WHEN 0 THEN 'b' ELSE 'a' END, i, 'doc ' || i FROM generate_series(1, 90) i`)
	table, err := primary.LoadTable(t.Context(), conn, "public", "item")
	if err != nil {
		t.Fatal(err)
	}
	f.part = Part{Relation: table.Relation, Tenant: table.Relation.Column("tenant"), Value: "a"}
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.conn.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// keys names the rows of tenant a with the texts as n.
func (f *fixture) keys(texts ...string) Keys {
	k := Keys{Part: f.part}
	for _, text := range texts {
		k.Tuples = append(k.Tuples, wal.NewTuple([]wal.Value{{Presence: wal.Text, Text: []byte("a")}, {Presence: wal.Text, Text: []byte(text)}, {Presence: wal.Null}}))
	}
	return k
}

// texts are the values of a row: "-" is NULL, "?" is a column not read, "" no row.
func texts(row wal.Tuple) string {
	var all []string
	for _, v := range row.Values(nil) {
		all = append(all, map[wal.Presence]string{wal.Null: "-", wal.Unchanged: "?", wal.Text: string(v.Text)}[v.Presence])
	}
	return strings.Join(all, " ")
}

// all reads the tenant's rows in pieces of the limit and the bytes.
func (f *fixture) all(limit int, bytes int64) (rows []string, pieces int) {
	f.t.Helper()
	r := Range{Part: f.part, Limit: limit, Bytes: bytes}
	for {
		chunk, err := f.copier.Read(f.t.Context(), r)
		if err != nil {
			f.t.Fatal(err)
		}
		size := int64(0)
		for _, row := range chunk.Rows {
			rows = append(rows, texts(row))
			size += int64(row.Bytes())
		}
		if len(chunk.Rows) > limit || size > bytes+3*5 { // the last row goes beyond by the form of three values
			f.t.Fatalf("a piece of %d rows and %d bytes; allowed are %d and %d", len(chunk.Rows), size, limit, bytes)
		}
		if pieces++; chunk.Last {
			return rows, pieces
		}
		r.Place = chunk.Next
	}
}

func TestPiecesOfATenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var want []string
	for i := 1; i <= 90; i++ {
		if i%3 != 0 {
			want = append(want, fmt.Sprintf("a %d doc %d", i, i))
		}
	}
	for _, piece := range []struct {
		limit int
		bytes int64
	}{{1000, 1 << 20}, {7, 1 << 20}, {60, 1 << 20}, {1000, 200}} {
		rows, pieces := f.all(piece.limit, piece.bytes)
		if diff := cmp.Diff(want, rows); diff != "" || piece.limit == 7 && pieces != 9 {
			t.Errorf("%+v: %d pieces (-expected +read):\n%s", piece, pieces, diff)
		}
	}
	if n, err := f.copier.Estimate(t.Context(), f.part); err != nil || n != 60 {
		t.Errorf("an estimate of %d rows, %v; there are 60", n, err)
	}
	f.exec(`INSERT INTO public.item VALUES ('a', 0, repeat('x', 100000))`)
	large := (*Large)(nil)
	if _, err := f.copier.Read(t.Context(), Range{Part: f.part, Limit: 10, Bytes: 1000}); !errors.As(err, &large) || large.Bytes < 100000 {
		t.Errorf("a row beyond the bound: %v", err)
	}
	if chunk, err := f.copier.Read(t.Context(), Range{Part: f.part, Limit: 1, Bytes: Enough(large.Bytes)}); err != nil || len(chunk.Rows) != 1 {
		t.Errorf("a row within the bound: %d rows, %v", len(chunk.Rows), err)
	}
}

// A table is its OID: a read finds the table under another name, with other columns, and in another order of the key.
func TestReadOfAnAlteredTable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	before, err := f.copier.Read(t.Context(), Range{Part: f.part, Limit: 5, Bytes: 1 << 20})
	if err != nil || before.Relation != f.part.Relation {
		t.Fatalf("an unaltered table has another relation, or: %v", err)
	}
	f.exec(`ALTER TABLE public.item ADD COLUMN more int, DROP COLUMN doc`)
	after, err := f.copier.Read(t.Context(), Range{Part: f.part, Place: before.Next, Limit: 5, Bytes: 1 << 20})
	if err != nil || strings.Join(after.Relation.Names(), " ") != "tenant n" || texts(after.Rows[0]) != "a 8" {
		t.Errorf("columns %v, first row %q, %v", after.Relation.Names(), texts(after.Rows[0]), err)
	}
	f.exec(`ALTER TABLE public.item DROP CONSTRAINT item_pkey, ALTER n TYPE int, ADD PRIMARY KEY (tenant, n)`)
	if again, err := f.copier.Read(t.Context(), Range{Part: f.part, Place: before.Next, Limit: 5, Bytes: 1 << 20}); err != nil || texts(again.Rows[0]) != "a 1" {
		t.Errorf("a place in another order is a place: %q, %v", texts(again.Rows[0]), err)
	}
	f.exec(`ALTER TABLE public.item RENAME TO other`)
	if renamed, err := f.copier.Read(t.Context(), Range{Part: f.part, Limit: 5, Bytes: 1 << 20}); err != nil || texts(renamed.Rows[0]) != "a 1" {
		t.Errorf("under another name: %v", err)
	}
	f.exec(`DROP TABLE public.other`)
	if _, err := f.copier.Read(t.Context(), Range{Part: f.part, Limit: 5, Bytes: 1 << 20}); err == nil {
		t.Error("a dropped table was read")
	}
}

func TestRowsByKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	look := func(columns []string, bytes int64, keys ...string) string {
		t.Helper()
		found, err := f.lookup.Rows(t.Context(), Look{Keys: f.keys(keys...), Columns: columns, Bytes: bytes})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, row := range found.Rows {
			all = append(all, texts(row))
		}
		return fmt.Sprintf("%s; %v", strings.Join(all, ", "), found.Large > 0)
	}
	for _, c := range []struct {
		columns []string
		bytes   int64
		keys    []string
		want    string
	}{
		{[]string{"doc", "absent"}, 1 << 20, []string{"2", "3", "1"}, "? ? doc 2, , ? ? doc 1; false"}, // 3 is tenant b's
		{[]string{"tenant", "n", "doc"}, 1 << 20, []string{"1.0"}, "a 1 doc 1; false"},                 // equal for the primary, with another text
		{[]string{"n"}, 17, []string{"1", "2", "4", "5"}, "? 1 ?, ? 2 ?, ? 4 ?; false"},
		{[]string{"doc"}, 3, []string{"1", "2"}, "; true"},
		{nil, 1 << 20, []string{"1", "91"}, "? ? ?, ; false"},
	} {
		if got := look(c.columns, c.bytes, c.keys...); got != c.want {
			t.Errorf("%v of %v in %d bytes: %q; expected %q", c.columns, c.keys, c.bytes, got, c.want)
		}
	}
	present, chunk, err := f.copier.Present(t.Context(), f.keys("1.00", "3", "2"))
	if err != nil || len(present) != 3 || texts(present[0]) != "1" || !present[1].IsZero() || texts(present[2]) != "2" || chunk.Horizon == 0 {
		t.Errorf("present are %v before %s, %v", present, chunk.Horizon, err)
	}
	if found, err := f.copier.Find(t.Context(), f.keys("1", "2", "4"), 1); err != nil || len(found.Rows) == 0 || texts(found.Rows[0]) != "a 1 doc 1" {
		t.Errorf("at least one row is found: %v, %v", found.Rows, err)
	}
	equal, err := f.copier.Equal(t.Context(), f.keys("1", "2", "7"), f.keys("7.0", "1.00").Tuples)
	if diff := cmp.Diff([]bool{true, false, true}, equal); err != nil || diff != "" {
		t.Errorf("%v (-expected +found):\n%s", err, diff)
	}
	bad := (*KeyError)(nil)
	if _, _, err := f.copier.Present(t.Context(), f.keys("1", "2", "x", "y")); !errors.As(err, &bad) || bad.Key != 2 || strings.Contains(err.Error(), `"x"`) {
		t.Errorf("a text that is no key: %v", err)
	}
	f.exec(`ALTER TABLE public.item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (tenant, doc)`)
	if _, err := f.lookup.Rows(t.Context(), Look{Keys: f.keys("1"), Columns: []string{"n"}, Bytes: 1 << 20}); !errors.Is(err, ErrAnotherKey) {
		t.Errorf("another key: %v", err)
	}
}

// A look-up behind a transaction waits until the primary shows the transaction, and people are told which transaction it is.
func TestTransactionsThatAreNotVisible(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var xid uint32
	f.exec(`BEGIN`)
	f.exec(`UPDATE public.item SET doc = 'new' WHERE n = 1`)
	if err := f.conn.QueryRow(t.Context(), `SELECT (pg_current_xact_id()::text::bigint & 4294967295)::text::oid`).Scan(&xid); err != nil {
		t.Fatal(err)
	}
	now, err := f.copier.Now(t.Context())
	if err != nil || now.Snapshot.Sees(xid) || now.Horizon == 0 {
		t.Errorf("the snapshot sees %d, or: %v", xid, err)
	}
	unfinished, err := f.copier.Unfinished(t.Context())
	if err != nil || len(unfinished) != 1 || unfinished[0] != xid {
		t.Errorf("unfinished are %v, %v; expected %d", unfinished, err, xid)
	}
	what, err := f.copier.Holder(t.Context(), xid)
	if want := fmt.Sprintf("pg_terminate_backend(%d)", f.conn.PgConn().PID()); err != nil || !strings.Contains(what, want) {
		t.Errorf("the holder is %q, %v; expected %s", what, err, want)
	}
	look := Look{Keys: f.keys("1"), Columns: []string{"doc"}, After: []uint32{xid}, Bytes: 1 << 20}
	if _, err := f.lookup.Rows(t.Context(), look); !errors.Is(err, ErrNotVisible) {
		t.Errorf("before the commit: %v", err)
	}
	f.exec(`COMMIT`)
	if found, err := f.lookup.Rows(t.Context(), look); err != nil || texts(found.Rows[0]) != "? ? new" {
		t.Errorf("after the commit: %v, %v", found.Rows, err)
	}
}
