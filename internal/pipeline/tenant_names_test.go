package pipeline

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"outflow/internal/pgcluster/pgtest"
)

// dial connects to a database until the test's end.
func dial(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Names that surely are the primary's own writing need no query each: the tenants of a varchar(36) are many.
func TestNamesOfAVarchar(t *testing.T) {
	t.Parallel()
	conn := dial(t, pgtest.Database(t, pgtest.Shared(t)))
	c := tenantColumn{table: "items", oid: pgtype.VarcharOID, modifier: 40, plain: "character varying"}
	name := strings.Repeat("é", 18)
	if written, err := c.write(t.Context(), conn, name); err != nil || written != name || c.name != "" {
		t.Errorf("%q is written %q, with a query (type %q): %v", name, written, c.name, err)
	}
	name += strings.Repeat("é", 18) // 36 characters, of more bytes
	if written, err := c.write(t.Context(), conn, name); err != nil || written != name {
		t.Errorf("%q is written %q: %v", name, written, err)
	}
	if written, err := c.write(t.Context(), conn, name+"é"); err == nil {
		t.Errorf("a name that is too long is written %q", written)
	}
}
