package tableread

import (
	"testing"
	"time"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// A primary that falls silent between the answer and the end of a read's transaction does not keep the reader: a look-up has one of few
// connections meanwhile, and its destination holds the slot.
func TestReadEndsOnASilentPrimary(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Shared(t)
	dsn := pgtest.Database(t, cluster)
	proxy, err := faultproxy.New(cluster.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	p, err := primary.New(proxy.DSN(dsn))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var oid uint32
	if _, err := conn.Exec(t.Context(), `CREATE TABLE public.item (tenant int, id int, PRIMARY KEY (tenant, id))`); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), `SELECT 'public.item'::regclass::oid`).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	rel := &wal.Relation{OID: oid, Schema: "public", Name: "item", Columns: []wal.Column{{Name: "tenant", TypeOID: 23}, {Name: "id", TypeOID: 23}}, Key: []int{0, 1}}
	began := time.Now()
	err = inMoment(t.Context(), NewTables(p), conn, Part{Relation: rel, Value: "1"}, func(*shape, wal.Snapshot) error {
		proxy.Stall(true)
		return nil
	})
	if took := time.Since(began); err != nil || took > 2*rollbackPatience {
		t.Errorf("it took %s: %v", took, err)
	}
	if !conn.IsClosed() {
		t.Error("the connection is kept")
	}
}
