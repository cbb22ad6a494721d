package primary

import (
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

// A process frozen in a transaction keeps its locks for half a minute: the settings of a session say so, whatever the role's are.
func TestFrozenSessionsEnd(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, pgtest.Shared(t))
	p, err := New(dsn)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var limit string
	if err := conn.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&limit); err != nil || limit != "30s" {
		t.Errorf("a transaction may be idle for %s: %v", limit, err)
	}
}
