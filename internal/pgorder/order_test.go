package pgorder

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// columnsOf asks the server for the order of the named columns of a table.
func columnsOf(ctx context.Context, t *testing.T, conn *pgx.Conn, table string, names []string) (columns []Column) {
	t.Helper()
	rows, err := conn.Query(ctx, ColumnsSQL(`SELECT array_position($2::text[], a.attname::text), a.atttypid, 0::oid, a.attcollation
		FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attname = ANY ($2::text[])`), table, names)
	if err != nil {
		t.Fatal(err)
	}
	var c Column
	_, err = pgx.ForEachRow(rows, []any{&c.Type, &c.Domain, &c.Collation, &c.Less, &c.Equal, &c.AtLeast, &c.Greater, &c.Exact}, func() error {
		c.Name = "t." + names[len(columns)]
		columns = append(columns, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return columns
}

// Pieces of a table, each behind the last row of the piece before, make the whole table in the server's own order.
func TestPiecesMakeTheWhole(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `CREATE DOMAIN positive AS int CHECK (VALUE > 0);
		CREATE TYPE mood AS ENUM ('zest', 'anger');
		CREATE TABLE item (a int, b text COLLATE "C", c numeric, d positive, e mood, f int);
		INSERT INTO item SELECT i % 5, 'B' || i % 7, i % 3, 1 + i % 4, (ARRAY['zest', 'anger'])[1 + i % 2]::mood, i FROM generate_series(1, 200) i`); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"f"}, {"a", "f"}, {"b", "f"}, {"c", "b", "f"}, {"d", "a", "f"}, {"e", "d", "f"}} {
		columns := columnsOf(ctx, t, conn, "item", names)
		list := "t." + strings.Join(names, "::text, t.") + "::text"
		read := func(sql string, args ...any) (all [][]string) {
			rows, err := conn.Query(ctx, sql, args...)
			if err != nil {
				t.Fatal(err)
			}
			all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
				texts := make([]string, len(names))
				into := make([]any, len(names))
				for i := range texts {
					into[i] = &texts[i]
				}
				return texts, row.Scan(into...)
			})
			if err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			return all
		}
		want := read("SELECT " + list + " FROM item t ORDER BY t." + strings.Join(names, ", t."))
		got := read("SELECT " + list + " FROM item t ORDER BY " + OrderBy(columns) + " LIMIT 30")
		for len(got) < len(want) {
			var args []any
			values := make([]string, len(names))
			for i, c := range columns {
				args = append(args, got[len(got)-1][i])
				values[i] = c.Value(fmt.Sprintf("$%d", i+1))
			}
			piece := read("SELECT "+list+" FROM item t WHERE "+Behind(columns, values)+" ORDER BY "+OrderBy(columns)+" LIMIT 30", args...)
			if len(piece) == 0 {
				break
			}
			if same := read("SELECT "+list+" FROM item t WHERE "+Same(columns, values), args...); len(same) != 1 || !slices.Equal(same[0], got[len(got)-1]) {
				t.Errorf("%v: the row itself is %v", names, same)
			}
			got = append(got, piece...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-whole +pieces):\n%s", names, diff)
		}
	}
	types := columnsOf(ctx, t, conn, "item", []string{"a", "b", "c", "d", "e"})
	var told []string
	for _, c := range types {
		told = append(told, fmt.Sprintf("%s %t %t", c.Type, c.Domain, c.Exact))
	}
	if diff := cmp.Diff([]string{"integer false true", "text false true", "numeric false false", "integer true true", "mood false true"}, told); diff != "" {
		t.Errorf("type, domain, exact (-expected +found):\n%s", diff)
	}
	if Signature(types[:1]) == Signature(types[1:2]) {
		t.Error("two orders have the same signature")
	}
}
