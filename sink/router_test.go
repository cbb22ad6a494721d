package sink

import (
	"errors"
	"testing"

	"go.uber.org/zap"

	"outflow/replication"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sink/external"
)

// routed is a router with a destination for each of the tenants a, b and c, and without a server.
type routed struct {
	*Router
	t     *testing.T
	next  int64
	table *wal.Relation
}

func newRouted(t *testing.T) *routed {
	t.Helper()
	table := tableOf(1, "t", "tenant", "id")
	table.Identity, table.Key = 'f', []int{0, 1}
	for i := range table.Columns {
		table.Columns[i].Identity = true
	}
	r := &routed{t: t, table: table, Router: NewRouter(Config{Options: DefaultOptions(),
		Tables: external.SourceTables{{Relation: table, Tenant: "tenant", Nullable: true}}, Acks: replication.NewAckTracker(0), Log: zap.NewNop(), Covered: 5})}
	for _, tenant := range []string{"a", "b", "c"} {
		if _, err := r.Add(external.DestinationSpec{Tenant: tenant, Name: "main", DSN: "postgres://u@127.0.0.1:1/none"}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// write writes a transaction of one part.
func (r *routed) write(changes ...wal.Change) error {
	r.t.Helper()
	r.next++
	ticket, _ := r.config.Acks.Begin(wal.LSN(r.next))
	for i := range changes {
		changes[i].Ordinal = uint32(i)
	}
	return r.Write(&wal.Transaction{SequenceID: r.next, CommitLSN: wal.LSN(r.next), XID: uint32(r.next), Ticket: ticket, Last: true, Session: 1, Changes: changes})
}

// queued are the changes queued at the destinations of tenants a, b and c.
func (r *routed) queued() (n [3]int64) {
	for i, tenant := range []string{"a", "b", "c"} {
		n[i] = r.tenants.find(tenant, "main").Status().QueuedChanges
	}
	return n
}

// row is a row of the table; the tenant "" is NULL.
func row(tenant, id string) wal.Tuple {
	values := []wal.Value{{Presence: wal.Text, Text: []byte(tenant)}, {Presence: wal.Text, Text: []byte(id)}}
	if tenant == "" {
		values[0] = wal.Value{Presence: wal.Null}
	}
	return wal.NewTuple(values)
}

func TestRouting(t *testing.T) {
	r := newRouted(t)
	insert := func(tenant string) wal.Change {
		return wal.Change{Kind: wal.Insert, Relation: r.table, New: row(tenant, "1")}
	}
	update := func(from, to string) wal.Change {
		return wal.Change{Kind: wal.Update, Relation: r.table, Old: row(from, "1"), New: row(to, "1")}
	}
	for _, step := range []struct {
		name    string
		changes []wal.Change
		want    [3]int64 // queued from then on
		skipped int64
	}{
		{"runs of one tenant's changes", []wal.Change{insert("a"), insert("a"), insert("b")}, [3]int64{2, 1, 0}, 0},
		{"a tenant without a destination", []wal.Change{insert("x")}, [3]int64{2, 1, 0}, 0},
		{"an update", []wal.Change{update("b", "b")}, [3]int64{2, 2, 0}, 0},
		{"a row that moves to another tenant is deleted here and inserted there", []wal.Change{update("b", "c")}, [3]int64{2, 3, 1}, 0},
		{"a delete", []wal.Change{{Kind: wal.Delete, Relation: r.table, Old: row("c", "1")}}, [3]int64{2, 3, 2}, 0},
		{"a TRUNCATE goes to every queue", []wal.Change{{Kind: wal.Truncate, Relation: r.table}}, [3]int64{3, 4, 3}, 0},
		{"a row without a tenant", []wal.Change{insert("")}, [3]int64{3, 4, 3}, 1},
		{"a row that gets a tenant", []wal.Change{update("", "a")}, [3]int64{4, 4, 3}, 1},
		{"a table that is not configured", []wal.Change{{Kind: wal.Insert, Relation: tableOf(9, "other", "tenant", "id"), New: row("a", "1")}}, [3]int64{4, 4, 3}, 1},
	} {
		if err := r.write(step.changes...); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := r.queued(); got != step.want {
			t.Errorf("%s: queued are %v; expected %v", step.name, got, step.want)
		}
		if got := r.TableStatus()[0].Skipped; got != step.skipped {
			t.Errorf("%s: %d changes are skipped; expected %d", step.name, got, step.skipped)
		}
	}
	if all := r.TableStatus(); len(all) != 2 || all[1].Skipped != 1 {
		t.Errorf("the tables are %+v", all)
	}
}

// A change that the router does not understand is a gap, unless every destination is copied from a later state of the tables.
func TestChangesNotUnderstood(t *testing.T) {
	r := newRouted(t)
	without := wal.Change{Kind: wal.Update, Relation: r.table, New: row("a", "1")} // FULL, and no row before
	if err := r.write(without); err != nil {
		t.Errorf("before the copies: %v", err)
	}
	r.next = 10
	gap := (*primary.Gap)(nil)
	if err := r.write(without); !errors.As(err, &gap) {
		t.Errorf("after the copies: %v", err)
	}
	if r.queued() != [3]int64{} {
		t.Errorf("queued are %v", r.queued())
	}
}

// Reading that is switched off stops between transactions, and not within one.
func TestFull(t *testing.T) {
	r := newRouted(t)
	r.shared.Gate.Hold(true)
	if r.Full() == nil {
		t.Error("the reader goes on")
	}
	r.arrival.inside = true
	if r.Full() != nil {
		t.Error("the reader stops within a transaction")
	}
}
